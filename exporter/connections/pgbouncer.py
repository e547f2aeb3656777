"""The only module that talks to PgBouncer: connects to its admin console, shows what collectors ask for."""

import asyncio
import errno
import os
import re
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import generators, pq, waiting
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from exporter.catalog.model import Kind
from exporter.connections.addresses import Addresses
from exporter.connections.console_sql import Shown, Value, commands, rows
from exporter.connections.driver_arguments import home
from exporter.connections.driver_errors import OUT_OF_FILES, connect_reason, sentence
from exporter.connections.off_loop import HANGING_FILE, PATIENCE, OffLoop
from exporter.connections.session import (
    APPLICATION_NAME,
    LONGEST_SILENCE_SECONDS,
    MOST_ROWS,
    Answer,
    Asked,
    Directory,
    Session,
    Stuck,
    Vitals,
    secret_in,
)
from exporter.errors import (
    ConnectError,
    ConnectReason,
    DatabaseError,
    ExcessError,
    QueryError,
    QueryReason,
    SettingsError,
)
from exporter.planning.label_columns import LabelColumns
from exporter.planning.oid_names import Relation
from exporter.planning.server import Extension

DATABASE = "pgbouncer"
"""The database name that PgBouncer gives its admin console."""

_DEFAULTS = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""libpq's parameters that detect a dead connection within half a minute; a DSN may override them."""

_VITALS_TIMEOUT_SECONDS = 3.0
"""Upper bound on SHOW VERSION: the console answers from memory, so a longer wait means that it hangs."""

_POLL_SECONDS = 1.0
"""Interval at which psycopg checks a silent socket again, beside the wake-up when data arrives."""

_MESSAGE_CHARACTERS = 500
"""Upper bound on a message of PgBouncer or libpq, in characters."""

_INTEGER_OIDS = {20, 21, 23, 1700}
"""bigint, smallint, integer and numeric: the console has whole numbers in all of them."""

_ADMIN_ONLY = "admin access"
"""Words of the message that refuses a command to a user who is not in admin_users."""

_SYSTEM_REASONS: Mapping[int, ConnectReason] = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ECONNRESET: "unreachable",
    **dict.fromkeys(OUT_OF_FILES, "out_of_files"),
}
"""Reason by error number; libpq hands on its text only."""

_LOGIN_REASONS: Mapping[ConnectReason, str] = {
    "too_many_connections": r"max_\w*client_conn|too many",
    "shutting_down": r"shutting down|shut down",
    "timeout": r"time.?out",
    "authentication": r"auth|password|no such user|not allowed|login|ssl|tls|certificate|scram",
    "unreachable": r"closed the connection unexpectedly",
}
"""Reason by words of PgBouncer or libpq.

PgBouncer 1.18 and 1.26 refuse every login and every command with SQLSTATE 08P01, and libpq hands on no SQLSTATE of a
failed login: the words are the only difference.
"""


class Console(Session):
    """One connection to the console. It takes the simple query protocol only, of which asyncpg returns no rows."""

    _errors = (psycopg.Error, OSError)

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__()
        self._connection = connection
        self._closed = False
        self.pid = connection.pgconn.backend_pid
        self.user = connection.info.user

    async def fetch(
        self,
        sql: str,
        timeout: float,
        *args: Any,
        patience: float | None = None,
        search_path: str = "",
        most_rows: int = MOST_ROWS,
        labels: LabelColumns | None = None,
    ) -> Answer:
        """Run the SHOW commands that a query names, then the query on their answers."""
        give_up = time.monotonic() + (timeout if patience is None else patience)
        shown = {name: await self.show(name, give_up - time.monotonic()) for name in commands(sql)}
        found = rows(sql, shown, timeout, most_rows + 1)
        return Answer(found[:most_rows], is_cut=len(found) > most_rows)

    async def show(self, name: str, patience: float) -> Shown:
        """Run one SHOW command."""
        command = f"SHOW {name.upper()}"
        answer: Shown = await self._answered(command, self._ask(command), max(patience, 0.0))
        return answer

    async def vitals(self, timeout: float) -> Vitals:
        """Read the version of PgBouncer."""
        asked_at = time.monotonic()
        shown = await self.show("version", _VITALS_TIMEOUT_SECONDS)
        found = re.search(r"PgBouncer (\d+)\.(\d+)", str(shown.rows[0][0])) if shown.rows else None
        if not found:
            raise QueryError("query", "SHOW VERSION names no PgBouncer of 1.12 or newer")
        return Vitals((int(found[1]), int(found[2])), False, DATABASE, 0, time.monotonic() - asked_at)

    async def directory(self, timeout: float) -> Directory:
        """Return no databases: one console serves all of them."""
        return Directory({}, {}, ())

    async def extensions(self, timeout: float) -> dict[str, Extension]:
        """Return no extensions."""
        return {}

    async def has_tables(self, timeout: float) -> bool:
        """Return True: no collector has to wait for tables."""
        return True

    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Return no relations."""
        return {}

    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Return no process ids: PgBouncer drops a client that has left as soon as it runs again."""
        return set()

    def _is_closed(self) -> bool:
        return self._closed or self._connection.closed

    async def close(self) -> None:
        """Close the connection."""
        self.terminate()

    def terminate(self) -> None:
        """Close the connection, after the event loop has let go of its socket.

        psycopg's own close and cancel are not used: to cancel a query it opens a second connection.
        """
        self._closed = True
        wire = self._connection.pgconn
        if isinstance(self._state, Asked | Stuck) and not self._state.answer.done():
            self._state.answer.add_done_callback(lambda _: wire.finish())
            self._state.answer.cancel()
        else:
            wire.finish()

    async def _ask(self, command: str) -> Shown:
        """Send one command by the simple query protocol and wait for its result.

        These are the steps of `AsyncConnection.execute`, less its reaction to a cancelled wait: a request to cancel
        the query, which takes a second connection.
        """
        wire = self._connection.pgconn
        try:
            wire.send_query(command.encode())
            wire.set_single_row_mode()
            return await waiting.wait_async(self._rows(wire), wire.socket, _POLL_SECONDS)
        except asyncio.CancelledError:
            if self._closed:
                raise psycopg.OperationalError("the connection was closed on this side") from None
            raise
        except ExcessError:
            self.terminate()
            raise
        except ValueError as error:
            self.terminate()
            raise QueryError("query", f"{command} returned a number that is none") from error

    def _rows(self, wire: pq.abc.PGconn) -> Generator[Any, Any, Shown]:
        """Read an answer row by row, so that one without an end is noticed; libpq would collect all of it."""
        columns: tuple[str, ...] = ()
        found: list[tuple[Value, ...]] = []
        refusal: QueryError | None = None
        yield from generators.send(wire)
        while (result := (yield from generators.fetch(wire))) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                refusal = refusal or self._refusal(result)
                continue
            part = _shown(result)
            columns = columns or part.columns
            found += part.rows
            if len(found) > MOST_ROWS:
                raise ExcessError(f"the console sends more than {MOST_ROWS} rows")
        if refusal:
            raise refusal
        return Shown(columns, tuple(found))

    def _refusal(self, result: pq.abc.PGresult) -> QueryError:
        message = result.get_error_message().strip()[:_MESSAGE_CHARACTERS]
        reason: QueryReason = "permission" if _ADMIN_ONLY in message else "query"
        return QueryError("connection" if self.is_lost else reason, message)

    def _translated(self, error: Exception) -> DatabaseError:
        self.terminate()
        return QueryError("connection", _sentence(error))


def _shown(result: pq.abc.PGresult) -> Shown:
    columns = range(result.nfields)
    numbers = [result.ftype(column) in _INTEGER_OIDS for column in columns]
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
    """One PgBouncer, given by a DSN or by a file that holds one. Each session reads the files again."""

    kind: Kind = "pgbouncer"

    def __init__(self, dsn: SecretStr | Path, password_file: Path | None = None, connect_timeout: float = 3.0) -> None:
        self._dsn = dsn
        self._password_file = password_file
        self.connect_timeout = connect_timeout
        self._off_loop = OffLoop()
        self._addresses = Addresses(self._off_loop)
        self._parameters()

    @property
    def address(self) -> str:
        """Host and port as log lines name the server."""
        parameters = self._parameters()
        return f"{parameters.get('host', 'localhost')}:{parameters.get('port', '6432')}"

    async def connect(self, database: str | None = None, timeout: float | None = None) -> Console:
        """Open a session on the console; ConnectError says why there is none."""
        parameters = await self._known_now()
        try:
            async with asyncio.timeout(self.connect_timeout if timeout is None else timeout):
                parameters |= await self._resolved(parameters)
                return Console(await psycopg.AsyncConnection.connect(autocommit=True, **parameters))
        except TimeoutError as error:
            raise ConnectError("timeout", str(error) or "no login in time") from error
        except OSError as error:
            raise ConnectError(connect_reason(error), sentence(error)) from error
        except psycopg.Error as error:
            message = _sentence(error)
            if secret := parameters.get("password"):
                message = message.replace(secret, "***")
            raise ConnectError(_connect_reason(error), message) from None

    async def log_in(self, database: str | None = None) -> Console:
        """Open a session, and wait long for it."""
        return await self.connect(database, LONGEST_SILENCE_SECONDS)

    async def _known_now(self) -> dict[str, Any]:
        """Read the DSN and the password off the loop, and ahead of libpq what it reads."""

        def read() -> dict[str, Any]:
            parameters = self._parameters()
            if self._password_file:
                parameters["password"] = secret_in(self._password_file, "password_file")
            _read_ahead(parameters)
            return parameters

        try:
            return await self._off_loop.call("a file of the connection", read, PATIENCE * self.connect_timeout)
        except TimeoutError as error:
            raise SettingsError(f"{error}. {HANGING_FILE}") from None

    async def _resolved(self, parameters: dict[str, Any]) -> dict[str, str]:
        """Return parameters of libpq with the addresses of the hosts; OSError when none has any."""
        hosts = str(parameters.get("host", "")).split(",")
        ports = str(parameters.get("port", "")).split(",")
        if "hostaddr" in parameters or any(not host or host.startswith(("/", "@")) for host in hosts):
            return {}
        found: list[tuple[str, str, str]] = []
        failure: OSError | None = None
        for i, host in enumerate(hosts):
            try:
                addresses = await self._addresses.of(host, PATIENCE * self.connect_timeout)
            except OSError as error:
                failure = error
            else:
                found += [(host, address, ports[i] if len(ports) > 1 else ports[0]) for address in addresses]
        if not found and failure:
            raise failure
        return dict(zip(("host", "hostaddr", "port"), map(",".join, zip(*found, strict=True)), strict=True))

    async def is_answering(self) -> bool:
        """Return False: the console answers from memory, and a login that is silent is waited for."""
        return False

    def _parameters(self) -> dict[str, Any]:
        """Read the DSN; libpq adds `PG*` variables, service files and .pgpass."""
        parameters = _read(
            secret_in(self._dsn, "dsn_file") if isinstance(self._dsn, Path) else self._dsn.get_secret_value()
        )
        if parameters.get("dbname", DATABASE) != DATABASE:
            raise SettingsError(f"dsn: PgBouncer's console is the database {DATABASE}; name that one, or none")
        return {**_DEFAULTS, **parameters, "dbname": DATABASE, "application_name": APPLICATION_NAME}


def _read_ahead(parameters: Mapping[str, Any]) -> None:
    """Read the files that libpq would read on the event loop, since the mount that they are on may hang."""
    for file in (
        parameters.get("passfile") or os.environ.get("PGPASSFILE") or home() / ".pgpass",
        os.environ.get("PGSERVICEFILE") or home() / ".pg_service.conf",
        *(parameters.get(name) for name in ("sslcert", "sslkey", "sslrootcert", "sslcrl")),
    ):
        path = Path(file or "")
        if path.is_file() and os.access(path, os.R_OK):
            path.read_bytes()


def _read(dsn: str) -> dict[str, str]:
    """Parse a connection string. Errors never quote it, since any part may belong to a password."""
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


def _connect_reason(error: psycopg.Error) -> ConnectReason:
    """Return the reason for a failed login: by type, error number, words, protocol."""
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return "timeout"
    message, wire = _sentence(error), error.pgconn
    if wire is None:  # before any connection: no address for the host, or parameters that libpq refuses
        return "unreachable" if isinstance(error, psycopg.OperationalError) else "other"
    for number, reason in _SYSTEM_REASONS.items():
        if os.strerror(number) in message:
            return reason
    for reason, pattern in _LOGIN_REASONS.items():
        if re.search(pattern, message, re.IGNORECASE):
            return reason
    return "authentication" if wire.used_password else "other"


def _sentence(error: Exception) -> str:
    """Return the first line of a driver's error, bounded in length."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_MESSAGE_CHARACTERS]
