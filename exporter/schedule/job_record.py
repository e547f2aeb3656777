"""Remembers one job from run to run: its state, its last good result, its failures, its cost."""

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from exporter.backoff import SUSPENSION, retry_pause
from exporter.catalog.model import Collector
from exporter.errors import DatabaseError, Reason
from exporter.planning.plan import Job
from exporter.report import JobStatus
from exporter.samples.model import Samples
from exporter.schedule.next_run import (
    NEVER,
    Failed,
    New,
    NextRun,
    Running,
    Spacing,
    State,
    Suspended,
    Waiting,
    fresh_seconds,
    next_run,
)

COLD_SECONDS = 0.1
"""Server time of a first run, in seconds, on which no throttling is based: the next one costs a fraction of it.

A cold start would else throttle dozens of cheap collectors, for minutes, on an idle server.
"""


QUICK_SECONDS = 0.1
"""Longest run of a query that may be one of several that a statement asks, in seconds."""

FEW_ROWS = 1000
"""Upper bound on the rows of such a query."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one run of a job."""

    seconds: float
    """From its start to its end, query and rows together."""
    server_seconds: float = 0.0
    """Time that the query took, less its round trips: an upper bound of what it cost the server."""
    rows: int = 0
    """Rows that the query returned."""
    samples: Samples | None = None
    """None when it failed."""
    error: DatabaseError | None = None
    is_stuck: bool = False
    """True if the session still waits for its query."""


@dataclass
class JobRecord:
    """Remembered of one job from run to run: one state, replaced at each transition, and what its runs came to."""

    spacing: Spacing = field(default_factory=Spacing)
    state: State = field(default_factory=New)
    next_run: NextRun = field(default_factory=lambda: next_run(New(), Spacing()))
    last_good: Samples | None = None
    succeeded_at: float = NEVER
    message: str = ""
    """Error of the last run."""
    reason: Reason | Literal[""] = ""
    took: float = 0.0
    """Seconds of the last run, whatever came of it."""
    duration: float | None = None
    """Seconds of the last run that succeeded."""
    server_seconds: float = 0.0
    """Server time of all runs."""
    rows: int = 0
    """Rows of all runs."""
    errors: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    collector: Collector | None = None
    """The collector as it was when this was begun."""
    _costs: tuple[float, ...] = ()

    @property
    def cost(self) -> float:
        """Server time of a run, in seconds: the median of the last three, as a pause of the network says nothing."""
        return statistics.median_low(self._costs) if self._costs else 0.0

    @property
    def is_cold(self) -> bool:
        """Return whether its cost is that of a single run, and small: the backend had read no catalog yet."""
        return len(self._costs) == 1 and self.cost < COLD_SECONDS

    def fresh_for(self, cost_budget: float) -> float:
        """Seconds between two runs that cost so little that no cache has to save them; a cold run says nothing yet."""
        return fresh_seconds(0.0 if self.is_cold else self.cost, cost_budget) if self._costs else math.inf

    @property
    def is_quick(self) -> bool:
        """Return whether the last run was a success, quick and of few rows."""
        return self.is_good and self.took <= QUICK_SECONDS and (self.last_good or Samples()).rows <= FEW_ROWS

    def _become(self, state: State) -> None:
        self.state = state
        self.next_run = next_run(state, self.spacing)

    @property
    def _settled(self) -> New | Waiting | Failed | Suspended:
        return self.state.before if isinstance(self.state, Running) else self.state

    def is_due(self, now: float) -> bool:
        """Return whether a run may start."""
        return not isinstance(self.state, Running) and now >= self.next_run.at

    @property
    def is_good(self) -> bool:
        """Return whether the last run that ended, ended well."""
        return isinstance(self._settled, Waiting)

    def space(self, spacing: Spacing) -> None:
        """Take note of what keeps runs apart from now on."""
        if spacing != self.spacing:
            self.spacing = spacing
            self._become(self.state)

    def start(self, now: float) -> None:
        """Begin a run."""
        self._become(Running(now, self._settled))

    def record(self, outcome: Outcome, now: float) -> bool:
        """End a run; return whether its error is news. One that was under way on another server never was."""
        if isinstance(self.state, Running) and self.state.is_outdated:
            self._become(New())
            return False
        self.took = outcome.seconds
        self._add_cost(outcome)
        if outcome.samples is None:
            return self._fail(outcome, now)
        self.last_good, self.succeeded_at, self.duration = outcome.samples, now, outcome.seconds
        self.message = self.reason = ""
        self.rejected.update(outcome.samples.rejected)
        self._become(Waiting(self._started))
        return False

    @property
    def _started(self) -> float:
        return NEVER if isinstance(self.state, New) else self.state.started

    def _add_cost(self, outcome: Outcome) -> None:
        if outcome.samples is None and outcome.server_seconds == 0.0:
            return
        self._costs = (*self._costs[-2:], outcome.server_seconds)
        self.server_seconds += outcome.server_seconds
        self.rows += outcome.rows

    def _fail(self, outcome: Outcome, now: float) -> bool:
        failures, suspensions = self._streak
        until = now + retry_pause(failures + 1, outcome.seconds)
        self._become(Failed(self._started, until, failures + 1, suspensions))
        return outcome.error is not None and self._note(outcome.error)

    def miss(self, error: DatabaseError) -> None:
        """Note that the job had no connection: it is retried as soon as there is one."""
        failures, suspensions = self._streak
        until = self._settled.until if isinstance(self._settled, Failed | Suspended) else NEVER
        self._become(Failed(self._started, until, failures, suspensions))
        self._note(error)

    def suspend(self, now: float) -> float:
        """Suspend the job; return for how many seconds."""
        failures, suspensions = self._streak
        pause = SUSPENSION.pause(suspensions + 1)
        self._become(Suspended(self._started, now + pause, failures, suspensions + 1))
        return pause

    def expire(self) -> None:
        """Forget its result, and when and how it last ran: another server is there now."""
        self.last_good, self.succeeded_at = None, NEVER
        self.message = self.reason = ""
        is_running = isinstance(self.state, Running)
        self._become(Running(self._started, New(), is_outdated=True) if is_running else New())

    def status(self, job: Job, now: float, *, is_expected: bool, last_good: float) -> JobStatus:
        """Describe the job for a report; a last good result is served while it is young enough.

        One that names a culprit is not: by then another one may be, or none.

        Args:
            job: the job.
            now: clock time in seconds.
            is_expected: whether the scrape waits for a newer result than the last one.
            last_good: seconds that the last good result of a failing job is served beyond its interval.

        """
        age = now - self.succeeded_at
        success = self.is_good and not is_expected
        is_young = job.collector.last_good and age <= max(job.cache, self.spacing.imposed) + last_good
        why_not: Literal["late", ""] = "" if success else "late"
        return JobStatus(
            collector=job.collector.name,
            datname=job.datname,
            success=success,
            samples=(served := self.last_good if success or is_young else None),
            dropped=served.unread if served else 0,
            duration=self.duration,
            age=age if self.last_good else None,
            errors=dict(self.errors),
            rejected=dict(self.rejected),
            message=self.message or why_not,
            reason=self.reason or why_not,
            seconds=self.server_seconds,
            returned_rows=self.rows,
            interval=self.spacing.imposed,
            next_run_seconds=max(self.next_run.at - now, 0.0),
            next_run_why=self.next_run.why,
        )

    @property
    def _streak(self) -> tuple[int, int]:
        """Return how many runs in a row have failed, and how many of them ended in a suspension."""
        settled = self._settled
        return (settled.failures, settled.suspensions) if isinstance(settled, Failed | Suspended) else (0, 0)

    def _note(self, error: DatabaseError) -> bool:
        is_news, self.message = self.message != str(error), str(error)
        self.reason = error.reason
        self.errors[error.reason] += 1
        return is_news
