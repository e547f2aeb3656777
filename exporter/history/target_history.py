"""The history of one target: takes what was seen each minute to its file, off the event loop, and reads it back."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from exporter.connections.off_loop import OffLoop
from exporter.errors import StateError
from exporter.history.minute import SECONDS, Minute, Span, Use, largest
from exporter.history.reading import Reading, gauges_of, reading_of
from exporter.history.recent_work import RecentWork, added
from exporter.logs import TargetLog
from exporter.report import Report
from exporter.scrape.target import Target
from exporter.watch.active_sessions import Activity
from exporter.watch.incidents import Incident
from exporter.watch.statement_matching import Statement

if TYPE_CHECKING:
    from exporter.history.file import HistoryFile

T = TypeVar("T")

_PATIENCE_SECONDS = 10.0
"""Seconds to wait for the disk; a call that takes longer goes on, and nothing else of this target waits for it."""

_HOUR_SECONDS = 3600.0

_DROP_MINUTES = 30
"""Interval at which what is old is dropped, in minutes: it reads the whole file."""


@dataclass(frozen=True)
class HistoryStatus:
    """How the history of a target does."""

    success: bool = True
    bytes: int = 0
    """Size of the file."""
    message: str = ""
    """Reason of the latest failure; empty while it succeeds."""


class TargetHistory:
    """Writes and reads. A disk that fails costs the history only: one line in the log, and a metric."""

    def __init__(
        self,
        target: Target,
        path: Callable[[], Path],
        keep_seconds: float,
        log: TargetLog,
        clock: Callable[[], float] = time.time,
        calls: OffLoop | None = None,
    ) -> None:
        self.status = HistoryStatus()
        self.work = RecentWork()
        self._target = target
        self._path = path
        self._keep = keep_seconds
        self.log = log
        self._clock = clock
        self._calls = calls or OffLoop()
        self._kept: HistoryFile | None = None
        self._minute = int(clock()) // SECONDS
        """Number of the minute under way."""
        self._latest = -1
        """Number of the latest minute that was finished."""
        self._begun: Reading | None = None
        """Counters of the statements at the beginning of the minute; None while they were not read."""
        self._read: tuple[object, Sequence[Span]] | None = None
        """The latest spans that were read, and what they were."""
        self._written: dict[str, tuple[object, ...]] = {}
        """What each incident was when it was written."""
        self._noting = asyncio.Lock()

    @property
    def path(self) -> Path:
        """The file; StateError or OSError where it can have none."""
        return self._path()

    async def restore(self, timeout: float = _PATIENCE_SECONDS) -> None:
        """Take up the last hour's work, and hand the incidents of an earlier process to the watch."""
        now = self._clock()
        hour = [(now - _HOUR_SECONDS, now)]
        found = await self._call("restore", lambda file: (file.incidents(), file.spans(hour)), timeout)
        stored, [span] = found or ([], [Span()])
        self.work.before = dict(span.statements)
        if not stored or not self._target.watch:
            return
        since = self._clock() - self._keep
        for each in stored:
            try:
                if each["seen"] >= since:
                    self._target.watch.restore(each, self._clock())
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self.log.warning("incident of the history cannot be read", extra={"reason": repr(error)})
        self._written = {each.id: _state(each) for each in self._target.incidents if each.ended}

    async def note(self, *, ends: bool = False) -> None:
        """Write what changed: incidents at once, the rest when a minute is over, or when the process ends."""
        async with self._noting:  # the end waits for what is still being written, and adds to it
            await self._note(ends=ends)

    async def _note(self, *, ends: bool) -> None:
        minute = await self._finished(ends=ends)
        changed = [each for each in self._target.incidents if (minute and not each.ended) or self._is_new(each)]
        if not minute and not changed:
            return
        states = {each.id: _state(each) for each in changed}
        size = await self._call("write", lambda file: file.write(minute, [_stored(each) for each in changed]))
        if size is None:
            await self._call("drop", lambda file: file.drop(self._clock() - self._keep))  # it may be full
            return
        self._succeed(size)
        self._written |= states
        self._read = None
        if minute and self._minute % _DROP_MINUTES == 0:
            await self._call("drop", lambda file: file.drop(self._clock() - self._keep))

    async def spans(self, spans: Sequence[tuple[float, float]], timeout: float = _PATIENCE_SECONDS) -> Sequence[Span]:
        """Return what is known of each span, from its first until before its second Unix time.

        The answer is remembered until a minute is written: a page is read every few seconds. StateError where the file
        cannot be read.
        """
        if self._read is None or self._read[0] != spans:
            try:
                found = await self._calls.call("read", lambda: self._worked(lambda file: file.spans(spans)), timeout)
            except TimeoutError as error:
                raise StateError(str(error)) from None
            self._read = spans, found
        return self._read[1]

    async def _finished(self, *, ends: bool) -> Minute | None:
        """Return the minute that is over; None while it is under way, and where the clock was set back."""
        number = int(self._clock()) // SECONDS
        if number == self._minute and not ends:
            if self._begun is None:  # the first minute counts from when the statements were first read
                self._begun = reading_of(await self._target.known(), self._clock())
            return None
        at, self._minute = self._minute, number
        report = await self._target.known()
        begun, self._begun = self._begun, reading_of(report, self._clock())
        sessions = largest(self._target.watch.take_recent()) if self._target.watch else {}
        if at <= self._latest < at + _DROP_MINUTES:  # written already, before the clock was set back
            return None
        self._latest = at
        work, seconds = begun.until(self._begun) if begun and self._begun else ({}, 0.0)
        if begun and self._begun and begun.server != self._begun.server:
            self.work.forget()
        self.work.add(work, seconds, sessions)
        listed = {statement: text for statement, text in self._target.texts.listed().items() if text}
        texts = {**self._seen(sessions), **listed}
        return Minute(at * SECONDS, sessions, work, gauges_of(report) if report.up else {}, texts)

    def _seen(self, sessions: Mapping[Activity, float]) -> dict[Statement, str]:
        """Return the texts of statements that were seen to run; a list has them at their end only."""
        known = self._target.watch.texts.texts if self._target.watch else {}
        return {each.statement: known[each.statement[2]] for each in sessions if each.statement[2] in known}

    async def under_way(self) -> tuple[dict[Statement, Use], float, Mapping[Statement, str]]:
        """Return the work of the minute under way, its seconds, and the texts of its statements."""
        begun, now = self._begun, reading_of(await self._target.known(), self._clock())
        work, seconds = begun.until(now) if begun and now else ({}, 0.0)
        return work, seconds, {each: text for each, text in self._target.texts.listed().items() if each in work}

    def latest_work(self, report: Report) -> tuple[dict[Statement, Use], float]:
        """Add up what the statements did lately, and say in how many seconds: 0 while that is not known.

        The report is of now: it adds what is known of the minute under way. Safe in a thread.
        """
        begun, now = self._begun, reading_of(report, self._clock())
        if not begun or not now or begun.server != now.server:
            return {}, 0.0
        parts = (*self.work.latest, begun.until(now))
        return added(work for work, _ in parts), sum(seconds for _, seconds in parts)

    def _is_new(self, incident: Incident) -> bool:
        return self._written.get(incident.id) != _state(incident)

    async def _call(
        self, what: str, work: Callable[["HistoryFile"], T], timeout: float = _PATIENCE_SECONDS
    ) -> T | None:
        """Work on the file in a thread; None, and one line in the log, where that fails."""
        try:
            done = await self._calls.call(what, lambda: self._worked(work), timeout)
        except (StateError, TimeoutError) as error:
            self._fail(str(error))
            return None
        if self._kept and self._kept.was_damaged:
            self.log.warning("history was damaged and begins again", extra={"moved": f"{self._kept.path}.damaged"})
            self._kept.was_damaged = False
        return done

    def _succeed(self, size: int) -> None:
        if self.status.message:
            self.log.info("history is kept again")
        self.status = HistoryStatus(bytes=size)

    def _fail(self, message: str) -> None:
        if not self.status.message:
            self.log.warning("history is not kept", extra={"reason": message})
        self.status = HistoryStatus(success=False, bytes=self.status.bytes, message=message)

    def _worked(self, work: Callable[["HistoryFile"], T]) -> T:
        """Work on the file, in a thread, which imports SQLite as well. Its folder is looked for until there is one."""
        import sqlite3

        from exporter.history.file import HistoryFile

        try:
            if self._kept is None:
                self._kept = HistoryFile(self._path())
            return work(self._kept)
        except (sqlite3.Error, OSError) as error:
            place = self._kept.path if self._kept else "state_dir"
            raise StateError(f"{place}: {type(error).__name__}: {error}") from error


def _state(incident: Incident) -> tuple[object, ...]:
    return len(incident.snapshots), incident.ended


def _stored(incident: Incident) -> dict[str, object]:
    return {**incident.whole(), "seen": incident.seen}
