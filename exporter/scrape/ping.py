"""Asks a server only whether it is up, however many readers want to know."""

import asyncio

from exporter.connections.discovery import TIMEOUT
from exporter.connections.patience import wait_within
from exporter.connections.session import Session, Vitals
from exporter.errors import ConnectError
from exporter.scrape.parts import Parts

PING_SECONDS = 0.2
"""Shortest interval between two questions whether the server is up, however often clients ask for it, in seconds."""


class Ping:
    """The question of one target, which its readers share."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._task: asyncio.Task[None] | None = None
        self._answers = 0
        """Answers of the server before the question under way."""
        self._at = float("-inf")

    async def ask(self, timeout: float) -> bool:
        """Ask, or wait for the question under way; return whether there is an answer, or a reason for none, in time.

        Until then nothing is presumed: a scrape that ends meanwhile has an answer of its own.
        """
        now = self._parts.clock()
        if self._task is None or (self._task.done() and now - self._at >= PING_SECONDS):
            self._at, self._answers = now, self._parts.health.answers
            self._task = asyncio.create_task(self._ask(), name="ping")
        task, answers = self._task, self._answers  # another question may be open afterwards
        await wait_within([task], timeout)  # not cancelled: its session would be stuck
        if task.done() or self._parts.health.answers != answers:
            return True
        self._parts.health.ask()
        return False

    async def _ask(self) -> None:
        try:
            session, vitals = await self._vitals()
        except ConnectError as error:
            self._fail(error)
        except Exception as error:  # the boundary: nothing else retrieves it
            self._parts.log.error("ping failed unexpectedly", exc_info=error)
            self._fail(ConnectError("other", f"{type(error).__name__}: {error}"))
        else:
            self._parts.note(vitals, session)

    async def _vitals(self) -> tuple[Session, Vitals]:
        """Ask on the connection for vital collectors; while it waits for its next login, on the other one."""
        kept = self._parts.pool.vital
        other = self._parts.pool.other(kept)
        try:
            return await kept.ready(TIMEOUT)
        except ConnectError:
            if not other.is_ready:
                raise
            return await other.ready(TIMEOUT)

    def _fail(self, error: ConnectError) -> None:
        if self._parts.health.answers == self._answers:
            self._parts.health.ask()
            self._parts.health.failed(error)

    async def close(self) -> None:
        """Give up the question under way."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
