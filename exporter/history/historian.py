"""Keeps the history of all targets while the exporter runs."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

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

_START_SECONDS = 2.0
"""Seconds that the start waits for the incidents of an earlier process, before the first look at a server."""


class Historian:
    """Owns the history of each target by its name; without `history_hours` there is none."""

    def __init__(self, targets: Mapping[str, Target], settings: Settings) -> None:
        self._folder = StateFolder(settings.state_dir)
        keep = settings.history_hours * 3600.0
        self._histories = {
            name: self._of(name, target, keep)
            for name, target in targets.items()
            if keep and target.kind == "postgresql"
        }
        self._notes: dict[str, asyncio.Task[None]] = {}

    def _of(self, name: str, target: Target, keep_seconds: float) -> TargetHistory:
        log = TargetLog(_log, name or target.address)
        return TargetHistory(target, lambda: self._folder.file(name, target.address), keep_seconds, log)

    async def restore(self) -> None:
        """Take up what an earlier process recorded; a disk that hangs delays the start by two seconds."""
        if self._histories and self._folder.is_temporary:
            _log.info("history ends with this process. Set state_dir to keep it across restarts")
        elif self._histories:
            await asyncio.gather(*(_booked(each, each.restore(_START_SECONDS)) for each in self._histories.values()))

    async def run(self) -> None:
        """Keep the history until cancelled."""
        while self._histories:
            await asyncio.sleep(_INTERVAL_SECONDS)
            self._note()

    def _note(self) -> None:
        """Let each target note what is new, unless it still does."""
        for name, history in self._histories.items():
            if name not in self._notes or self._notes[name].done():
                self._notes[name] = asyncio.create_task(_booked(history, history.note()), name="history")

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
        notes = [asyncio.create_task(_booked(each, each.note(ends=True))) for each in self._histories.values()]
        if notes:
            await asyncio.wait(notes, timeout=_START_SECONDS)
        self._folder.close()


async def _booked(history: TargetHistory, work: Coroutine[Any, Any, None]) -> None:
    """Do work for a target; what goes wrong unexpectedly costs its history, not the exporter."""
    try:
        await work
    except Exception as error:  # the boundary: nothing else retrieves it
        history.log.error("history failed unexpectedly", exc_info=error)
