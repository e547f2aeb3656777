"""Keeps the history of all targets while the exporter runs."""

import asyncio
import itertools
import logging
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from exporter.errors import StateError
from exporter.exposition.process_metrics import HISTORY_BYTES, HISTORY_SUCCESS
from exporter.history.state_folder import StateFolder
from exporter.history.target_history import TargetHistory
from exporter.logs import TargetLog
from exporter.samples.model import Family
from exporter.scrape.target import Target
from exporter.settings import Settings

_log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 5.0
"""Seconds between two looks at what is to be written: a crash loses no more of an incident."""

_TURNS_OF_REMOVAL = 720
"""Such looks between two at files of targets that have gone: an hour."""

_START_SECONDS = 2.0
"""Seconds that the start waits for the incidents of an earlier process, before the first look at a server."""


class Historian:
    """Owns the history of each target by its name; without `history_hours` there is none."""

    def __init__(self, targets: Mapping[str, Target], settings: Settings) -> None:
        self._folder = StateFolder(settings.state_dir)
        self._keep_seconds = settings.history_hours * 3600.0
        self._histories = self._of(targets)
        self._notes: dict[TargetHistory, asyncio.Task[None]] = {}
        self._removal: asyncio.Task[None] | None = None

    def _of(self, targets: Mapping[str, Target]) -> dict[str, TargetHistory]:
        return {
            name: TargetHistory(
                target,
                partial(self._folder.file, name, target.configured_address),
                self._keep_seconds,
                TargetLog(_log, name or target.configured_address),
            )
            for name, target in targets.items()
            if self._keep_seconds and target.kind == "postgresql"
        }

    async def restore(self) -> None:
        """Take up what an earlier process recorded; a disk that hangs delays the start by two seconds."""
        if self._histories and self._folder.is_temporary:
            _log.info("history ends with this process. Set state_dir to keep it across restarts")
        else:
            await self._restore(self._histories.values())

    async def _restore(self, histories: Iterable[TargetHistory]) -> None:
        await asyncio.gather(*(_booked(each, each.restore(_START_SECONDS)) for each in histories))

    async def adopt(self, gone: Mapping[str, Target], come: Mapping[str, Target]) -> None:
        """Write the last of the targets that have gone, and take up what is known of those that come."""
        left = [self._histories.pop(name) for name in gone if name in self._histories]
        await self._write_last(left)
        self._histories |= (new := self._of(come))
        await self._restore(new.values())

    async def run(self) -> None:
        """Keep the history until cancelled."""
        turns = itertools.count()
        while self._keep_seconds:
            await asyncio.sleep(_INTERVAL_SECONDS)
            self._note()
            is_turn = next(turns) % _TURNS_OF_REMOVAL == 0 and self._folder.is_open
            if is_turn and (self._removal is None or self._removal.done()):
                self._removal = asyncio.create_task(self._remove_old(), name="remove old history")

    async def _remove_old(self) -> None:
        """Remove what is left of targets that have gone."""
        histories = [*self._histories.values()]

        def remove() -> None:
            self._folder.remove_old(self._keep_seconds, [each.path for each in histories])

        with suppress(OSError, StateError):  # of a folder that cannot be used, each history tells
            await asyncio.to_thread(remove)

    def _note(self) -> None:
        """Let each target note what is new, unless it still does."""
        self._notes = {history: note for history, note in self._notes.items() if not note.done()}
        for history in self._histories.values():
            if history not in self._notes:
                self._notes[history] = asyncio.create_task(_booked(history, history.note()), name="history")

    def of(self, target: str) -> TargetHistory | None:
        """Return the history of a target; None where none is kept."""
        return self._histories.get(target)

    def families(self) -> list[Family]:
        """Say how it does, for the page of metrics."""
        states = [history.status for history in self._histories.values()]
        if not states:
            return []
        success = all(state.success for state in states)
        return [
            Family(HISTORY_SUCCESS, [""], [int(success)]),
            Family(HISTORY_BYTES, [""], [sum(state.bytes for state in states)]),
        ]

    async def close(self) -> None:
        """Write what is not written yet, for a few seconds at most, and leave the folder."""
        await self._write_last(self._histories.values())
        self._folder.close()

    async def _write_last(self, histories: Iterable[TargetHistory]) -> None:
        notes = [asyncio.create_task(_booked(each, each.note(ends=True))) for each in histories]
        if notes:
            await asyncio.wait(notes, timeout=_START_SECONDS)


async def _booked(history: TargetHistory, work: Coroutine[Any, Any, None]) -> None:
    """Do work for a target; what goes wrong unexpectedly costs its history, not the exporter."""
    try:
        await work
    except Exception as error:  # the boundary: nothing else retrieves it
        history.log.error("history failed unexpectedly", exc_info=error)
