"""Asks each source of servers at its own pace: one that is slow delays no other, and no reload."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from exporter.connection_settings import SourceSettings
from exporter.discovery.discovery import INTERVAL_SECONDS, DiscoveryLoop
from exporter.errors import PgvigilError

_log = logging.getLogger(__name__)


class Rounds:
    """Asks the sources again and again.

    Args:
        discovery: knows what they said.
        follow: takes up what an answer has changed.

    """

    def __init__(self, discovery: DiscoveryLoop, follow: Callable[[], Awaitable[None]]) -> None:
        self._discovery, self._follow = discovery, follow
        self._asking: dict[SourceSettings, asyncio.Task[None]] = {}
        self._due: dict[SourceSettings, float] = {}
        """When each is to be asked: monotonic time."""
        self._news = asyncio.Event()

    async def begin(self, seconds: float) -> None:
        """Ask all of them, and wait some seconds for their first answers."""
        self._ask_those_due()
        if self._asking:
            await asyncio.wait([*self._asking.values()], timeout=seconds)

    def wake(self) -> None:
        """Have the sources looked at: there may be others."""
        self._news.set()

    async def run(self) -> None:
        """Ask them until cancelled."""
        try:
            while True:
                self._news.clear()
                self._hasten(await self._until_news(self._ask_those_due()))
        finally:
            for asking in self._asking.values():
                asking.cancel()

    def _ask_those_due(self) -> float:
        """Begin to ask those whose time has come; return the seconds until that of the next."""
        now, sources = time.monotonic(), self._discovery.sources
        self._due = {source: self._due.get(source, now) for source in sources}
        for source in sources:
            if source not in self._asking and self._due[source] <= now:
                self._due[source] = now + INTERVAL_SECONDS
                self._asking[source] = asyncio.create_task(self._ask(source), name=source.title)
        idle = [self._due[source] - now for source in sources if source not in self._asking]
        return max(min(idle, default=INTERVAL_SECONDS), 0.0)

    async def _until_news(self, seconds: float) -> Iterable[SourceSettings]:
        """Wait until a source tells of a change, an answer has come, or the time is over; return who tells."""
        changed = asyncio.create_task(self._discovery.until_changed(seconds), name="changes of sources")
        news = asyncio.create_task(self._news.wait(), name="answers of sources")
        try:
            await asyncio.wait({changed, news}, return_when=asyncio.FIRST_COMPLETED)
            return changed.result() if changed.done() else ()
        finally:
            changed.cancel()
            news.cancel()

    def _hasten(self, sources: Iterable[SourceSettings]) -> None:
        for source in sources:
            self._due[source] = 0.0

    async def _ask(self, source: SourceSettings) -> None:
        try:
            await self._discovery.ask([source])
            await self._follow()
        except PgvigilError as error:
            _log.warning("servers that were found cannot be used", extra={"reason": str(error)})
        except Exception:  # noqa: BLE001  # the boundary: nothing else retrieves it
            _log.exception("servers could not be looked for")
        finally:
            del self._asking[source]
            self._news.set()
