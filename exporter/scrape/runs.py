"""The runs of one target: each asks what is due, on the kept connections and on those borrowed for other databases."""

import asyncio

from exporter.connections.login_probe import LoginProbe
from exporter.connections.patience import wait_within
from exporter.errors import QueryError
from exporter.scrape.database_visitor import DatabaseVisitor
from exporter.scrape.kept_worker import KeptWorker
from exporter.scrape.parts import Parts
from exporter.scrape.run_job import JobRunner

_MOST_LATE_SECONDS = 0.25
"""Upper bound on a page's delay by our late event loop, in seconds: half of scrape_timeout_offset's default."""


class Runs:
    """Begins one run after another; a worker that outlives the deadline of its run misses the next.

    Args:
        parts: the parts of the target.
        runner: runs one job.
        login_probe: logs in beside a run.
        max_connections: upper bound of connections to the server.

    """

    def __init__(self, parts: Parts, runner: JobRunner, login_probe: LoginProbe, max_connections: int) -> None:
        self._parts = parts
        self._login_probe = login_probe
        self._vital = KeptWorker(parts.pool.vital, parts, runner)
        self._main = KeptWorker(parts.pool.main, parts, runner)
        self._visitors = [DatabaseVisitor(parts, runner) for _ in range(max_connections - 2)]
        self._early = DatabaseVisitor(parts, runner, is_early=True)
        self._tasks: dict[KeptWorker | DatabaseVisitor, asyncio.Task[None]] = {}
        self.deadline = self.began_at = float("-inf")

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """List the tasks of all workers, also of those that have ended."""
        return list(self._tasks.values())

    def _running(self) -> list[asyncio.Task[None]]:
        """List the tasks that a page waits for: early visits are not among them."""
        return [task for worker, task in self._tasks.items() if worker is not self._early and not task.done()]

    def may_begin(self, now: float) -> bool:
        """Return whether a new run may begin: the one before is over, or past its deadline."""
        return now >= self.deadline or not self._running()

    async def until_done(self, deadline: float) -> None:
        """Wait until the run is over, or its deadline."""
        while running := self._running():
            left = deadline - self._parts.clock()
            if left <= 0:
                return
            await wait_within(running, left, _MOST_LATE_SECONDS)

    def begin(self, deadline: float) -> None:
        """Start a run on every kept connection that is not still at work."""
        self.deadline, self.began_at = deadline, self._parts.clock()
        schedule = self._parts.schedule
        schedule.forget()
        schedule.throttle()
        for worker in (self._vital, self._main):
            if starts := self._start(worker):
                self._parts.health.ask(self.began_at)
            elif worker is self._main and schedule.plan.jobs:
                self._start_visitors()  # what is late in one database costs no other
            due = (job for job in worker.due() if job.database not in self._visiting)
            schedule.expect(job for job in due if starts or not job.collector.last_good)  # no culprit of the past

    def _start(self, worker: KeptWorker | DatabaseVisitor) -> bool:
        """Start a worker unless it is still at work; return whether it was started."""
        if worker in self._tasks and not self._tasks[worker].done():
            return False
        self._tasks[worker] = asyncio.create_task(self._work(worker))
        return True

    async def _work(self, worker: KeptWorker | DatabaseVisitor) -> None:
        """Do a worker's share of a run; an unexpected error is logged, and booked to what was due."""
        try:
            if isinstance(worker, DatabaseVisitor):
                await worker.run()
            elif session := await worker.discover():
                if worker is self._main:
                    self._start_visitors()
                    self._login_probe.start(session)
                await worker.run_due(session)
        except Exception as error:  # the boundary: nothing else retrieves it
            self._parts.log.error("run failed unexpectedly", exc_info=error, extra={"worker": worker.name})
            failure = QueryError("query", f"{type(error).__name__}: {error}")
            self._parts.schedule.miss(worker.due(), failure)

    @property
    def _visiting(self) -> set[str]:
        """The databases that are being visited."""
        return {visitor.visiting for visitor in (*self._visitors, self._early) if visitor.visiting}

    def _start_visitors(self) -> None:
        """Visit the other databases where something is due or unknown, and some of the rest ahead of time."""
        self._parts.schedule.line_up_visits(self._parts.discovery.stale, self._visiting)
        for visitor in (*self._visitors, self._early):
            self._start(visitor)
