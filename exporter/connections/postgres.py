"""The only module that talks to PostgreSQL: connects with guard rails, learns facts, fetches rows."""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import SecretStr

from exporter.catalog.model import Kind
from exporter.connections.dsn import address_of, asyncpg_dsn
from exporter.connections.guard_rails import FAREWELL, GUARD_RAILS, LIMITS_SINCE, PINNED
from exporter.connections.session import APPLICATION_NAME, Answer, Directory, Session, Vitals, secret_in
from exporter.errors import ConnectError, ConnectReason, DatabaseError, QueryError, QueryReason, SettingsError
from exporter.planning.oid_names import Relation
from exporter.planning.server import Extension
from exporter.sql import signed

_PATHS = {PINNED: PINNED, "role": "DEFAULT"}

_PATIENCE_SECONDS = 1.0
"""How much longer than statement_timeout an answer may take before the server counts as hung."""

_PATIENCE_WITH_VITALS_SECONDS = 3.0

_MOST_CHARACTERS = 500
"""Of a server's message, which may repeat whatever a query brought up."""


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


class PostgresSession(Session):
    """One connection to PostgreSQL, behind guard rails."""

    _errors = (*_DRIVER_ERRORS, *_DECODE_ERRORS)

    def __init__(
        self, connection: Any, login_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._connection = connection
        self.login_seconds = login_seconds
        self.pid: int = connection.get_server_pid()
        self._set: dict[str, str] = {"search_path": PINNED}
        self._prepared: set[str] = set()

    async def fetch(
        self, sql: str, timeout: float, *args: Any, patience: float | None = None, search_path: str = PINNED
    ) -> Answer:
        """Run one query; the server ends it after the timeout."""
        patience = timeout + _PATIENCE_SECONDS if patience is None else patience
        wanted = {"statement_timeout": str(max(1, round(timeout * 1000))), "search_path": _PATHS[search_path]}
        changed = {name: value for name, value in wanted.items() if self._set.get(name) != value}
        if changed:
            await self._change(changed, patience)
        round_trips = 1 + (sql not in self._prepared) + bool(changed)
        rows: list[Any] = await self._answered(sql, self._connection.fetch(sql, *args), patience)
        self._prepared.add(sql)
        return Answer(rows, round_trips)

    async def columns(self, sql: str, search_path: str = PINNED) -> dict[str, str]:
        """Name the columns that a query would return, and their types, without running it."""
        if self._set.get("search_path") != (path := _PATHS[search_path]):
            await self._change({"search_path": path}, 5.0 + _PATIENCE_SECONDS)
        statement = await self._answered(sql, self._connection.prepare(sql), 5.0 + _PATIENCE_SECONDS)
        return {attribute.name: attribute.type.name for attribute in statement.get_attributes()}

    async def _change(self, values: Mapping[str, str], patience: float) -> None:
        """Change what the session is set to; until the server has confirmed it, nothing is known of it."""
        for name in values:
            self._set.pop(name, None)
        await self._answered(_set(values), self._connection.execute(_set(values)), patience)
        self._set |= values

    async def vitals(self, timeout: float) -> Vitals:
        """Ask what the server is, reading no catalog that could be locked."""
        sql = (
            "SELECT current_setting('server_version_num')::int AS version,"
            " pg_is_in_recovery() AS in_recovery, current_database()::text AS database,"
            " (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid())) AS role"
        )
        asked_at = self._clock()
        answer = await self.fetch(signed(sql, "vitals"), timeout, patience=_PATIENCE_WITH_VITALS_SECONDS)
        round_trip = (self._clock() - asked_at) / answer.round_trips
        if len(answer.rows) != 1:
            raise QueryError("query", f"the server answered a question of one row with {len(answer.rows)}")
        [row] = answer.rows
        return Vitals(divmod(row["version"], 10000), row["in_recovery"], row["database"], row["role"] or 0, round_trip)

    async def directory(self, timeout: float) -> Directory:
        """Read the names of all databases and roles."""
        databases = await self.rows(
            "SELECT oid, textsend(datname::text) AS name,"
            " datallowconn AND NOT datistemplate AND datconnlimit <> -2"
            " AND has_database_privilege(oid, 'CONNECT') AS connectable"
            " FROM pg_catalog.pg_database ORDER BY datname /* pgvigil:directory */",
            timeout,
        )
        roles = await self.rows(
            "SELECT oid, textsend(rolname::text) AS name FROM pg_catalog.pg_roles /* pgvigil:directory */", timeout
        )
        return Directory(
            {row["oid"]: row["name"].decode(errors="replace") for row in databases},
            {row["oid"]: row["name"].decode(errors="replace") for row in roles},
            tuple(name for row in databases if row["connectable"] and (name := _utf8(row["name"]))),
        )

    async def extensions(self, timeout: float) -> dict[str, Extension]:
        """List the extensions of this database with their versions and schemas."""
        rows = await self.rows(
            "SELECT e.extname::text AS name, e.extversion::text AS version, n.nspname::text AS schema"
            " FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace"
            " /* pgvigil:extensions */",
            timeout,
        )
        return {r["name"]: Extension(tuple(map(int, re.findall(r"\d+", r["version"]))), r["schema"]) for r in rows}

    async def has_tables(self, timeout: float) -> bool:
        """Return whether this database has a permanent user table, materialized view or sequence."""
        rows = await self.rows(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'm', 'S')"
            " AND relpersistence <> 't')"
            " AS has_tables /* pgvigil:has_tables */",
            timeout,
        )
        return bool(rows[0]["has_tables"])

    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Name some relations of this session's database, whose own oid is given."""
        rows = await self.rows(
            "SELECT c.oid, n.nspname || '.' || c.relname AS name FROM pg_catalog.pg_class AS c"
            " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ANY($1::oid[])"
            " /* pgvigil:relations */",
            timeout,
            sorted(oids),
        )
        return {(database, row["oid"]): row["name"] for row in rows}

    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Terminate those of our own backends that we no longer talk to, and say which of them were still there."""
        rows = await self.rows(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)"
            " WHERE pid::oid = ANY($1::oid[]) AND application_name = $2 /* pgvigil:end_abandoned */",
            timeout,
            sorted(pids),
            APPLICATION_NAME,
        )
        return {row["pid"] for row in rows}

    def _is_closed(self) -> bool:
        return bool(self._connection.is_closed())

    async def close(self) -> None:
        """Say goodbye; a server that does not answer is not waited for."""
        if self.is_stuck:
            self.terminate()
            return
        try:
            await self._connection.close(timeout=_PATIENCE_SECONDS)
        except _DRIVER_ERRORS:
            self.terminate()

    def terminate(self) -> None:
        """Drop the connection without a word."""
        self._connection.terminate()

    def _translated(self, error: Exception) -> DatabaseError:
        """Say what happened; a connection that is lost is closed on this side as well."""
        reason = _query_reason(error)
        if reason == "connection":
            self.terminate()
        return QueryError(reason, _sentence(error))


class Postgres:
    """One server, as its DSN names it, or a file that holds the DSN: opens sessions. Files are read anew each time."""

    kind: Kind = "postgresql"

    def __init__(self, dsn: SecretStr | Path, password_file: Path | None = None, connect_timeout: float = 3.0) -> None:
        self._file = dsn if isinstance(dsn, Path) else None
        self._dsn = asyncpg_dsn(secret_in(dsn) if isinstance(dsn, Path) else dsn.get_secret_value())
        self._password_file = password_file
        self.connect_timeout = connect_timeout

    @property
    def address(self) -> str:
        """Host and port as log lines name the server."""
        return address_of(self._dsn)

    async def connect(self, database: str | None = None, timeout: float | None = None) -> PostgresSession:
        """Open a session behind guard rails, in the DSN's database or another; ConnectError says why there is none."""
        timeout = self.connect_timeout if timeout is None else timeout
        started = time.monotonic()
        password = secret_in(self._password_file) if self._password_file else None
        if self._file:
            self._dsn = asyncpg_dsn(secret_in(self._file))
        try:
            async with asyncio.timeout(timeout):
                connection = await asyncpg.connect(
                    self._dsn,
                    database=database,
                    password=password,
                    timeout=timeout,
                    statement_cache_size=200,
                    max_cached_statement_lifetime=0,
                    max_cacheable_statement_size=0,
                )
                try:
                    await _set_guard_rails(connection)
                except BaseException:
                    connection.terminate()
                    raise
        except ssl.SSLError as error:
            raise ConnectError("authentication", self._without_secret(_sentence(error), password)) from error
        except (asyncpg.ClientConfigurationError, ValueError) as error:
            raise SettingsError(f"dsn: {self._without_secret(str(error), password)}") from None
        except _DRIVER_ERRORS as error:
            raise ConnectError(_connect_reason(error), self._without_secret(_sentence(error), password)) from error
        return PostgresSession(connection, time.monotonic() - started)

    def _without_secret(self, message: str, password: str | None) -> str:
        """Take any password out of a driver's message."""
        found = re.search(r"password=([^&]+)|://[^:/@]*:([^@]+)@", self._dsn)
        for secret in filter(None, (password, *(found.groups() if found else ()))):
            message = message.replace(secret, "***")
        return message


async def _set_guard_rails(connection: Any) -> None:
    """Set what protects the server from us; what an old or foreign server does not know of it, is left out."""
    major = connection.get_server_version().major
    await connection.execute(_set({name: "0" for since, name in LIMITS_SINCE.items() if major >= since}))
    try:
        await connection.execute(_set(GUARD_RAILS | FAREWELL))
    except (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError):
        await connection.execute(_set(GUARD_RAILS))


def _set(values: Mapping[str, str]) -> str:
    return "; ".join(f"SET {name} = {value}" for name, value in values.items())


def _utf8(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None  # made in a database of another encoding: no client of ours can ask for it


_QUERY_REASONS: Mapping[str, QueryReason] = {
    "57014": "timeout",
    "55P03": "lock_timeout",
    "42501": "permission",
    "57P01": "connection",
    "57P02": "connection",
    "57P03": "connection",
    "57P04": "connection",
    "57P05": "connection",
}

_CONNECT_REASONS: Mapping[str, ConnectReason] = {
    "28000": "authentication",
    "28P01": "authentication",
    "42501": "authentication",
    "53300": "too_many_connections",
    "57P01": "shutting_down",
    "57P02": "shutting_down",
    "57P03": "starting_up",
    "40001": "recovery_conflict",
}


def _query_reason(error: Exception) -> QueryReason:
    """Classify a driver's error."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return "connection" if isinstance(error, OSError | EOFError | asyncpg.InterfaceError) else "query"
    return "connection" if state.startswith("08") else _QUERY_REASONS.get(state, "query")


def _connect_reason(error: Exception) -> ConnectReason:
    """Classify a driver's error at login."""
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
    line = message.splitlines()[0][:_MOST_CHARACTERS]
    return f"{line} (SQLSTATE {state})" if state else line
