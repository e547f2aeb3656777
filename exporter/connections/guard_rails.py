"""The settings of every PostgreSQL session: what protects the server from us."""

from collections.abc import Mapping
from typing import Any

import asyncpg

from exporter.connections.session import APPLICATION_NAME

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
}
"""Set with SET in every session, since a connection pooler refuses them as start-up parameters."""


_LIMITS_SINCE = {0: "statement_timeout", 14: "idle_session_timeout", 17: "transaction_timeout"}
"""Time limits that may be set for our role, by the major version that brought them: off, as each query gets its own.

They are set first, before they strike; each query sets the statement_timeout of its own (connections.postgres).
"""


_FAREWELL = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "'1s'",
}
"""So that a backend of ours ends soon after we are gone, also in the middle of a query; PostgreSQL 14 on Linux."""


async def set_guard_rails(connection: Any) -> None:
    """Set what protects the server from us; what an old or foreign server does not know of it, is left out."""
    major = connection.get_server_version().major
    limits = {name: "0" for since, name in _LIMITS_SINCE.items() if major >= since}
    try:
        await connection.execute(set_sql(limits | GUARD_RAILS | _FAREWELL))
    except (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError):
        await connection.execute(set_sql(limits | GUARD_RAILS))


def set_sql(values: Mapping[str, str]) -> str:
    """Write the SET statements of some settings; the values are SQL."""
    return "; ".join(f"SET {name} = {value}" for name, value in values.items())
