"""Begins and ends the work of the process: targets, their history, and what is read again when files change."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from exporter.fleet import Change
from exporter.history.historian import Historian
from exporter.reloads import Reloads
from exporter.scrape.target import Target
from exporter.scrape.turns import Turns
from exporter.web.guard import Guard

_FIRST_LOGIN_SECONDS = 10.0
"""Timeout of the first login, in seconds: longer than most login timeouts, so the log has the server's reason."""


class Lifecycle:
    """Owns the tasks that run as long as the process.

    Args:
        targets: the targets of the moment.
        historian: keeps their history.
        guard: the rules for clients.
        reloads: changes the targets; None where they stay as they are.

    """

    def __init__(
        self, targets: Mapping[str, Target], historian: Historian, guard: Guard, reloads: Reloads | None
    ) -> None:
        self._targets, self._historian, self._guard, self._reloads = targets, historian, guard, reloads
        self._tasks: set[asyncio.Task[Any]] = set()

    async def begin(self) -> None:
        """Take up the history, then begin with everything at once."""
        await self._historian.restore()
        self._start("begin", self._begin_with(self._targets.values()))
        if self._reloads:
            await self._reloads.begin(self._adopt)
        self._start("historian", self._historian.run())
        self._start("web configuration", self._guard.watch())
        if self._reloads:
            self._start("reloads", self._reloads.run())
            self._start("discovery", self._reloads.discover())

    async def end(self) -> None:
        """End everything; what is not written yet is written, for a few seconds at most."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._historian.close()
        await _close(self._targets.values())

    async def _adopt(self, change: Change) -> None:
        """Begin with the targets that come, and end those that have gone."""
        await self._historian.adopt(change.gone, change.come)
        self._start("begin", self._begin_with(change.come.values()))
        await _close(change.gone.values())

    async def _begin_with(self, targets: Iterable[Target]) -> None:
        """Look at each target and log in to it, one after another: hundreds at once would stop the loop."""
        turns = Turns()
        for target in targets:
            await turns.next()
            if target.is_closed:  # it went before its turn came
                continue
            target.start()
            self._start("first login", target.ping(_FIRST_LOGIN_SECONDS))

    def _start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _close(targets: Iterable[Target]) -> None:
    await asyncio.gather(*(target.close() for target in targets), return_exceptions=True)
