"""The only module that talks to PostgreSQL: connects with guard rails, learns facts, fetches rows."""

import asyncio
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asyncpg
from pydantic import SecretStr

from exporter.dsn import asyncpg_dsn
from exporter.errors import ConnectError, DatabaseError, QueryError, SettingsError
from exporter.names import Relation
from exporter.plan import Extension

APPLICATION_NAME = "pgvigil"

GUARD_RAILS = {
    "application_name": f"'{APPLICATION_NAME}'",
    "default_transaction_read_only": "on",
    "lock_timeout": "'100ms'",
    "idle_in_transaction_session_timeout": "'10s'",
    "jit": "off",
    "search_path": "pg_catalog",
    "max_parallel_workers_per_gather": "0",
    "work_mem": "'4MB'",
}
"""Set with SET in every session, since a connection pooler refuses them as start-up parameters."""

_PATIENCE_SECONDS = 1.0
"""How much longer than statement_timeout an answer may take before the server counts as hung."""


@dataclass(frozen=True)
class Vitals:
    """What every scrape asks first: an answer means that the server is up."""

    version: tuple[int, int]
    in_recovery: bool
    database: str


@dataclass(frozen=True)
class Directory:
    """The databases and roles of a server by oid, and which databases the role may connect to."""

    databases: Mapping[int, str]
    roles: Mapping[int, str]
    connectable: tuple[str, ...]


class Session:
    """One connection, behind guard rails. Whoever opened it closes it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._statement_timeout = 0.0

    async def fetch(self, sql: str, timeout: float, *args: Any) -> list[Any]:
        """Run one query and return the driver's records; QueryError says why there are none."""
        try:
            if timeout != self._statement_timeout:
                limit = f"SET statement_timeout = {max(1, round(timeout * 1000))}"
                await self._connection.execute(limit, timeout=_PATIENCE_SECONDS + timeout)
                self._statement_timeout = timeout
            rows: list[Any] = await self._connection.fetch(sql, *args, timeout=_PATIENCE_SECONDS + timeout)
        except (*_DRIVER_ERRORS, *_DECODE_ERRORS) as error:
            raise self._translated(error) from error
        return rows

    async def columns(self, sql: str) -> dict[str, str]:
        """Name the columns that a query would return, and their types, without running it."""
        try:
            statement = await self._connection.prepare(sql, timeout=_PATIENCE_SECONDS + 5)
        except _DRIVER_ERRORS as error:
            raise self._translated(error) from error
        return {attribute.name: attribute.type.name for attribute in statement.get_attributes()}

    async def vitals(self, timeout: float) -> Vitals:
        """Ask what the server is, reading no catalog that could be locked."""
        sql = (
            "SELECT current_setting('server_version_num')::int AS version,"
            " pg_is_in_recovery() AS in_recovery, current_database()::text AS database"
        )
        [row] = await self.fetch(sql, timeout)
        return Vitals(divmod(row["version"], 10000), row["in_recovery"], row["database"])

    async def directory(self, timeout: float) -> Directory:
        """Read the names of all databases and roles."""
        databases = await self.fetch(
            "SELECT oid, textsend(datname::text) AS name, datallowconn AND NOT datistemplate AND datconnlimit <> -2"
            " AND has_database_privilege(oid, 'CONNECT') AS connectable"
            " FROM pg_catalog.pg_database ORDER BY datname",
            timeout,
        )
        roles = await self.fetch("SELECT oid, textsend(rolname::text) AS name FROM pg_catalog.pg_roles", timeout)
        return Directory(
            {row["oid"]: row["name"].decode(errors="replace") for row in databases},
            {row["oid"]: row["name"].decode(errors="replace") for row in roles},
            tuple(name for row in databases if row["connectable"] and (name := _utf8(row["name"]))),
        )

    async def extensions(self, timeout: float) -> dict[str, Extension]:
        """List the extensions of this database with their versions and schemas."""
        rows = await self.fetch(
            "SELECT e.extname::text AS name, e.extversion::text AS version, n.nspname::text AS schema"
            " FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace",
            timeout,
        )
        return {r["name"]: Extension(tuple(map(int, re.findall(r"\d+", r["version"]))), r["schema"]) for r in rows}

    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Name some relations of this session's database, whose own oid is given."""
        rows = await self.fetch(
            "SELECT c.oid, n.nspname || '.' || c.relname AS name FROM pg_catalog.pg_class AS c"
            " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ANY($1::oid[])",
            timeout,
            sorted(oids),
        )
        return {(database, row["oid"]): row["name"] for row in rows}

    @property
    def usable(self) -> bool:
        """Tell whether the connection is still open, as far as this side knows."""
        return not self._connection.is_closed()

    async def close(self) -> None:
        """Say goodbye; a server that does not answer is not waited for."""
        try:
            await self._connection.close(timeout=_PATIENCE_SECONDS)
        except _DRIVER_ERRORS:
            self._connection.terminate()

    def terminate(self) -> None:
        """Drop the connection without a word."""
        self._connection.terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _translated(self, error: Exception) -> DatabaseError:
        """Say what happened; after a time-out on our side the connection is of no more use."""
        if isinstance(error, TimeoutError):
            self.terminate()
            return QueryError("connection", "the server does not answer: it is hung, or the network is cut")
        reason = _query_reason(error)
        if reason == "connection":
            self.terminate()
        return QueryError(reason, _sentence(error))


class Postgres:
    """One server, as its DSN names it: opens sessions."""

    def __init__(self, dsn: SecretStr, password_file: Path | None = None, connect_timeout: float = 3.0) -> None:
        self._dsn = asyncpg_dsn(dsn.get_secret_value())
        self._password_file = password_file
        self._connect_timeout = connect_timeout

    async def connect(self, database: str | None = None) -> Session:
        """Open a session behind guard rails, in the DSN's database or another; ConnectError says why there is none."""
        password = secret_in(self._password_file) if self._password_file else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await asyncpg.connect(
                    self._dsn,
                    database=database,
                    password=password,
                    timeout=self._connect_timeout,
                    statement_cache_size=200,
                    max_cached_statement_lifetime=0,
                    max_cacheable_statement_size=0,
                )
                await connection.execute("; ".join(f"SET {name} = {value}" for name, value in GUARD_RAILS.items()))
        except ssl.SSLError as error:
            raise ConnectError("authentication", self._without_secret(_sentence(error), password)) from error
        except (asyncpg.ClientConfigurationError, ValueError) as error:
            raise SettingsError(f"dsn: {self._without_secret(str(error), password)}") from None
        except _DRIVER_ERRORS as error:
            raise ConnectError(_connect_reason(error), self._without_secret(_sentence(error), password)) from error
        return Session(connection)

    def _without_secret(self, message: str, password: str | None) -> str:
        """Take any password out of a driver's message."""
        found = re.search(r"password=([^&]+)|://[^:/@]*:([^@]+)@", self._dsn)
        for secret in filter(None, (password, *(found.groups() if found else ()))):
            message = message.replace(secret, "***")
        return message


def _utf8(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None  # made in a database of another encoding: no client of ours can ask for it


def secret_in(file: Path) -> str:
    """Read a secret from a file, less the newline at its end; SettingsError when it cannot be read."""
    try:
        return file.read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error


_DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)

_DECODE_ERRORS = (ValueError, OverflowError)
"""What a codec raises for a value that Python has no counterpart for: bytes that are no UTF-8, the year 20000."""

_QUERY_REASONS = {
    "57014": "timeout",
    "55P03": "lock_timeout",
    "42501": "permission",
    "57P01": "connection",
    "57P02": "connection",
    "57P03": "connection",
    "57P04": "connection",
    "57P05": "connection",
}

_CONNECT_REASONS = {
    "28000": "authentication",
    "28P01": "authentication",
    "42501": "authentication",
    "53300": "too_many_connections",
    "57P01": "shutting_down",
    "57P02": "shutting_down",
    "57P03": "starting_up",
    "40001": "recovery_conflict",
}


def _query_reason(error: Exception) -> str:
    """Put a driver's error into one word of `QUERY_REASONS`."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return "connection" if isinstance(error, OSError | EOFError | asyncpg.InterfaceError) else "query"
    return "connection" if state.startswith("08") else _QUERY_REASONS.get(state, "query")


def _connect_reason(error: Exception) -> str:
    """Put a driver's error into one word of `CONNECT_REASONS`."""
    state = getattr(error, "sqlstate", None)
    if state == "57P03" and "shutting down" in str(error):
        return "shutting_down"
    if state is not None:
        return _CONNECT_REASONS.get(state, "unreachable" if state.startswith("08") else "other")
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError) or "Connect call failed" in str(error):
        return "refused"
    return "unreachable" if isinstance(error, OSError) else "other"


def _sentence(error: Exception) -> str:
    """Say a driver's error in one line, without the statement or the values that caused it."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    state = getattr(error, "sqlstate", None)
    return f"{message.splitlines()[0]} (SQLSTATE {state})" if state else message.splitlines()[0]
