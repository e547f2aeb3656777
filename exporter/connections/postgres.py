"""Logs in to PostgreSQL, as libpq would and behind guard rails."""

import asyncio
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from pydantic import SecretStr

from exporter.connections.credentials import Credentials
from exporter.connections.driver_arguments import driver_arguments, each_server
from exporter.connections.dsn import address_of, but_password, parameters, service_file
from exporter.connections.failure_reasons import (
    DRIVER_ERRORS,
    connect_reason,
    sentence,
)
from exporter.connections.guard_rails import AT_LOGIN, protect
from exporter.connections.inbound import BoundedLoop
from exporter.connections.name_lookup import Addresses, ResolvingLoop
from exporter.connections.off_loop import HANGING_FILE, PATIENCE, OffLoop
from exporter.connections.pgpass import is_open
from exporter.connections.place import Place, place_of
from exporter.connections.postgres_session import PostgresSession
from exporter.connections.secret_file import secret_in
from exporter.connections.session import (
    LONGEST_SILENCE_SECONDS,
)
from exporter.errors import ConnectError, ConnectReason, SettingsError
from exporter.kinds import Kind

T = TypeVar("T")

_ANSWER_SECONDS = 1.0
"""Timeout of the answer to a request for TLS, in seconds."""

_REFUSED_PASSWORD = ("28P01", "28000")
"""SQLSTATEs of a login that was refused: the password is wrong, or the user."""

_SSL_REQUEST = struct.pack("!II", 8, 80877103)


class Postgres:
    """One server, as its DSN names it, or a file that holds the DSN: opens sessions.

    Files are read each time, for a password that has changed. What else has changed in them makes another server.
    """

    kind: Kind = "postgresql"

    def __init__(
        self, dsn: SecretStr | Path, credentials: Credentials | None = None, connect_timeout: float = 3.0
    ) -> None:
        self._dsn = dsn
        self._credentials = credentials
        self.connect_timeout = connect_timeout
        self._off_loop = OffLoop()
        self._addresses = Addresses(self._off_loop)
        self.files: tuple[Path, ...] = ()
        """The files that the DSN comes from: its own, and that of its service."""
        self._known = self._read()
        self._spelled: dict[str, str] = {}
        """Database as sessions name it -> how a login has to spell it: its bytes, read as UTF-8."""

    def _read(self) -> dict[str, str]:
        """Read the DSN, and what service files and variables add to it."""
        dsn = self._dsn
        if not isinstance(dsn, Path):
            return self._completed(dsn.get_secret_value())
        said = secret_in(dsn, "dsn_file")
        try:
            return self._completed(said, dsn)
        except SettingsError as error:
            raise SettingsError(f"dsn_file: {dsn}: {error}") from None

    def _completed(self, dsn: str, *files: Path) -> dict[str, str]:
        """Complete a DSN that comes from these files."""
        known, service = parameters(dsn), service_file(dsn)
        self.files = (*files, service) if service else files
        return known

    def is_another(self) -> bool:
        """Read the DSN and its service again; return whether they say anything but another password."""
        return but_password(self._read()) != but_password(self._known)

    @property
    def address(self) -> str:
        """Host and port as log lines name the server."""
        return address_of(self._known)

    async def connect(self, database: str | None = None, timeout: float | None = None) -> PostgresSession:
        """Open a session behind guard rails, in the DSN's database or another; ConnectError says why there is none."""
        return await self._opened(database, self.connect_timeout if timeout is None else timeout)

    async def log_in(self, database: str | None = None, at: Place | None = None) -> PostgresSession:
        """Open a session, however long a server takes that has begun to answer: its backend may wait for a lock."""
        return await self._opened(database, None, at)

    async def _opened(self, database: str | None, seconds: float | None, at: Place | None = None) -> PostgresSession:
        """Open a session within so many seconds; None waits for a server that has begun to answer.

        Where a password is refused, all that it comes from is read again: it may have been changed, or have expired.
        """
        started = time.monotonic()
        known = await self._known_now()
        servers = await self._servers(known, database, at)
        try:
            return await self._logged_in(known, servers, seconds, started, at)
        except ConnectError as error:
            is_refusal = getattr(error.__cause__, "sqlstate", None) in _REFUSED_PASSWORD
            if not is_refusal or (self._credentials and not self._credentials.forget(_used(servers))):
                raise
            known = await self._known_now()
            again = await self._servers(known, database, at)
            left = None if seconds is None else seconds - (time.monotonic() - started)
            is_same = [one.get("password") for one in servers] == [one.get("password") for one in again]
            if is_same or (left is not None and left <= 0):
                raise
            return await self._logged_in(known, again, left, started, at)

    async def _logged_in(
        self,
        known: Mapping[str, str],
        servers: Sequence[Mapping[str, Any]],
        seconds: float | None,
        started: float,
        at: Place | None,
    ) -> PostgresSession:
        """Log in to the first of the servers that is what is asked for; ConnectError says why there is none."""
        demands = ({},) if at else _demands(known)
        share = self.connect_timeout if seconds is None else seconds / (len(servers) * len(demands))
        names = ResolvingLoop(self._addresses, self._patience, share, at.address if at else "")
        loop = BoundedLoop(known.get("require_auth", ""), names)
        try:
            tries = [{**server, **demand} for demand, server in product(demands, servers)]
            async with asyncio.timeout(seconds):
                connection, server = await _first_that_fits(tries, loop, share)
        except (ValueError, *DRIVER_ERRORS) as error:
            secrets = _secrets(known, servers)
            if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
                raise SettingsError(f"dsn: {_without(secrets, str(error))}") from None
            place = f"{loop.place}: " if len(servers) > 1 and loop.place else ""
            is_given = "password" in known or self._credentials is not None
            reason, why = _failure(error, known, loop, is_given=is_given)
            raise ConnectError(reason, place + _without(secrets, why)) from error
        assert loop.inbound  # noqa: S101  # connected
        took = time.monotonic() - started
        where = place_of(server, names.address)
        return PostgresSession(connection, loop.inbound, took, spelled=self._spelled, place=where)

    async def _servers(self, known: Mapping[str, str], database: str | None, at: Place | None) -> list[dict[str, Any]]:
        """Read what a login to each server takes: files of TLS, and its password."""
        wanted = {"dbname": self._spelled.get(database, database)} if database else {}
        places = each_server({**known, **wanted})
        if at:
            places = [_as_it_is(server) for server in places if at.is_named(server)][:1]
        files = f"passfile, or a file of TLS{f' for {database}' if database else ''}"
        try:
            servers = await self._from_file(files, lambda: list(map(driver_arguments, places)))
        except ValueError as error:
            raise SettingsError(f"dsn: {_without(_secrets(known, ()), str(error))}") from None
        for server in servers if self._credentials else ():
            assert self._credentials  # noqa: S101  # as asked
            server["password"] = await self._credentials.password(server, self._patience)
        return servers

    @property
    def _patience(self) -> float:
        """Seconds for files and names."""
        return PATIENCE * self.connect_timeout

    async def _known_now(self) -> dict[str, str]:
        """Read the password again; files that name another server by now are for a reload, which makes it a target."""
        found = await self._from_file("dsn_file, or the service file", self._read)
        if but_password(found) == but_password(self._known):
            self._known = found
        return self._known

    async def _from_file(self, setting: str, read: Callable[[], T]) -> T:
        """Read a file off the loop; SettingsError when the mount that it is on hangs."""
        try:
            return await self._off_loop.call(setting, read, self._patience)
        except TimeoutError as error:
            raise SettingsError(f"{error}. {HANGING_FILE}") from None

    async def is_answering(self, at: Place | None = None) -> bool:
        """Ask for TLS, as any login may begin: the answer is one byte, for which a backend reads no catalog."""
        places = [at] if at else map(place_of, each_server(self._known))
        return any(await asyncio.gather(*map(self._is_answering, places)))

    async def _is_answering(self, place: Place) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                if place.host.startswith("/"):
                    reader, writer = await asyncio.open_unix_connection(f"{place.host}/.s.PGSQL.{place.port}")
                else:
                    address = place.address or (await self._addresses.of(place.host, self._patience))[0]
                    reader, writer = await asyncio.open_connection(address, place.port)
                with closing(writer):
                    writer.write(_SSL_REQUEST)
                    return await reader.read(1) in (b"S", b"N")
        except (OSError, TimeoutError):
            return False


def _used(servers: Sequence[Mapping[str, Any]]) -> str:
    """Return the password of a login: it is one for all of its servers."""
    return next((str(one["password"]) for one in servers if one.get("password")), "")


def _as_it_is(server: Mapping[str, str]) -> dict[str, str]:
    """Take a server whatever it is by now: a standby may have been promoted under sessions that go on."""
    return {name: value for name, value in server.items() if name != "target_session_attrs"}


def _demands(known: Mapping[str, str]) -> Sequence[Mapping[str, str]]:
    """List the rounds through the servers by what is asked of one; as in libpq, `prefer-standby` takes two."""
    if "," in known.get("host", "") and known.get("target_session_attrs") == "prefer-standby":
        return {"target_session_attrs": "standby"}, {"target_session_attrs": "any"}
    return ({},)


async def _first_that_fits(
    tries: Sequence[Mapping[str, Any]], loop: BoundedLoop, share: float
) -> tuple[Any, Mapping[str, Any]]:
    """Log in to the first server that answers and is what is asked for; return also which. Each gets its own password.

    As in libpq, one that rejects the login ends the search, and one that is silent does not keep us from the next.

    Args:
        tries: the arguments for each login, in order.
        loop: opens the connections.
        share: seconds within which a server has to begin to answer while others are left to try.

    """
    failure: Exception | None = None
    for i, arguments in enumerate(tries, 1):
        silence = asyncio.timeout(share if i < len(tries) else LONGEST_SILENCE_SECONDS)
        loop.on_answer = partial(_lift, silence)
        try:
            async with silence:
                return await _protected(arguments, loop), arguments
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as error:
            failure = error
    assert failure  # noqa: S101  # there is a server
    raise failure


def _lift(limit: asyncio.Timeout) -> None:
    """Let a time limit go."""
    with suppress(RuntimeError):  # it ends at this moment
        limit.reschedule(None)


async def _protected(arguments: Mapping[str, Any], loop: BoundedLoop) -> Any:
    """Log in and set the guard rails.

    From the first message on no lock is waited for, as far as PostgreSQL heeds that during a login. A pooler refuses a
    login that asks for it; without it, it lets us in and is known as one.
    """
    options = {
        **arguments,
        "loop": loop,
        "timeout": None,
        "statement_cache_size": 200,
        "max_cached_statement_lifetime": 0,
        "max_cacheable_statement_size": 0,
    }
    settings = arguments.get("server_settings", {})
    try:
        connection = await asyncpg.connect(**options | {"server_settings": settings | AT_LOGIN})
    except asyncpg.ProtocolViolationError:
        connection = await asyncpg.connect(**options)
    except asyncpg.FeatureNotSupportedError:  # the server cannot convert from MULE_INTERNAL to UTF-8
        settings = {**settings, **AT_LOGIN, "client_encoding": "SQL_ASCII"}
        connection = await asyncpg.connect(**options | {"server_settings": settings})
    try:
        await protect(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _failure(
    error: Exception, known: Mapping[str, str], loop: BoundedLoop, *, is_given: bool
) -> tuple[ConnectReason, str]:
    """Say why a login failed: the reason, and a message."""
    if isinstance(error, ssl.SSLError):
        return "authentication" if loop.inbound else "settings", sentence(error)  # before it connects, files are read
    if loop.inbound and loop.inbound.refusal:
        return loop.inbound.reason, loop.inbound.refusal
    if getattr(error, "sqlstate", "") == "28P01" and not is_given:
        return connect_reason(error), f"{sentence(error)}; {_no_password(known)}"
    return connect_reason(error), sentence(error)


def _no_password(known: Mapping[str, str]) -> str:
    """Say that no password was given, or where one may have come from."""
    where = "no password was given"
    with suppress(OSError, RuntimeError):  # no home, or one that is closed to us
        file = Path(known.get("passfile", "~/.pgpass")).expanduser()
        if file.is_file():
            where += (
                f": others may read {file}, so it is ignored until chmod 0600"
                if is_open(file)
                else f", unless {file} has one"
            )
    return f"{where}; set PGVIGIL_PASSWORD_FILE or PGPASSWORD"


def _secrets(known: Mapping[str, str], servers: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """List what no message may have."""
    return [known.get("sslpassword"), known.get("password"), *(one.get("password") for one in servers)]


def _without(secrets: Iterable[str | None], message: str) -> str:
    """Take passwords out of a driver's message."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        message = message.replace(secret, "***")
    return message
