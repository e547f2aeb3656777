"""Protects a server from us: refuses poolers, then sets the limits of a new session."""

from collections.abc import Mapping
from typing import Any

import asyncpg

from exporter.connections import text_codec
from exporter.connections.session import APPLICATION_NAME
from exporter.errors import ConnectError
from exporter.sql import tagged

PINNED = "pg_catalog"
"""The search_path of all but queries that ask for the role's own, so that they cannot be redirected."""

GUARD_RAILS = {
    "default_transaction_isolation": "'read committed'",
    "default_transaction_deferrable": "off",
    "application_name": f"'{APPLICATION_NAME}'",
    "default_transaction_read_only": "on",
    "lock_timeout": "'100ms'",
    "idle_in_transaction_session_timeout": "'10s'",
    "jit": "off",
    "search_path": PINNED,
    "max_parallel_workers_per_gather": "0",
    "work_mem": "'4MB'",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "extra_float_digits": "1",
    "DateStyle": "'ISO, MDY'",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "xmloption": "content",
}
"""Set with SET, so that a server that lacks a parameter still lets us in.

The last ten decide what a query means and how its text is written, and may have been set for our role. TimeZone stays:
only the text of a timestamptz depends on it, and own queries that ask for today mean the server's day.
"""

AT_LOGIN = {"lock_timeout": "100"}
"""Sent with the login, in milliseconds: it holds once the role is known, before the settings of role and database are
read, which may be locked. Until then PostgreSQL heeds no limit of ours."""

_LIMITS_SINCE = {0: "statement_timeout", 14: "idle_session_timeout", 17: "transaction_timeout"}
"""Time limits that may be set for our role, by the major version that brought them: off, as each query gets its own.

They go first, in a message of their own, since parsing a longer one may already take longer than they allow.
"""

_FAREWELL = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "'1s'",
}
"""So that a backend of ours ends soon after we are gone, also in the middle of a query; PostgreSQL 14 on Linux."""

_NAME = "session"
"""Name of the settings of a session in their comment, and so among the collectors in pg_stat_statements."""

_POOLER = (
    "a connection pooler answered: what a session sets there stays behind for the applications that share its"
    " backends. Name PostgreSQL itself in the DSN; a target of kind pgbouncer monitors the pooler"
)


async def protect(connection: Any) -> None:
    """Set what protects the server from us, without what an old or foreign server lacks; ConnectError for a pooler."""
    await _refuse_pooler(connection)
    rails = {**GUARD_RAILS, **text_codec.install(connection)}
    major = connection.get_server_version().major
    limits = {name: "0" for since, name in _LIMITS_SINCE.items() if major >= since}
    await connection.execute(assignments(limits))
    try:
        await connection.execute(assignments(rails | _FAREWELL))
    except (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError):
        await connection.execute(assignments(rails))


async def _refuse_pooler(connection: Any) -> None:
    """Refuse a login that was answered by another process than the one that runs our statements.

    PostgreSQL announces the process ID of the backend at login. PgBouncer, Odyssey and PgCat announce a number of their
    own, RDS Proxy none. The question is one simple query, whose limit ends with it: a prepared statement or a setting
    would stay behind on a shared backend, and without a limit the question waits while pg_namespace is locked.
    """
    pid = connection.get_server_pid()
    limit = tagged(f"SET LOCAL lock_timeout = {GUARD_RAILS['lock_timeout']}", _NAME)
    question = tagged(f"SELECT WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid}", _NAME)
    try:
        answer = await connection.execute(f"{limit}; {question}")
    except asyncpg.ProtocolViolationError:  # a console of PgBouncer knows its own commands only
        answer = ""
    if answer != "SELECT 1":
        raise ConnectError("pooler", _POOLER)


def assignments(values: Mapping[str, str]) -> str:
    """Write the SQL that sets parameters of a session, each statement with our comment."""
    return "; ".join(tagged(f"SET {name} = {value}", _NAME) for name, value in values.items())
