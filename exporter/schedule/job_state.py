"""What the runs of one job came to: its last good result, its failures and their back-off, its cost."""

import statistics
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from exporter.errors import DatabaseError, Reason
from exporter.planning.plan import Job
from exporter.report import JobStatus
from exporter.samples.ledger import Ledger
from exporter.samples.model import Samples

_NEARLY = 0.95
"""A result that has nearly reached its age is collected anew: the next scrape is a whole interval away."""

_LONGEST_PAUSE_SECONDS = 15.0
"""A job that fails rests at most so long, so that its series are back two scrapes after the cause is gone."""

_FAILURES = 4
"""So often a job has to fail until it is tried no more often than it would run, where its cost puts its runs apart."""

_SUSPENSION_SECONDS = 60.0
_LONGEST_SUSPENSION_SECONDS = 600.0

_NEVER = float("-inf")


@dataclass
class Attempts:
    """Kept from one scrape to the next."""

    samples: Samples | None = None
    ok: bool = False
    pending: bool = False
    message: str = ""
    reason: Reason | Literal[""] = ""
    took: float = 0.0
    """Seconds from the last start to its end, well or not."""
    cost: float = 0.0
    """Seconds of the server's time that a run takes, as far as this side can tell: the middle one of the last runs."""
    interval: float = 0.0
    """Seconds that the budget of cost puts between two runs at least; 0 when it has no need to."""
    seconds: float = 0.0
    """The server's time that all runs took, as far as this side can tell."""
    rows: int = 0
    """Rows that all runs returned."""
    errors: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    ledger: Ledger | None = None
    _costs: deque[float] = field(default_factory=lambda: deque(maxlen=3))
    _duration: float | None = None
    _succeeded_at: float = _NEVER
    _attempted_at: float = _NEVER
    _not_before: float = _NEVER
    _failures: int = 0
    _suspensions: int = 0

    def due(self, cache: float, apart: float = 0.0, ahead: float = 0.0) -> bool:
        """Tell whether the result is no longer to be served again, and nothing holds the job back.

        Args:
            cache: seconds that a result is served.
            apart: seconds that lie between two visits to its database at least.
            ahead: seconds from now on that count as now.

        """
        now = time.monotonic()
        age = now - self._attempted_at + ahead
        if not self.ok:
            patience = min(self._failures / _FAILURES, 1.0)
            return now >= self._not_before and age >= _NEARLY * patience * max(self.interval, apart)
        return age >= _NEARLY * max(cache, self.interval, apart)

    def expire(self) -> None:
        """Let the result be as old as can be: another server is there now."""
        self._attempted_at = _NEVER

    def begin(self) -> None:
        """Note that the job starts."""
        self._attempted_at = time.monotonic()

    def book(self, rows: int, rtt: float) -> None:
        """Note what the query cost the server: the time it took, less what the way there and back takes."""
        cost = max(time.monotonic() - self._attempted_at - rtt, 0.0)
        self._costs.append(cost)
        self.cost = statistics.median_low(self._costs)  # one run that met with a pause of the network says nothing
        self.seconds += cost
        self.rows += rows

    def succeed(self, result: Samples) -> None:
        """Take over a result."""
        self._succeeded_at = time.monotonic()
        self._duration = self.took = self._succeeded_at - self._attempted_at
        self.samples, self.ok, self.pending = result, True, False
        self.message = self.reason = ""
        self.rejected.update(result.rejected)
        self._failures = self._suspensions = 0

    def fail(self, error: DatabaseError, *, ran: bool) -> bool:
        """Note a failure, and rest as long as it took, twice, four, at most eight times; tell whether it is news."""
        if ran:
            if error.reason == "timeout":
                self.book(0, 0.0)
            self.took = time.monotonic() - self._attempted_at
            self._not_before = time.monotonic() + min(self.took * 2 ** min(self._failures, 3), _LONGEST_PAUSE_SECONDS)
            self._failures += 1
        news, self.message = self.message != str(error), str(error)
        self.ok, self.pending = False, False
        self.reason = error.reason
        self.errors[error.reason] += 1
        return news

    def suspend(self) -> float:
        """Rest for long: the query did not end when it was told to, on a server that answers others."""
        pause = min(_SUSPENSION_SECONDS * 2.0 ** min(self._suspensions, 10), _LONGEST_SUSPENSION_SECONDS)
        self._not_before = time.monotonic() + pause
        self._suspensions += 1
        return pause

    def status(self, job: Job, last_good: float) -> JobStatus:
        """Say how the job fares, and what is served of it: a result that is too old is not."""
        age = time.monotonic() - self._succeeded_at
        young = age <= max(job.cache, self.interval) + last_good
        success = self.ok and not self.pending
        return JobStatus(
            collector=job.collector.name,
            datname=job.datname,
            success=success,
            samples=self.samples if success or young else None,
            duration=self._duration,
            age=age if self.samples else None,
            errors=dict(self.errors),
            rejected=dict(self.rejected),
            message=self.message or ("" if success else "late"),
            reason=self.reason or ("" if success else "late"),
            seconds=self.seconds,
            returned_rows=self.rows,
            interval=self.interval,
        )
