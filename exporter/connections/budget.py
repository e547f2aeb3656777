"""Counts the connections of one target: a place is leased for each, and never more than there may be."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from exporter.connections.failure_reasons import OUT_OF_FILES_SENTENCE, connect_reason
from exporter.connections.patience import wait_within
from exporter.connections.place import Place
from exporter.connections.session import Connector, Session
from exporter.errors import BusyError, ConnectError, PgvigilError, SettingsError
from exporter.logs import TargetLog

KEPT = 2
"""Places that are never lent: one for each kept connection."""

FORGET_SECONDS = 600.0
"""Seconds that an abandoned backend counts while no session can tell whether it exists."""


@dataclass(frozen=True)
class Abandoned:
    """A backend that we no longer talk to, and that has not been seen to be gone."""

    seen_at: float
    """Clock time at which it was last known to be there, in seconds."""
    database: str | None
    """Its database; None for that of the DSN."""
    sql: str | None
    """Its query."""
    place: Place | None
    """Its server."""


class Budget:
    """The places of one target: those leased, and those of backends that the server may still hold for us."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic, log: TargetLog | None = None) -> None:
        self.clock = clock
        self.log = log or TargetLog(logging.getLogger(__name__), "")
        self.login = asyncio.Lock()
        """Held while a kept connection logs in: where the server has one slot left, two logins would both fail."""
        self.place: Place | None = None
        """The server that the kept connections go to, or went to last; None before the first."""
        self._size = size
        self._leases: set[Lease] = set()
        self._abandoned: dict[int, Abandoned] = {}
        self._changed = asyncio.Condition()

    @property
    def count(self) -> int:
        """Connections that we have, abandoned backends included."""
        return len(self._leases) + len(self.abandoned)

    @property
    def abandoned(self) -> set[int]:
        """Process IDs of the target's backends that we no longer talk to and that have not been seen to be gone."""
        now = self.clock()
        self._abandoned = {pid: b for pid, b in self._abandoned.items() if now - b.seen_at < FORGET_SECONDS}
        return {pid for pid, backend in self._abandoned.items() if backend.place == self.place}

    def still_runs(self, sql: str, database: str | None) -> bool:
        """Return whether an abandoned backend may still run a query in a database, None for that of the DSN."""
        there = self.abandoned
        return any((b.sql, b.database) == (sql, database) for pid, b in self._abandoned.items() if pid in there)

    @property
    def _is_held(self) -> bool:
        """Return whether a kept session goes to the target's server."""
        kept = (lease for lease in self._leases if lease.is_kept and lease.session and not lease.is_astray)
        return any(lease.session and lease.session.is_usable for lease in kept)

    def destination(self, *, is_kept: bool) -> Place | None:
        """Return the server that a login has to go to; None where it tries all of the DSN, and decides."""
        return self.place if self._is_held or not is_kept else None

    def settle(self, session: Session) -> None:
        """Make the server of a kept session the target's, unless another one holds it; others have to leave theirs."""
        if session.place == self.place or self._is_held:
            return
        self.place = session.place
        for lease in self._leases:
            if lease.session and lease.is_astray and not lease.is_kept:
                lease.session.terminate()

    def keep(self) -> "Lease":
        """Lease a place for good; ConnectError when there is none."""
        if self.count >= self._size:
            raise ConnectError("timeout", f"all {self._size} connections that we may have wait for the server")
        return self._leased(is_kept=True)

    async def lend(self, timeout: float) -> "Lease":
        """Lease a place for a while, none of the two for kept connections; BusyError when none is free in time."""
        async with self._changed:
            if not self._may_lend():
                try:
                    async with asyncio.timeout(timeout):
                        await self._changed.wait_for(self._may_lend)
                except TimeoutError:
                    raise BusyError(f"none of the {self._size} connections was free within {timeout:g} s") from None
            return self._leased(is_kept=False)

    def _leased(self, *, is_kept: bool) -> "Lease":
        lease = Lease(self, is_kept=is_kept)
        self._leases.add(lease)
        return lease

    def _may_lend(self) -> bool:
        kept = sum(lease.is_kept for lease in self._leases)
        lent = len(self._leases) - kept
        return max(kept, KEPT) + lent + len(self.abandoned) < self._size

    async def give_back(self, lease: "Lease", abandoned: Session | None, stuck_on: str | None = None) -> None:
        """Take a place back; the backend of a session that is stuck counts until it has been seen to be gone."""
        if abandoned:
            self._abandoned[abandoned.pid] = Abandoned(self.clock(), lease.database, stuck_on, abandoned.place)
        self._leases.discard(lease)
        await self._notify()

    async def end_abandoned(self, session: Session, timeout: float) -> None:
        """Have the server terminate the abandoned backends, and forget those that are gone."""
        if asked := self.abandoned:
            there, now = await session.end_abandoned(asked, timeout), self.clock()
            gone = asked - there
            self._abandoned = {
                pid: replace(backend, seen_at=now) if pid in there else backend
                for pid, backend in self._abandoned.items()
                if pid not in gone
            }
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        """Give up all logins that are under way."""
        leases = self._leases.copy()
        await asyncio.gather(*(lease.release(cancel=True) for lease in leases), return_exceptions=True)
        await asyncio.gather(*(lease.returned() for lease in leases), return_exceptions=True)


class Lease:
    """One place in the budget, from before the login until the server holds nothing for it any more.

    As an async context manager it gives the place back exactly once, however the block ends.
    """

    def __init__(self, budget: Budget, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self.session: Session | None = None
        """The session, once logged in."""
        self.database: str | None = None
        """The database that it is for; None for that of the DSN."""
        self._budget = budget
        self._at: Place | None = None
        self._login: asyncio.Task[Session] | None = None
        self._return: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    @property
    def is_astray(self) -> bool:
        """Return whether it leads to a server that is not the target's any more."""
        return (self.session.place if self.session else self._at) != self._budget.place

    @property
    def is_logging_in(self) -> bool:
        """Return whether the login is under way."""
        return self._login is not None and not self._login.done()

    async def log_in(self, connector: Connector, database: str | None = None, timeout: float | None = None) -> Session:
        """Log in, or wait on for the login under way; ConnectError when there is no session in time.

        Args:
            connector: the server.
            database: the database, that of the DSN by default.
            timeout: seconds to wait, connect_timeout by default.

        """
        timeout = connector.connect_timeout if timeout is None else timeout
        if self._login is None:
            self.database, self._at = database, self._budget.destination(is_kept=self.is_kept)
            self._login = asyncio.create_task(connector.log_in(database, self._at))
            self._login.add_done_callback(self._retrieve)
        await wait_within([self._login], timeout)
        if not self._login.done():
            raise ConnectError("timeout", f"no login within {timeout:g} s")
        try:
            self.session = self._login.result()
        except SettingsError as error:
            raise _unusable(error) from error
        except asyncio.CancelledError:
            raise ConnectError("other", "the login was given up") from None
        except Exception as error:
            raise error if isinstance(error, ConnectError) else _unexpected(error) from error
        return self._placed(self.session)

    def _placed(self, session: Session) -> Session:
        """Have a kept session decide which server is the target's; a borrowed one has to go there."""
        if self.is_kept:
            self._budget.settle(session)
        elif self.is_astray:
            raise ConnectError("unreachable", f"the kept connections went on to {self._budget.place} meanwhile")
        return session

    async def release(self, *, cancel: bool = False) -> None:
        """Close the session and give the place back; one whose login is under way is given back when that is over."""
        if self._login and not self.session and cancel:
            self._login.cancel()
        if self._return is None:
            self._return = asyncio.create_task(self._end())
            self._return.add_done_callback(self._retrieve)
        if not self.is_logging_in:
            await asyncio.shield(self._return)

    async def returned(self) -> None:
        """Wait until the place has been given back."""
        if self._return:
            await self._return

    async def _end(self) -> None:
        session = self.session
        try:
            if self._login and session is None:
                session = await self._login
        except (Exception, asyncio.CancelledError):  # noqa: BLE001  # whoever asked was told, and _retrieve has logged it
            session = None
        abandoned = session if session and session.is_stuck else None
        stuck_on = abandoned.stuck_on if abandoned else None
        try:
            if session:
                await session.close()
        finally:
            await self._budget.give_back(self, abandoned, stuck_on)

    def _retrieve(self, task: asyncio.Task[Any]) -> None:
        """Log the unexpected exception of a task that nothing may wait for any more."""
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, PgvigilError):
            self._budget.log.error("a login or its end failed unexpectedly", exc_info=error)


def _unusable(error: SettingsError) -> ConnectError:
    """Say why the exporter's own settings give no login; that files cannot be opened may have another cause."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, OSError) and connect_reason(cause) == "out_of_files":
            return ConnectError("out_of_files", OUT_OF_FILES_SENTENCE)
        cause = cause.__cause__ or cause.__context__
    return ConnectError("settings", str(error))


def _unexpected(error: Exception) -> ConnectError:
    return ConnectError("other", f"{type(error).__name__}: {error}")
