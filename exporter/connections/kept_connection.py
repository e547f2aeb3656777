"""One connection kept for good: checked before use, replaced with exponential backoff and jitter."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from exporter.backoff import RECONNECT
from exporter.connections.budget import Budget, Lease
from exporter.connections.session import Connector, Session, Vitals
from exporter.errors import BusyError, ConnectError, QueryError

GIVE_UP_SECONDS = 5.0
"""Seconds to wait for a stuck session; then another login shows whether only that session hangs."""

SILENT_SECONDS = 5.0
"""Seconds to wait for a login before checking whether the server answers new connections."""

LOGIN_SECONDS = 60.0
"""Seconds to wait for a login before a concurrent one is tried, even if the server answers nothing."""


@dataclass(frozen=True)
class Closed:
    """No connection; the next use logs in."""


@dataclass(frozen=True)
class Open:
    """A connection: ready, or stuck, as its session says."""

    lease: Lease


@dataclass(frozen=True)
class LoggingIn:
    """A login is under way, perhaps in place of a stuck session, which is used again if its answer comes first."""

    lease: Lease
    since: float
    beside: Lease | None = None
    failures: int = 0
    error: ConnectError | None = None
    """Error of the last use that failed."""
    until: float = float("-inf")
    """Until then a use fails with that error at once, unless the login has ended."""
    dead: Lease | None = None
    """An earlier login whose connection is silent although the server answers; it was tried again once."""


@dataclass(frozen=True)
class BackingOff:
    """The last login failed."""

    error: ConnectError
    until: float
    failures: int
    beside: Lease | None = None


class KeptConnection:
    """One place in the budget and what it is used for at the moment."""

    def __init__(self, connector: Connector, budget: Budget) -> None:
        self.lock = asyncio.Lock()
        """Held by whoever asks: a session answers one question at a time."""
        self._connector = connector
        self._budget = budget
        self._clock = budget.clock
        self.state: Closed | Open | LoggingIn | BackingOff = Closed()

    @property
    def _lease(self) -> Lease | None:
        """The lease of the current session, ready or stuck."""
        match self.state:
            case Open(lease):
                return lease
            case LoggingIn(beside=beside) | BackingOff(beside=beside):
                return beside
        return None

    @property
    def session(self) -> Session | None:
        """The current session, ready or stuck."""
        return self._lease.session if self._lease else None

    @property
    def _is_astray(self) -> bool:
        """Return whether the session goes to a server that is not the target's any more."""
        return self._lease is not None and self._lease.session is not None and self._lease.is_astray

    @property
    def _usable(self) -> Session | None:
        """The current session if it takes queries."""
        return self.session if self.session and self.session.is_usable and not self._is_astray else None

    @property
    def is_ready(self) -> bool:
        """Return whether there is a session that takes queries."""
        return self._usable is not None

    async def ready(self, timeout: float) -> tuple[Session, Vitals]:
        """Return the session, and its answer to the question whether the server lives; ConnectError without one."""
        async with self.lock:
            return await self._ready(timeout)

    @asynccontextmanager
    async def used(self, timeout: float) -> AsyncIterator[Session]:
        """Lend the session for one use, without asking first; ConnectError without one, BusyError while it is busy."""
        await self._wait_for_turn(timeout)
        try:
            yield self._usable or (await self._ready(timeout))[0]
        finally:
            self.lock.release()

    async def _wait_for_turn(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.lock.acquire()
        except TimeoutError:
            raise BusyError(f"the connection was busy for {timeout:g} s") from None

    async def _ready(self, timeout: float) -> tuple[Session, Vitals]:
        if session := self._usable:
            await self._keep_session()
            try:
                return session, await session.vitals(timeout)
            except QueryError as error:
                if session.is_usable:
                    raise ConnectError("other", str(error)) from error
        stuck = None if self._is_astray else self.session
        if stuck and stuck.is_stuck and stuck.stuck_seconds < GIVE_UP_SECONDS:
            raise _hung(stuck)
        session = await self._replaced()
        try:
            return session, await session.vitals(timeout)
        except QueryError as error:
            raise ConnectError("hung" if session.is_stuck else "other", str(error)) from error

    async def _keep_session(self) -> None:
        """Stay with a session that answers again: a login begun while it was stuck is given up."""
        match self.state:
            case LoggingIn(lease, beside=Lease() as open_lease):
                self.state = Open(open_lease)
                await lease.release(cancel=True)
            case BackingOff(beside=Lease() as open_lease):
                self.state = Open(open_lease)

    async def replace(self) -> None:
        """Drop the session; the next use logs in."""
        async with self.lock:
            await self._drop()

    async def _drop(self) -> None:
        lease = self._lease
        match self.state:
            case Open():
                self.state = Closed()
            case LoggingIn() | BackingOff():
                self.state = replace(self.state, beside=None)
        if lease:
            await lease.release()

    async def _replaced(self) -> Session:
        """Log in in place of a session that is lost or stuck; a stuck one stays until there is another."""
        if self.session and (self.session.is_lost or self._is_astray):
            await self._drop()
        match self.state:
            case BackingOff(error, until) if self._clock() < until:
                raise error
            case LoggingIn(lease, error=ConnectError() as error, until=until):
                if lease.is_logging_in and self._clock() < until:
                    raise error
        try:
            async with self._budget.login:
                lease = await self._logged_in()
        except ConnectError as found:
            raise await self._failed(found) from found
        dead = self.state.dead if isinstance(self.state, LoggingIn) else None
        await self._drop()
        self.state = Open(lease)
        if dead:
            await dead.release(cancel=True)
        assert lease.session  # noqa: S101  # logged in
        return lease.session

    async def _logged_in(self) -> Lease:
        """Log in; a login that takes too long is waited for again by the next use, not joined by another."""
        if not isinstance(self.state, LoggingIn):
            failures = self.state.failures if isinstance(self.state, BackingOff) else 0
            self.state = LoggingIn(self._budget.keep(), self._clock(), self._lease, failures)
        elif await self._is_dead(self.state):
            dead = self.state.lease
            fresh = LoggingIn(self._budget.keep(), self._clock(), self._lease, self.state.failures, dead=dead)
            self.state = fresh
            await dead.release()
        lease = self.state.lease
        await lease.log_in(self._connector)
        while lease.is_astray:  # the other one answers again, or was first: this one follows
            self.state = replace(self.state, lease=self._budget.keep(), since=self._clock())
            await lease.release()
            lease = self.state.lease
            await lease.log_in(self._connector)
        return lease

    async def _is_dead(self, login: LoggingIn) -> bool:
        """Return whether a login waits on a silent connection although the server answers new ones.

        A login that waits for a lock looks the same: it keeps its place, and is tried again once, not without end.
        """
        waits = login.lease.is_logging_in and self._clock() - login.since >= SILENT_SECONDS
        if not waits or login.dead is not None:
            return False
        return await self._connector.is_answering(self._budget.destination(is_kept=True))

    async def _failed(self, error: ConnectError) -> ConnectError:
        """Back off; return why there is no connection."""
        if self.session and error.reason == "timeout":
            error = _hung(self.session)
        failures = 1 + (self.state.failures if isinstance(self.state, LoggingIn | BackingOff) else 0)
        until = self._clock() + RECONNECT.pause(failures)
        match self.state:
            case LoggingIn(lease, since) if lease.is_logging_in and self._clock() - since <= LOGIN_SECONDS:
                self.state = replace(self.state, error=error, until=until, failures=failures)
            case LoggingIn(lease):
                self.state = BackingOff(error, until, failures, self._lease)
                await lease.release()
            case _:
                self.state = BackingOff(error, until, failures, self._lease)
        return error

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if isinstance(self.state, LoggingIn):
            lease, beside = self.state.lease, self.state.beside
            self.state = Open(beside) if beside else Closed()
            await lease.release(cancel=True)
        await self._drop()


def _hung(session: Session) -> ConnectError:
    return ConnectError("hung", f"no answer for {session.stuck_seconds:.0f} s")
