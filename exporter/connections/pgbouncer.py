"""The only module that talks to PgBouncer: connects to its admin console, shows what collectors ask for."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from exporter.catalog.model import Kind
from exporter.connections.console_sql import Shown, Value, commands, rows
from exporter.connections.session import APPLICATION_NAME, Answer, Directory, Session, Stuck, Vitals, secret_in
from exporter.errors import ConnectError, ConnectReason, DatabaseError, QueryError, SettingsError
from exporter.planning.oid_names import Relation
from exporter.planning.server import Extension

DATABASE = "pgbouncer"
"""The name under which PgBouncer's console is a database."""

_DEFAULTS = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""So that a connection whose other end is gone without a word is found out; a DSN may say otherwise."""

_PATIENCE_WITH_VITALS_SECONDS = 3.0

_MOST_CHARACTERS = 500

_NUMBERS = {20, 21, 23, 1700}
"""The oids of bigint, smallint, integer and numeric, which the console has whole numbers in."""

_CONNECT_REASONS: Mapping[ConnectReason, str] = {
    "too_many_connections": r"max_\w*client_conn|too many",
    "shutting_down": r"shutting down|shut down",
    "refused": r"connection refused|no such file or directory",
    "authentication": r"auth|password|no such user|not allowed|login|ssl|tls|certificate|scram",
    "timeout": r"time.?out|timed out",
    "unreachable": r"resolve|translate host|unreachable|no route|unexpectedly|reset by peer",
}
"""What PgBouncer, libpq or the system says; libpq tells no SQLSTATE of a login that failed."""


class Console(Session):
    """One connection to the console. It takes simple queries only, which asyncpg has no rows of."""

    _errors = (psycopg.Error, OSError)

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__()
        self._connection = connection
        self._closed = False
        self.pid = connection.pgconn.backend_pid
        self.user = connection.info.user

    async def fetch(
        self, sql: str, timeout: float, *args: Any, patience: float | None = None, search_path: str = ""
    ) -> Answer:
        """Have shown what a query names, and run it on that; the console answers at once or hangs."""
        give_up = time.monotonic() + (timeout if patience is None else patience)
        shown = {name: await self.show(name, give_up - time.monotonic()) for name in commands(sql)}
        return Answer(rows(sql, shown, timeout))

    async def show(self, name: str, patience: float) -> Shown:
        """Run one SHOW command."""
        answer: Shown = await self._answered(
            f"SHOW {name.upper()}", self._ask(f"SHOW {name.upper()}"), max(patience, 0.0)
        )
        return answer

    async def vitals(self, timeout: float) -> Vitals:
        """Ask which version it is."""
        asked_at = time.monotonic()
        shown = await self.show("version", _PATIENCE_WITH_VITALS_SECONDS)
        found = re.search(r"PgBouncer (\d+)\.(\d+)", str(shown.rows[0][0])) if shown.rows else None
        if not found:
            raise QueryError("query", "SHOW VERSION names no PgBouncer of 1.12 or newer")
        return Vitals((int(found[1]), int(found[2])), False, DATABASE, 0, time.monotonic() - asked_at)

    async def directory(self, timeout: float) -> Directory:
        """Name no databases: there is one console for all."""
        return Directory({}, {}, ())

    async def extensions(self, timeout: float) -> dict[str, Extension]:
        """Name no extensions."""
        return {}

    async def has_tables(self, timeout: float) -> bool:
        """Return that nothing has to be waited for."""
        return True

    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Name no relations."""
        return {}

    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Know them gone: PgBouncer sees that a client has left as soon as it does anything."""
        return set()

    def _is_closed(self) -> bool:
        return self._closed or self._connection.pgconn.status == pq.ConnStatus.BAD

    async def close(self) -> None:
        """Say goodbye."""
        self.terminate()

    def terminate(self) -> None:
        """Close the connection, once nobody waits for its socket any more."""
        self._closed = True
        if isinstance(self.state, Stuck):
            self.state.answer.add_done_callback(lambda _: self._connection.pgconn.finish())
            self.state.answer.cancel()
        else:
            self._connection.pgconn.finish()

    async def _ask(self, command: str) -> Shown:
        wire = self._connection.pgconn
        wire.send_query(command.encode())
        while wire.flush():
            await _writable(wire.socket)
        results = [result async for result in _results(wire)]
        if any(result.status == pq.ExecStatus.FATAL_ERROR for result in results):
            message = results[0].error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no reason given"
            text = message.decode(errors="replace")[:_MOST_CHARACTERS]
            raise QueryError("permission" if "admin access" in text else "query", text)
        return _shown(results[0])

    def _translated(self, error: Exception) -> DatabaseError:
        self.terminate()
        return QueryError("connection", _sentence(error))


async def _results(wire: pq.abc.PGconn) -> Any:
    """Read results until there are no more; who stops waiting leaves the connection as it is."""
    while True:
        while wire.is_busy():
            await _readable(wire.socket)
            wire.consume_input()
        if (result := wire.get_result()) is None:
            return
        yield result


async def _readable(socket: int) -> None:
    loop = asyncio.get_running_loop()
    await _called(lambda call: loop.add_reader(socket, call), lambda: loop.remove_reader(socket))


async def _writable(socket: int) -> None:
    loop = asyncio.get_running_loop()
    await _called(lambda call: loop.add_writer(socket, call), lambda: loop.remove_writer(socket))


async def _called(begin: Callable[[Callable[[], None]], object], end: Callable[[], object]) -> None:
    ready = asyncio.Event()
    begin(ready.set)
    try:
        await ready.wait()
    finally:
        end()


def _shown(result: pq.abc.PGresult) -> Shown:
    columns = range(result.nfields)
    numbers = [result.ftype(column) in _NUMBERS for column in columns]
    return Shown(
        tuple((result.fname(column) or b"").decode(errors="replace") for column in columns),
        tuple(
            tuple(_value(result.get_value(row, column), numbers[column]) for column in columns)
            for row in range(result.ntuples)
        ),
    )


def _value(found: bytes | None, number: bool) -> Value:
    if found is None:
        return None
    return int(found) if number else bytes(found).decode(errors="replace")


class PgBouncer:
    """One PgBouncer, as its DSN names it, or a file that holds the DSN. Files are read anew for each session."""

    kind: Kind = "pgbouncer"

    def __init__(self, dsn: SecretStr | Path, password_file: Path | None = None, connect_timeout: float = 3.0) -> None:
        self._dsn = dsn
        self._password_file = password_file
        self.connect_timeout = connect_timeout
        self._parameters()

    @property
    def address(self) -> str:
        """Host and port as log lines name the server."""
        parameters = self._parameters()
        return f"{parameters.get('host', 'localhost')}:{parameters.get('port', '6432')}"

    async def connect(self, database: str | None = None, timeout: float | None = None) -> Console:
        """Open a session on the console; ConnectError says why there is none."""
        parameters = self._parameters()
        if self._password_file:
            parameters["password"] = secret_in(self._password_file)
        try:
            async with asyncio.timeout(self.connect_timeout if timeout is None else timeout):
                return Console(await psycopg.AsyncConnection.connect(autocommit=True, **parameters))
        except TimeoutError as error:
            raise ConnectError("timeout", "no login in time") from error
        except (psycopg.Error, OSError) as error:
            message = _sentence(error)
            if secret := parameters.get("password"):
                message = message.replace(secret, "***")
            raise ConnectError(_connect_reason(message), message) from None

    def _parameters(self) -> dict[str, Any]:
        """Read what the DSN says; libpq adds what `PG*` variables, service files and .pgpass say."""
        parameters = _read(secret_in(self._dsn) if isinstance(self._dsn, Path) else self._dsn.get_secret_value())
        if parameters.get("dbname", DATABASE) != DATABASE:
            raise SettingsError(f"dsn: PgBouncer's console is the database {DATABASE}; name that one, or none")
        return {**_DEFAULTS, **parameters, "dbname": DATABASE, "application_name": APPLICATION_NAME}


def _read(dsn: str) -> dict[str, str]:
    """Read a connection string; what is wrong with it is never repeated, since it may be part of a password."""
    try:
        parameters = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.Error:
        parameters = {"port": "unreadable"}
    if "@" in parameters.get("host", "") or not re.fullmatch(r"[\d,]*", parameters.get("port", "")):
        raise SettingsError(
            "dsn: write postgresql://user@host:6432/pgbouncer, or host=... port=6432 user=..., with the characters"
            " / ? # @ [ ] of a password in a URI as %2F %3F %23 %40 %5B %5D"
        )
    return parameters


def _connect_reason(message: str) -> ConnectReason:
    """Classify a failed login by its message."""
    for reason, pattern in _CONNECT_REASONS.items():
        if re.search(pattern, message, re.IGNORECASE):
            return reason
    return "other"


def _sentence(error: Exception) -> str:
    """Say a driver's error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_MOST_CHARACTERS]
