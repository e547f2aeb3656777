"""Keeps the connections of one target: some for good, some borrowed, never more than the budget."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exporter.connections.session import Connector, Session, Vitals
from exporter.errors import ConnectError, QueryError, SettingsError

_LONGEST_PAUSE_SECONDS = 10.0

_GIVE_UP_SECONDS = 5.0
"""How long a stuck session is waited for before another one is tried, which shows whether only it hangs."""

_LOGIN_SECONDS = 60.0
"""How long a login is waited for before another one is tried beside it."""

_LONGEST_LOGIN_SECONDS = 600.0

_FORGET_SECONDS = 600.0
"""How long a backend that we no longer talk to counts as still there when no session can tell."""


class Budget:
    """Counts the connections of one target: those open, and those that the server may still hold for us."""

    def __init__(self, most: int) -> None:
        self.login = asyncio.Lock()
        """Held while a kept connection is opened: where there is place for one, two at once would both be refused."""
        self._most = most
        self._kept = 0
        self._lent = 0
        self._abandoned: dict[int, float] = {}
        self._unfinished: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    @property
    def count(self) -> int:
        """How many connections we have, those included that the server may still hold for us."""
        return self._kept + self._lent + len(self.abandoned)

    @property
    def abandoned(self) -> set[int]:
        """The backends that we no longer talk to and that have not been seen to be gone."""
        now = time.monotonic()
        self._abandoned = {pid: at for pid, at in self._abandoned.items() if now - at < _FORGET_SECONDS}
        return set(self._abandoned)

    def keep(self) -> None:
        """Take a place for good; ConnectError when there is none."""
        if self.count >= self._most:
            raise ConnectError("timeout", f"all {self._most} connections that we may have wait for the server")
        self._kept += 1

    async def lend(self, *, wait: bool) -> None:
        """Take a place for a while, none of the two for kept ones; without waiting, ConnectError when there is none."""
        async with self._changed:
            if not wait and not self._to_lend():
                raise ConnectError("other", "all connections are lent")
            await self._changed.wait_for(self._to_lend)
            self._lent += 1

    def _to_lend(self) -> bool:
        return max(self._kept, 2) + self._lent + len(self.abandoned) < self._most

    async def end(self, session: Session | None, *, lent: bool = False) -> None:
        """Close a session and give its place back; the backend of a stuck one counts until it is seen to be gone."""
        stuck = session is not None and session.stuck and not session.lost
        try:
            if session:
                await session.close()
        finally:
            if session and stuck:
                self._abandoned[session.pid] = time.monotonic()
            self._kept, self._lent = (self._kept, self._lent - 1) if lent else (self._kept - 1, self._lent)
            async with self._changed:
                self._changed.notify_all()

    def leave(self, login: asyncio.Task[Session], *, lent: bool = False) -> None:
        """Wait no longer for a login; it keeps its place until it is over, as the server may not see us leave."""
        waiting = asyncio.create_task(self._end_login(login, lent=lent))
        self._unfinished.add(waiting)
        waiting.add_done_callback(self._unfinished.discard)

    async def _end_login(self, login: asyncio.Task[Session], *, lent: bool) -> None:
        session = None
        try:
            session = await login
        except (ConnectError, SettingsError):
            return
        finally:
            await self.end(session, lent=lent)

    async def close(self) -> None:
        """Give up the logins that are not over."""
        for waiting in self._unfinished:
            waiting.cancel()
        await asyncio.gather(*self._unfinished, return_exceptions=True)

    async def end_abandoned(self, session: Session, timeout: float) -> None:
        """Have the server end the backends that we no longer talk to, and forget those that are gone."""
        if asked := self.abandoned:
            there = await session.end_abandoned(asked, timeout)
            self._abandoned = {pid: at for pid, at in self._abandoned.items() if pid in there or pid not in asked}
            async with self._changed:
                self._changed.notify_all()


class KeptSession:
    """One connection kept for good: checked before use, replaced with exponential backoff and jitter."""

    def __init__(self, postgres: Connector, budget: Budget) -> None:
        self.lock = asyncio.Lock()
        self._postgres = postgres
        self._budget = budget
        self._session: Session | None = None
        self._login: asyncio.Task[Session] | None = None
        self._login_began_at = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._error: ConnectError | None = None

    @property
    def open(self) -> bool:
        """Tell whether there is a connection that takes queries."""
        return self._session is not None and self._session.usable

    async def ready(self, timeout: float) -> tuple[Session, Vitals]:
        """Give the session and its answer to the question whether the server lives; ConnectError when there is none."""
        async with self.lock:
            return await self._ready(timeout)

    @asynccontextmanager
    async def used(self, timeout: float) -> AsyncIterator[Session]:
        """Give the session for one use, without asking first when there is one; ConnectError when there is none."""
        async with self.lock:
            yield self._session if self._session and self._session.usable else (await self._ready(timeout))[0]

    async def _ready(self, timeout: float) -> tuple[Session, Vitals]:
        if self._session and self._session.usable:
            self._leave_login(cancel=True)  # begun while it was stuck
            try:
                return self._session, await self._session.vitals(timeout)
            except QueryError as error:
                if self._session.usable:
                    raise ConnectError("other", str(error)) from error
        if self._session and self._session.stuck and self._session.stuck_seconds < _GIVE_UP_SECONDS:
            raise ConnectError("hung", f"no answer for {self._session.stuck_seconds:.0f} s")
        session = await self._connected()
        try:
            return session, await session.vitals(timeout)
        except QueryError as error:
            raise ConnectError("hung" if session.stuck else "other", str(error)) from error

    async def replace(self) -> None:
        """Drop the connection; the next `ready` opens another one."""
        async with self.lock:
            await self._drop()

    async def _drop(self) -> None:
        if self._session:
            session, self._session = self._session, None
            await self._budget.end(session)

    async def _connected(self) -> Session:
        """Open a connection in place of the one that is lost or stuck; the stuck one stays when there is no other."""
        if self._session and self._session.lost:
            await self._drop()
        answered = self._login is not None and self._login.done()
        if self._error and not answered and time.monotonic() < self._not_before:
            raise self._error
        try:
            async with self._budget.login:
                session = await self._open()
        except (ConnectError, SettingsError) as found:
            error = found if isinstance(found, ConnectError) else ConnectError("other", str(found))
            if self._session and error.reason == "timeout":
                error = ConnectError("hung", f"no answer for {self._session.stuck_seconds:.0f} s")
            self._failures += 1
            pause = min(0.5 * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE_SECONDS)
            self._not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
            self._error = error
            raise error from found
        await self._drop()
        self._failures, self._error, self._session = 0, None, session
        return session

    async def _open(self) -> Session:
        """Log in; a login that takes too long is waited for again the next time, not joined by another."""
        if self._login is None:
            self._budget.keep()
            self._login = asyncio.create_task(self._postgres.connect(timeout=_LONGEST_LOGIN_SECONDS))
            self._login_began_at = time.monotonic()
        await asyncio.wait([self._login], timeout=self._postgres.connect_timeout)
        login = self._login
        if not login.done():
            if time.monotonic() - self._login_began_at > _LOGIN_SECONDS:
                self._leave_login()
            raise ConnectError("timeout", f"no login within {self._postgres.connect_timeout:g} s")
        self._login = None
        try:
            return login.result()
        except BaseException:
            await self._budget.end(None)
            raise

    def _leave_login(self, *, cancel: bool = False) -> None:
        """Wait no longer for the login under way, if there is one."""
        login, self._login = self._login, None
        if login:
            if cancel:
                login.cancel()
            self._budget.leave(login)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        self._leave_login(cancel=True)
        await self._drop()


class Sessions:
    """All connections of one target."""

    def __init__(self, postgres: Connector, most: int) -> None:
        self.budget = Budget(most)
        self.vital = KeptSession(postgres, self.budget)
        """For the vital few: up, sessions, lock graph."""
        self.main = KeptSession(postgres, self.budget)
        """For everything else in the DSN's database."""
        self._postgres = postgres

    @property
    def count(self) -> int:
        """How many connections we have, those included that the server may still hold for us."""
        return self.budget.count

    @asynccontextmanager
    async def borrowed(self, database: str, *, wait: bool = True) -> AsyncIterator[Session]:
        """Open a session in another database when one of the budget is free, and close it after use."""
        await self.budget.lend(wait=wait)
        session = await self._lent(database)
        try:
            yield session
        finally:
            await self.budget.end(session, lent=True)

    async def _lent(self, database: str) -> Session:
        """Log in to a database on a place that is taken; it is given back when there is no session."""
        login = asyncio.create_task(self._postgres.connect(database, timeout=_LONGEST_LOGIN_SECONDS))
        try:
            await asyncio.wait([login], timeout=self._postgres.connect_timeout)
            if login.done():
                return login.result()
            raise ConnectError("timeout", f"no login within {self._postgres.connect_timeout:g} s")
        except BaseException as error:
            self.budget.leave(login, lent=True)
            if isinstance(error, SettingsError):
                raise ConnectError("other", str(error)) from error
            raise

    @asynccontextmanager
    async def used(self, timeout: float) -> AsyncIterator[Session]:
        """Give a kept session for one use: the vital one, or the main one when only that is there."""
        kept = self.main if self.main.open and not self.vital.open else self.vital
        async with kept.used(timeout) as session:
            yield session

    async def close(self) -> None:
        """Close what is kept."""
        await asyncio.gather(self.vital.close(), self.main.close())
        await self.budget.close()
