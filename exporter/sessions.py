"""Keeps the connections of one target: some for good, some borrowed, never more than the budget."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exporter.errors import ConnectError, QueryError, SettingsError
from exporter.postgres import Postgres, Session, Vitals

_LONGEST_PAUSE_SECONDS = 10.0


class KeptSession:
    """One connection kept for good: checked before use, replaced with exponential backoff and jitter."""

    def __init__(self, postgres: Postgres) -> None:
        self.lock = asyncio.Lock()
        self._postgres = postgres
        self._session: Session | None = None
        self._failures = 0
        self._not_before = 0.0
        self._error: ConnectError | None = None

    @property
    def open(self) -> bool:
        """Tell whether there is a connection."""
        return self._session is not None and self._session.usable

    async def ready(self, timeout: float) -> tuple[Session, Vitals]:
        """Give the session and its answer to the question whether the server lives; ConnectError when there is none."""
        async with self.lock:
            if self._session and self.open:
                try:
                    return self._session, await self._session.vitals(timeout)
                except QueryError as error:
                    if self._session.usable:
                        raise ConnectError("other", str(error)) from error
                    if "does not answer" in str(error):
                        raise ConnectError("hung", str(error)) from error
            self._session = await self._connect()
            try:
                return self._session, await self._session.vitals(timeout)
            except QueryError as error:
                raise ConnectError("other", str(error)) from error

    async def _connect(self) -> Session:
        if self._error and time.monotonic() < self._not_before:
            raise self._error
        try:
            session = await self._postgres.connect()
        except (ConnectError, SettingsError) as found:
            error = found if isinstance(found, ConnectError) else ConnectError("other", str(found))
            self._failures += 1
            pause = min(0.5 * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE_SECONDS)
            self._not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
            self._error = error
            raise error from found
        self._failures, self._error = 0, None
        return session

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._session:
            await self._session.close()


class Sessions:
    """All connections of one target."""

    def __init__(self, postgres: Postgres, budget: int) -> None:
        self.vital = KeptSession(postgres)
        """For the vital few: up, sessions, lock graph."""
        self.main = KeptSession(postgres)
        """For everything else in the DSN's database."""
        self._postgres = postgres
        self._to_lend = asyncio.Semaphore(budget - 2)
        self._lent = 0

    @property
    def count(self) -> int:
        """How many connections are open now."""
        return self.vital.open + self.main.open + self._lent

    @asynccontextmanager
    async def borrowed(self, database: str, *, wait: bool = True) -> AsyncIterator[Session]:
        """Open a session in another database when one of the budget is free, and close it after use."""
        if not wait and self._to_lend.locked():
            raise ConnectError("other", "all connections are lent")
        async with self._to_lend:
            self._lent += 1
            try:
                try:
                    opened = await self._postgres.connect(database)
                except SettingsError as error:
                    raise ConnectError("other", str(error)) from error
                async with opened as session:
                    yield session
            finally:
                self._lent -= 1

    async def close(self) -> None:
        """Close what is kept."""
        await asyncio.gather(self.vital.close(), self.main.close())
