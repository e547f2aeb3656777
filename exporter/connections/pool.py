"""All connections of one target: two kept, some borrowed, never more than the budget."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from exporter.connections.budget import Budget
from exporter.connections.kept_connection import KeptConnection
from exporter.connections.session import Connector, Session
from exporter.logs import TargetLog

BORROW_SECONDS = 10.0
"""Seconds that a visitor of databases waits for a free place: query timeouts bound the use of the others."""


class Pool:
    """The connections of one target."""

    def __init__(
        self,
        connector: Connector,
        size: int,
        clock: Callable[[], float] = time.monotonic,
        log: TargetLog | None = None,
    ) -> None:
        self.budget = Budget(size, clock, log)
        self.vital = KeptConnection(connector, self.budget)
        """For the vital few: up, sessions, lock graph."""
        self.main = KeptConnection(connector, self.budget)
        """For everything else in the DSN's database."""
        self._connector = connector

    @property
    def count(self) -> int:
        """Connections that we have, abandoned backends included."""
        return self.budget.count

    def other(self, kept: KeptConnection) -> KeptConnection:
        """Return the other one of the two kept connections."""
        return self.main if kept is self.vital else self.vital

    @asynccontextmanager
    async def borrowed(
        self, database: str, timeout: float = BORROW_SECONDS, login_timeout: float | None = None
    ) -> AsyncIterator[Session]:
        """Open a session in another database once a place is free, and close it after use.

        Args:
            database: its name.
            timeout: seconds to wait for a free place; BusyError when there is none in time.
            login_timeout: seconds for the login, connect_timeout by default; ConnectError when there is no session.

        """
        async with await self.budget.lend(timeout) as lease:
            yield await lease.log_in(self._connector, database, login_timeout)

    def used(self, timeout: float) -> AbstractAsyncContextManager[Session]:
        """Lend a kept session for one use: the vital one, or the main one when only that is ready."""
        kept = self.vital if self.vital.is_ready or not self.main.is_ready else self.main
        return kept.used(timeout)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(self.vital.close(), self.main.close(), return_exceptions=True)
        await self.budget.close()
