"""Looks at a target between scrapes, about once a second: samples its sessions, and records what goes wrong."""

import asyncio
import random
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.catalog.by_version import Version
from exporter.connections.discovery import Discovery
from exporter.connections.pool import Pool
from exporter.connections.session import Session
from exporter.errors import ConnectError, DatabaseError, QueryError
from exporter.logs import TargetLog
from exporter.report import JobStatus
from exporter.samples.convert import columns
from exporter.samples.model import Samples
from exporter.samples.wait_graph import blockers
from exporter.sql import signed
from exporter.watch.active_sessions import Activity
from exporter.watch.incidents import SESSIONS, IncidentKind, Recorder, Snapshot, troubles
from exporter.watch.incidents import Session as Waiting
from exporter.watch.own_load import OwnLoad
from exporter.watch.seen_texts import SeenTexts
from exporter.watch.statement_matching import Statement
from exporter.watch.wait_sampler import COLLECTOR, SAMPLE, SAMPLE_13, Sampler

_TIMEOUT = 5.0
"""Seconds after which the server ends a query of a look."""

_PATIENCE = 2.0
"""Seconds to wait for the answer of a look: a look that takes longer shows the past."""

_SHARE_OF_BUDGET = 0.2
"""Share of the cost budget that looks may take; the rest is left to collectors."""

_LONGEST_INTERVAL_SECONDS = 60.0
"""Upper bound on the seconds between two looks, however expensive they are."""

_QUIET_LOOKS = 10
"""Looks in a row that found nobody at work, after which a server counts as quiet."""

_QUIET_FACTOR = 2.0
"""Looks at a quiet server are so many times as far apart: each wakes our process and a backend."""

_SLOT_SECONDS = 0.01
"""Looks begin at whole slots, in seconds, so that the event loop wakes once for all targets that are due in one."""

_SILENT_SECONDS = 5.0
"""Seconds without any answer after which a server that hangs is recorded as down."""

_QUERY_IDS_SINCE = (14, 0)
"""Version of PostgreSQL from which pg_stat_activity has query_id."""

_FOLDED_LISTS_SINCE = (18, 0)
"""Version of PostgreSQL from which lists of constants count as one, however long they are."""

_SEEN_SECONDS = 5.0
"""Interval at which the sessions are read again while one waits long for a lock, for users who look at the page."""

_FRESH_SECONDS = 15.0
"""Age in seconds up to which sessions are shown as those that wait now: a pid may be another's later."""

_JUST_NOW_SECONDS = 3.0
"""Age in seconds up to which a look says whether anybody waits now."""

_PATIENT_SECONDS = 15.0
"""Seconds for the first looks of a process, within which it finds again what an earlier one recorded."""

_LOOKS = 9
"""Latest looks whose median cost decides the interval."""


@dataclass(frozen=True)
class WatchOptions:
    """Interval and budget of looks; thresholds of incidents."""

    interval: float = 1.0
    """Seconds between two looks."""
    cost_budget: float = 0.01
    """Share of a core that everything we do may cost the server; a fifth of it is for looking."""
    lock_wait: float = 5.0
    """Seconds of waiting for a lock."""
    connections: float = 0.9
    """Share of the unreserved connections (max_connections less those reserved) that is an incident."""
    literals: bool = False
    """True if recorded query texts keep their literals."""
    text_length: int = 160
    """Upper bound on the characters of a statement's text; 0 for none."""
    own_load: OwnLoad | None = None
    """The load of this process, by which looks yield; None for no heed."""


@dataclass(frozen=True)
class _Shown:
    """The sessions of a snapshot."""

    rows: Sequence[Mapping[str, Any]] = ()
    blocked_by: Mapping[int, Sequence[int | str]] = field(default_factory=dict)


async def _shown(session: Session, lock_entries: str | None) -> _Shown:
    """Read the sessions, and who waits for whom: by one read of the lock table, where somebody waits."""
    blocked_by: dict[int, list[int | str]] = {}
    if lock_entries:
        table = columns((await session.fetch(signed(lock_entries, "incidents"), _TIMEOUT, patience=_PATIENCE)).rows)
        names = dict(zip(table["owner"], map(_blocker, table["pid"], table["gid"]), strict=True)) if table else {}
        found = blockers(table) if table else {}
        blocked_by = {owner: [names[blocker] for blocker in waits] for owner, waits in found.items()}
    pids = {pid for waits in blocked_by.values() for pid in waits if isinstance(pid, int)}
    rows = await session.fetch(SESSIONS, _TIMEOUT, sorted(pids), patience=_PATIENCE)
    return _Shown(rows.rows, blocked_by)


def _blocker(pid: int | None, gid: str | None) -> int | str:
    return f"prepared transaction {gid}" if pid is None else pid


class Watch:
    """The loop, and what it remembers."""

    def __init__(
        self,
        discovery: Discovery,
        pool: Pool,
        options: WatchOptions,
        target: str,
        clock: Callable[[], float],
        log: TargetLog,
    ) -> None:
        self.recorder = Recorder(target, literals=options.literals, clock=clock)
        self._pool = pool
        self._clock = clock
        self._log = log
        self._discovery = discovery
        self._names = discovery.names
        self._options = options
        self._sampler, self.texts = Sampler(), SeenTexts(options.text_length)
        self._listed: Mapping[Statement, str] = {}
        self._costs: deque[float] = deque([0.0], maxlen=_LOOKS)
        self._cost = 0.0
        self._seconds = 0.0
        self._looked_at: float | None = None
        self._heard_at = clock()
        """Clock time of the latest answer, whatever it said."""
        self._quiet_looks = 0
        """Latest looks in a row that found nobody at work."""
        self._pause = 0.0
        """Seconds from the end of the latest look to the next."""
        self._errors: dict[str, int] = {}
        self._message = ""
        self._nameless: set[Any] = set()
        """OIDs that had no name when the directory was read last."""
        self._seen: tuple[float, Sequence[Waiting]] = (float("-inf"), ())
        """Clock time of the latest sessions that were read while one waited long for a lock, and these."""
        self._lock_waiters = 0
        """Sessions that waited for a lock at the latest look."""
        self._took = 0.0
        """Seconds until the last answer; looks rest three times as long, so that scrapes have most of a slow way."""

    async def run(
        self, late: Callable[[], Sequence[JobStatus]], listed: Callable[[], Mapping[Statement, str]] = dict
    ) -> None:
        """Look until cancelled.

        Args:
            late: lists the collectors that were not as they should be on the last page.
            listed: maps the statements with series of their own to their texts without literals, empty while not known;
                the same object while they are the same.

        """
        while True:
            started = self._clock()
            try:
                self._listed = listed()
                self._sampler.choose(self._listed, folds_lists=self._is_since(_FOLDED_LISTS_SINCE))
                await self._look(late())
            except Exception as error:  # noqa: BLE001  # the boundary: a bad look does not end the looking
                self._log.error("look between scrapes failed unexpectedly", exc_info=error)
                self._fail(QueryError("query", f"{type(error).__name__}: {error}"))
            interval = self.interval * random.uniform(0.5, 1.5)  # in step with nothing that is periodic
            self._pause = max(interval - (self._clock() - started), 3 * self._took, 0.05)
            wake = self._clock() + self._pause
            await asyncio.sleep(self._pause + _SLOT_SECONDS - wake % _SLOT_SECONDS)

    @property
    def interval(self) -> float:
        """Seconds between two looks: more than asked for at a quiet server, or when they cost it or us too much."""
        asked_for = self._options.interval * (_QUIET_FACTOR if self._quiet_looks >= _QUIET_LOOKS else 1.0)
        slowdown = self._options.own_load.slowdown if self._options.own_load else 1.0
        slowed = min(asked_for * slowdown, _LONGEST_INTERVAL_SECONDS)
        return max(asked_for, slowed, self._imposed)

    @property
    def _imposed(self) -> float:
        """Seconds between two looks that the cost budget imposes; 0 when it has no need to."""
        budget = self._options.cost_budget * _SHARE_OF_BUDGET
        imposed = min(self._cost / budget, _LONGEST_INTERVAL_SECONDS) if budget else 0.0
        return imposed if imposed > self._options.interval else 0.0

    def _is_since(self, version: Version) -> bool:
        """Return whether the server has this version or a newer one; False before the first scrape."""
        return self._discovery.server is not None and self._discovery.server.version >= version

    async def _look(self, late: Sequence[JobStatus]) -> None:
        self._took = 0.0
        try:
            async with self._pool.used(_TIMEOUT) as session:
                started = self._clock()
                sample = SAMPLE if self._is_since(_QUERY_IDS_SINCE) else SAMPLE_13
                rows = (await session.fetch(sample, _TIMEOUT, patience=_PATIENCE)).rows
                self._took = self._clock() - started
                look = self._sampler.add(rows, self._clock(), max(self.interval, self._pause), self._names)
                self._note_cost(look.seconds)
                self._lock_waiters = look.lock_waiters
                self._quiet_looks = 0 if look.busy else self._quiet_looks + 1
                if self._is_since(_QUERY_IDS_SINCE):
                    await self.texts.learn(session, self._sampler.running, self._listed, self._clock(), _PATIENCE)
                wrong = troubles(look, late, self._options.lock_wait, self._options.connections)
                shown = _Shown()
                is_seen = "lock_wait" not in wrong or self._clock() - self._seen[0] < _SEEN_SECONDS
                if not is_seen or any(self.recorder.wants(kind) for kind in wrong):
                    shown = await _shown(session, self._discovery.lock_entries if look.lock_waiters else None)
                    await self._learn_names(session, shown.rows)
        except DatabaseError as error:
            self._fail(error)
            return
        self._message = ""
        self._record(wrong, shown, late)
        self.recorder.well("down", *({"lock_wait", "connections", "late"} - wrong.keys()))  # type: ignore[arg-type]

    async def _learn_names(self, session: Session, shown: Sequence[Mapping[str, Any]]) -> None:
        """Read the names of roles and databases that are new; while their catalog is locked they stay OIDs."""
        unknown = self._names.unknown("role", (row["usesysid"] for row in shown))
        unknown |= self._names.unknown("database", (row["datid"] for row in shown))
        if unknown - self._nameless:
            try:
                directory = await session.directory(_TIMEOUT)
            except QueryError as error:
                self._log.debug("names could not be looked up", extra={"error": str(error)})
            else:
                self._names.replace(directory.databases, directory.roles)
                self._nameless = unknown

    def _note_cost(self, seconds: float) -> None:
        self._costs.append(seconds)
        self._cost = statistics.median(self._costs)  # one look during which the server stood still says nothing
        self._seconds += seconds
        self._looked_at = self._heard_at = self._clock()

    def _record(self, wrong: Mapping[IncidentKind, str], shown: "_Shown", late: Sequence[JobStatus]) -> None:
        collectors = [{"collector": j.collector, "datname": j.datname, "why": j.message} for j in late[:100]]
        for kind, summary in wrong.items():
            snapshot: Snapshot | None = None
            if shown.rows and kind == "lock_wait":
                seen = self.recorder.snapshot(summary, shown.rows, self._names, collectors, shown.blocked_by)
                self._seen = (self._clock(), seen.sessions)
            if self.recorder.wants(kind):
                snapshot = self.recorder.snapshot(summary, shown.rows, self._names, collectors, shown.blocked_by)
            self.recorder.wrong(kind, summary, snapshot)
        if "lock_wait" not in wrong:
            self._seen = (float("-inf"), ())

    def _fail(self, error: DatabaseError) -> None:
        self._errors[error.reason] = self._errors.get(error.reason, 0) + 1
        self._message = str(error)
        if isinstance(error, ConnectError):
            is_silent = self._clock() - self._heard_at >= _SILENT_SECONDS
            if is_silent or error.reason not in ("hung", "timeout"):  # one slow look is no server that is down
                snapshot = self.recorder.snapshot(str(error)) if self.recorder.wants("down") else None
                self.recorder.wrong("down", str(error), snapshot)
        elif error.reason != "connection":
            self._heard_at = self._clock()
            self.recorder.well("down")

    @property
    def waiting(self) -> Sequence[Waiting]:
        """The sessions as seen within the last seconds, while one waits long for a lock; else none."""
        at, sessions = self._seen
        return sessions if self._clock() - at <= _FRESH_SECONDS else ()

    @property
    def waiters(self) -> int | None:
        """Number of sessions that waited for a lock at a look of the last seconds; None without one."""
        is_fresh = self._looked_at is not None and self._clock() - self._looked_at <= _JUST_NOW_SECONDS
        return self._lock_waiters if is_fresh else None

    def restore(self, incident: Mapping[str, Any], clock_time: float) -> None:
        """Take up an incident of an earlier process; this one has to see a lock wait as long before it is wrong."""
        self.recorder.restore(incident, self._options.lock_wait + _PATIENT_SECONDS, clock_time)

    def take_recent(self) -> Mapping[Activity, float]:
        """Hand out the seconds of active sessions since they were taken last."""
        return self._sampler.take_recent()

    def status(self) -> JobStatus:
        """Describe the sampling as a collector for a report."""
        now = self._clock()
        age = now - self._looked_at if self._looked_at is not None else None
        longest = self.interval + max(self.interval, self._pause) + _PATIENCE
        success = age is not None and not self._message and age <= longest
        return JobStatus(
            collector=COLLECTOR,
            datname="",
            success=success,
            samples=self._sampler.samples(self._names, now) if age is not None else Samples(),
            duration=self._cost if age is not None else None,
            age=age,
            errors=dict(self._errors),
            message=self._message or ("" if success else "late"),
            seconds=self._seconds,
            interval=self._imposed,
        )
