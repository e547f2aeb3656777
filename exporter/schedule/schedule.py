"""Holds the jobs of one target, and lists which are due; `next_run` decides when. No I/O; the clock is handed in."""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from exporter.errors import DatabaseError
from exporter.logs import TargetLog
from exporter.planning.plan import Job, Plan
from exporter.report import JobStatus, Rounds
from exporter.schedule.cost_budget import Apart, Login, throttled
from exporter.schedule.job_record import JobRecord, Outcome
from exporter.schedule.next_run import Spacing
from exporter.schedule.rotation import Rotation

USUAL_SCRAPE_INTERVAL = 15.0
"""Assumed scrape interval in seconds until two scrapes have been seen."""

LONGEST_SCRAPE_INTERVAL = 300.0
"""Upper bound on a measured scrape interval, in seconds: a night without scrapes is no interval."""

INTERVAL_WEIGHT = 0.3
"""Weight of the newest scrape interval in the moving average: five scrapes after a change it is four fifths there."""

LOOK_AHEAD = 0.8
"""Share of the time between two visits to a database by which a visit looks ahead: later jobs are left to the next."""

STALE_CONTENTS_SECONDS = 300.0
"""Seconds between two visits to a database that no job runs in, to learn whether that has changed."""


class Schedule:
    """The jobs of one target, and the databases that wait for a visit."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        cost_budget: float = 0.0,
        last_good: float = 60.0,
        log: TargetLog | None = None,
    ) -> None:
        self.plan = Plan((), {})
        self.rotation = Rotation(clock)
        self.scrape_interval = USUAL_SCRAPE_INTERVAL
        """Moving average of the seconds between two scrapes."""
        self._clock = clock
        self._cost_budget = cost_budget
        self._last_good = last_good
        self._log = log or TargetLog(logging.getLogger(__name__), "")
        self._home = ""
        self._visited: tuple[str, ...] = ()
        self._records: dict[tuple[str, str], JobRecord] = {}
        self._expected: set[tuple[str, str]] = set()
        self._throttled: frozenset[str] = frozenset()
        self._apart: Apart | None = None
        """Spacing of this plan's jobs; None before it was decided."""
        self._scraped_at: float | None = None

    def adopt(self, plan: Plan, home: str, databases: Iterable[str]) -> None:
        """Adopt a plan for these databases; `home` has the kept connections. Jobs that stay keep their records."""
        if plan is self.plan:
            return
        self.plan, self._home, self._apart = plan, home, None
        self._visited = tuple(name for name in databases if name != home)
        for job in plan.jobs:
            self._freshen(job)

    def cache(self, job: Job) -> float:
        """Return the seconds that a result is served again: less than its cache where a run costs little."""
        is_to_be_fresh = job.collector.fresh and job.database == self._home
        return min(job.cache, self._record(job).fresh_for(self._cost_budget)) if is_to_be_fresh else job.cache

    def _freshen(self, job: Job) -> None:
        record, cache = self._record(job), self.cache(job)
        if record.spacing.cache != cache:
            record.space(replace(record.spacing, cache=cache))

    def expire(self) -> None:
        """Make every job due, and drop its result: another server is there now."""
        for record in self._records.values():
            record.expire()

    def begin_scrape(self) -> None:
        """Measure the scrape interval."""
        now = self._clock()
        if self._scraped_at is not None:
            seconds = min(now - self._scraped_at, LONGEST_SCRAPE_INTERVAL)
            self.scrape_interval += INTERVAL_WEIGHT * (seconds - self.scrape_interval)
        self._scraped_at = now

    def forget(self) -> None:
        """Forget jobs that are no longer planned."""
        planned = {job.key for job in self.plan.jobs}
        self._records = {key: record for key, record in self._records.items() if key in planned}
        self._expected &= planned

    def throttle(self) -> None:
        """Put the most expensive jobs further apart while all together cost more than the budget."""
        if self._cost_budget and self.plan.jobs:
            costs = {job.key: self._record(job).cost for job in self.plan.jobs}
            logins = {database: self.rotation.turn(database).cost for database in self.plan.by_database}
            apart = throttled(self.plan, self._home, costs, logins, self.scrape_interval, self._cost_budget)
            here = self.plan.by_database.get(self._home, ())
            cold = {job.key for job in here if self._record(job).is_cold}  # elsewhere each visit is a new connection
            self._space({key: seconds for key, seconds in apart.items() if key not in cold})

    def _space(self, apart: Apart) -> None:
        """Keep the runs of each job apart, and log in one line for which collectors throttling begins or ends."""
        if apart == self._apart:
            return
        self._apart = apart
        for database in self.plan.by_database:
            self.rotation.turn(database).interval = apart.get(Login(database), 0.0)
        for job in self.plan.jobs:
            turn = self.rotation.turn(job.database)
            self._record(job).space(Spacing(self.cache(job), apart.get(job.key, 0.0), turn.interval, turn.rests_until))
        names = frozenset(key[0] for key in apart if not isinstance(key, Login))
        if names != self._throttled:
            changes = {"begun": names - self._throttled, "ended": self._throttled - names}
            extra = {what: ", ".join(sorted(collectors)) for what, collectors in changes.items()}
            self._log.debug("%d collectors are throttled by the cost budget", len(names), extra=extra)
        self._throttled = names

    def _record(self, job: Job) -> JobRecord:
        found = self._records.get(job.key)
        if found is None or found.collector is not job.collector:  # or its file was changed
            found = self._records[job.key] = JobRecord(collector=job.collector)
        return found

    def job_of(self, sql: str) -> Job | None:
        """Find the job of the DSN's database that asks this query; None when it is none of a job."""
        return next((job for job in self.plan.by_database.get(self._home, ()) if sql in job.queries), None)

    def due(self, *, is_vital: bool, database: str | None = None) -> list[Job]:
        """List the jobs that are due, in one database or in all, those first whose last run was quickest."""
        now = self._clock()
        jobs = self.plan.jobs if database is None else self.plan.by_database.get(database, ())
        return self._quickest_first(j for j in jobs if j.collector.vital == is_vital and self._record(j).is_due(now))

    def expect(self, jobs: Iterable[Job]) -> None:
        """Have the page wait for newer results of these jobs: until they are there, the last ones count as stale."""
        self._expected.update(job.key for job in jobs)

    def expected(self, jobs: Iterable[Job]) -> list[Job]:
        """Return those of the jobs that the page still waits for."""
        return [job for job in jobs if job.key in self._expected]

    def is_quick(self, job: Job) -> bool:
        """Return whether the last run was a success, quick and of few rows."""
        return self._record(job).is_quick

    def start(self, job: Job) -> None:
        """Begin a run."""
        self._record(job).start(self._clock())

    def record(self, job: Job, outcome: Outcome) -> bool:
        """End a run; return whether its error is news."""
        self._expected.discard(job.key)
        is_news = self._record(job).record(outcome, self._clock())
        self._freshen(job)
        return is_news

    def miss(self, jobs: Iterable[Job], error: DatabaseError) -> None:
        """Note that these jobs had no connection."""
        for job in jobs:
            self._expected.discard(job.key)
            self._record(job).miss(error)

    def refuse(self, database: str, error: DatabaseError) -> None:
        """Note that a database refused us: what is due there misses its run, and it rests."""
        self.miss(self.due(is_vital=False, database=database), error)
        self.rotation.refuse(database)
        for job in self.plan.by_database.get(database, ()):
            record = self._record(job)
            record.space(replace(record.spacing, rests_until=self.rotation.turn(database).rests_until))

    def suspend(self, job: Job) -> float:
        """Suspend a job whose query ignored its statement_timeout; return for how many seconds."""
        return self._record(job).suspend(self._clock())

    def line_up_visits(self, stale: Collection[str], visiting: Collection[str]) -> None:
        """Put the databases in line where something is due, or whose contents are stale, and some of the rest.

        Args:
            stale: databases whose extensions and tables have to be looked at again.
            visiting: those that are being visited.

        """
        now = self._clock()
        self.rotation.forget_all_but({self._home, *self._visited})
        due = {job.database for job in self.plan.jobs if self._record(job).is_due(now)} | set(stale)
        for name in self._visited:
            turn = self.rotation.turn(name)
            turn.period = max(turn.interval, self._period(name))
        self.rotation.line_up([name for name in self._visited if name not in visiting], due, self.scrape_interval)

    def _period(self, database: str) -> float:
        """Return the seconds after which something is due in a database again."""
        jobs = self.plan.by_database.get(database, ())
        spacings = ((job.cache, self._record(job).spacing.throttle, self.scrape_interval) for job in jobs)
        return min(map(max, spacings), default=STALE_CONTENTS_SECONDS)

    def on_visit(self, database: str) -> list[Job]:
        """List what a visit runs: what is due, or will be well before the next visit; quick ones first."""
        now = self._clock()
        ahead = LOOK_AHEAD * self.rotation.turn(database).period
        jobs = [(job, self._record(job)) for job in self.plan.by_database.get(database, ())]
        return self._quickest_first(job for job, known in jobs if known.is_due(now + ahead if known.is_good else now))

    def expect_visit(self, database: str) -> None:
        """Have the page wait for what is due in a database."""
        now = self._clock()
        self.expect(job for job in self.plan.by_database.get(database, ()) if self._record(job).is_due(now))

    def _quickest_first(self, jobs: Iterable[Job]) -> list[Job]:
        return sorted(jobs, key=lambda job: self._record(job).took)

    def statuses(self) -> tuple[JobStatus, ...]:
        """Describe every job for a report."""
        return tuple(map(self.status, self.plan.jobs))

    def status(self, job: Job) -> JobStatus:
        """Describe a job for a report."""
        is_expected = job.key in self._expected
        return self._record(job).status(job, self._clock(), is_expected=is_expected, last_good=self._last_good)

    def rounds(self) -> Rounds:
        """Describe the visits to other databases."""
        interval = max((self.rotation.turn(name).period for name in self._visited), default=0.0)
        return Rounds(self.rotation.visits, self.rotation.login_seconds, interval)
