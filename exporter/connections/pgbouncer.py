"""Logs in to the admin console of PgBouncer, as libpq would."""

import asyncio
import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from exporter.connections.console import DATABASE, Console, said
from exporter.connections.credentials import Credentials
from exporter.connections.driver_arguments import home
from exporter.connections.dsn import but_password
from exporter.connections.failure_reasons import OUT_OF_FILES, connect_reason, sentence
from exporter.connections.name_lookup import Addresses
from exporter.connections.off_loop import HANGING_FILE, PATIENCE, OffLoop
from exporter.connections.place import Place
from exporter.connections.secret_file import secret_in
from exporter.connections.session import (
    APPLICATION_NAME,
    LONGEST_SILENCE_SECONDS,
)
from exporter.errors import (
    ConnectError,
    ConnectReason,
    SettingsError,
)
from exporter.kinds import Kind

_DEFAULTS = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""libpq's parameters that detect a dead connection within half a minute; a DSN may override them."""

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
    "no_database": r'database "[^"]*" does not exist',  # PostgreSQL itself
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


class PgBouncer:
    """One PgBouncer, given by a DSN or by a file that holds one. Each session reads the files again."""

    kind: Kind = "pgbouncer"

    def __init__(
        self, dsn: SecretStr | Path, credentials: Credentials | None = None, connect_timeout: float = 3.0
    ) -> None:
        self._dsn = dsn
        self._credentials = credentials
        self.connect_timeout = connect_timeout
        self._off_loop = OffLoop()
        self._addresses = Addresses(self._off_loop)
        self.files = (dsn,) if isinstance(dsn, Path) else ()
        """The file that the DSN stands in, if any."""
        self._known = self._parameters()

    @property
    def address(self) -> str:
        """Host and port as log lines name the server."""
        return f"{self._known.get('host', 'localhost')}:{self._known.get('port', '6432')}"

    def is_another(self) -> bool:
        """Read the DSN again; return whether it says anything but another password."""
        return but_password(self._parameters()) != but_password(self._known)

    async def connect(
        self, database: str | None = None, timeout: float | None = None, at: Place | None = None
    ) -> Console:
        """Open a session on the console; ConnectError says why there is none."""
        parameters = await self._known_now() | (_only(at) if at else {})
        return await self._opened(parameters, self.connect_timeout if timeout is None else timeout)

    async def _opened(self, parameters: dict[str, Any], timeout: float) -> Console:
        try:
            async with asyncio.timeout(timeout):
                parameters |= await self._resolved(parameters)
                return Console(await psycopg.AsyncConnection.connect(autocommit=True, **parameters))
        except TimeoutError as error:
            raise ConnectError("timeout", str(error) or "no login in time") from error
        except OSError as error:
            raise ConnectError(connect_reason(error), sentence(error)) from error
        except psycopg.Error as error:
            message = said(error)
            if secret := parameters.get("password"):
                message = message.replace(secret, "***")
            raise ConnectError(_connect_reason(error), message) from None

    async def log_in(self, database: str | None = None, at: Place | None = None) -> Console:
        """Open a session, and wait long for it."""
        return await self.connect(database, LONGEST_SILENCE_SECONDS, at)

    async def _known_now(self) -> dict[str, Any]:
        """Read the DSN and the password off the loop, and ahead of libpq what it reads."""

        def read() -> dict[str, Any]:
            found = self._parameters()
            known = found if but_password(found) == but_password(self._known) else self._known
            _read_ahead(known)
            return known

        patience = PATIENCE * self.connect_timeout
        try:
            self._known = await self._off_loop.call("a file of the connection", read, patience)
            known = dict(self._known)
        except TimeoutError as error:
            raise SettingsError(f"{error}. {HANGING_FILE}") from None
        if self._credentials:
            known["password"] = await self._credentials.password(known, patience)
        return known

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

    async def is_answering(self, at: Place | None = None) -> bool:
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


def _only(at: Place) -> dict[str, str]:
    """Return the parameters of libpq that lead to one server only."""
    return {"host": at.host, "port": at.port} | ({"hostaddr": at.address} if at.address else {})


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
    message, wire = said(error), error.pgconn
    if wire is None:  # before any connection: no address for the host, or parameters that libpq refuses
        return "unreachable" if isinstance(error, psycopg.OperationalError) else "other"
    for number, reason in _SYSTEM_REASONS.items():
        if os.strerror(number) in message:
            return reason
    for reason, pattern in _LOGIN_REASONS.items():
        if re.search(pattern, message, re.IGNORECASE):
            return reason
    return "authentication" if wire.used_password else "other"
