"""One server to scrape: owns its parts, starts their work, and reports what came of it in time."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from exporter.catalog.model import Catalog
from exporter.connections.discovery import Discovery
from exporter.connections.login_probe import LoginProbe
from exporter.connections.pool import Pool
from exporter.connections.session import Connector
from exporter.kinds import PRODUCTS
from exporter.logs import TargetLog
from exporter.planning.database_filter import DatabaseFilter
from exporter.planning.plan import Plan
from exporter.planning.server import Server
from exporter.planning.statement_filter import StatementFilter
from exporter.planning.table_filter import TableFilter
from exporter.report import JobStatus, Report
from exporter.schedule.schedule import LONGEST_SCRAPE_INTERVAL, Schedule
from exporter.scrape.health import Health
from exporter.scrape.parts import Parts
from exporter.scrape.ping import Ping
from exporter.scrape.run_job import JobRunner
from exporter.scrape.runs import Runs
from exporter.scrape.server_cost import ServerCosts
from exporter.scrape.statement_list import StatementList
from exporter.scrape.statement_texts import StatementReader
from exporter.scrape.turns import Turns
from exporter.watch.incidents import Incident
from exporter.watch.loop import Watch, WatchOptions

_TROUBLES = ("late", "timeout", "lock_timeout", "connection")
"""Reasons of failure that make an incident: late, or the server did not let the collector through."""


@dataclass(frozen=True)
class Options:
    """Options of one target."""

    max_connections: int = 5
    """Upper bound of connections to the server."""
    last_good: float = 60.0
    """Seconds that the last good result of a failing collector is served, beyond its cache."""
    cost_budget: float = 0.0
    """Share of a core that the collectors may cost the server; 0 for no limit."""
    max_samples: int = 500_000
    """Samples that fit on a page: a query with more rows than that is not read to its end."""
    databases: DatabaseFilter = field(default_factory=DatabaseFilter)
    """Databases to look into."""
    tables: TableFilter = field(default_factory=TableFilter)
    """Tables that get rows in collectors about tables."""
    excluded_statements: StatementFilter = field(default_factory=StatementFilter)
    """Users and databases whose statements get no series of their own."""
    watch: WatchOptions | None = None
    """Looks between scrapes; None for no looks."""
    statement_text_length: int = 0
    """Upper bound on the characters of a statement's text on the page; 0 for no texts there."""


class Target:
    """One server to scrape."""

    def __init__(
        self,
        catalog: Catalog,
        connector: Connector,
        options: Options | None = None,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
        turns: Turns | None = None,
    ) -> None:
        self.kind = connector.kind
        self.configured_address = connector.address
        """Host and port by its DSN, of several servers the first; no secret."""
        options = options or Options()
        log = TargetLog(logging.getLogger(__name__), name or connector.address)
        pool = Pool(connector, options.max_connections, clock, log)
        self._parts = parts = Parts(
            pool,
            Schedule(clock, cost_budget=options.cost_budget, last_good=options.last_good, log=log),
            Discovery(catalog.of_kind(self.kind), options.databases, options.tables, pool, clock, log),
            Health(PRODUCTS[self.kind], log),
            ServerCosts(),
            log,
            clock,
            turns or Turns(),
        )
        self._clock, self._scrapes = clock, 0
        self._login_probe = LoginProbe(connector, pool.budget, log)
        self._ping = Ping(parts)
        self._runner = JobRunner(parts, options.max_samples, options.excluded_statements)
        self._runs = Runs(parts, self._runner, self._login_probe, options.max_connections)
        self._counted_at = float("-inf")
        self.texts = StatementReader(parts, catalog, options.statement_text_length)
        self.labels: Mapping[str, str] = {}
        """Labels that the operator gave it."""
        self.watch = Watch(parts.discovery, pool, options.watch, name, clock, log) if options.watch else None
        self._watching: asyncio.Task[None] | None = None
        self.is_closed = False
        """Whether it has gone: whoever was about to begin with it does not."""
        self._late: list[JobStatus] = []

    def adopt(self, catalog: Catalog, labels: Mapping[str, str]) -> None:
        """Run the collectors of a catalog from the next run on; those that are the same go on as they are."""
        self._parts.discovery.adopt(catalog.of_kind(self.kind))
        self.texts.adopt(catalog)
        self.labels = labels

    @property
    def address(self) -> str:
        """Host and port that its kept connections go to, or went to last; no secret."""
        return str(self._parts.pool.budget.place or self.configured_address)

    @property
    def server(self) -> Server | None:
        """What is known of the server; None before its first answer."""
        return self._parts.discovery.server

    def start(self) -> None:
        """Begin to look between scrapes, where that is asked for."""
        if self.watch and not self._watching:
            self._watching = asyncio.create_task(self.watch.run(self._late_lately, self.texts.listed), name="watch")

    def _late_lately(self) -> list[JobStatus]:
        """List what was late on the last page; nothing once that is long ago."""
        return self._late if self._clock() - self._runs.began_at < LONGEST_SCRAPE_INTERVAL else []

    @property
    def incidents(self) -> list[Incident]:
        """The incidents recorded between scrapes, newest first."""
        return self.watch.recorder.incidents if self.watch else []

    @property
    def plan(self) -> Plan:
        """The plan for the server as last seen; empty before the first answer."""
        return self._parts.schedule.plan

    async def scrape(self, timeout: float) -> Report:
        """Collect what is due and report within `timeout` seconds; concurrent scrapes share one run."""
        started = self._clock()
        begins = self._runs.may_begin(started)
        if begins or self._counted_at != self._runs.began_at:  # else it shares the run of another scrape
            self._parts.schedule.begin_scrape()
        if begins:
            self._runs.begin(started + timeout)
        self._counted_at = self._runs.began_at
        await self._runs.until_done(started + timeout)
        self._scrapes += 1
        self._parts.health.log_transition()
        report = self._report(self._clock() - started)
        tried = (job for job in report.jobs if job.age is not None or job.errors)  # a first round may take long
        self._late = [job for job in tried if not job.success and job.reason in _TROUBLES]
        return report

    async def current(self, timeout: float) -> Report:
        """Report what was collected; collect first where that is older than a scrape interval. Counts as no scrape.

        A run under way is waited for: until its end nothing is known of the server.
        """
        started = self._clock()
        self._renew(timeout)
        await self._runs.until_done(min(started + timeout, self._runs.deadline))
        return self._report(self._clock() - started)

    async def known(self, timeout: float | None = None, patience: float = 0.125) -> Report:
        """Report what is known; with a timeout, collect what is old too and wait for it, up to `patience` seconds.

        It is asked while a server hangs, so it waits no longer. Counts as no scrape.
        """
        self._renew(timeout)
        await self._runs.until_done(self._clock() + (patience if timeout else 0.0))
        return self._report(0.0, settled=True)

    def _renew(self, timeout: float | None) -> None:
        """Start a run where what is known is older than a scrape interval."""
        now = self._clock()
        if timeout and now - self._runs.began_at >= self._parts.schedule.scrape_interval and self._runs.may_begin(now):
            self._runs.begin(now + timeout)

    async def ping(self, timeout: float) -> Report:
        """Ask only whether the server is up, within `timeout` seconds."""
        started = self._clock()
        is_known = await self._ping.ask(timeout)
        if not (is_known and self._parts.health.is_asked):
            self._parts.health.log_transition()
        return self._report(self._clock() - started, with_jobs=False, settled=is_known)

    async def statements(self, timeout: float) -> StatementList:
        """List the statements that have series of their own, and read the texts that are not known yet."""
        await self.current(timeout)
        return await self.texts.read()

    async def close(self) -> None:
        """End what runs and close all connections."""
        self.is_closed = True
        running = [*self._runs.tasks, *([self._watching] if self._watching else [])]
        for task in running:
            task.cancel()
        parts = self._login_probe, self._ping, self.texts
        await asyncio.gather(*running, *(part.close() for part in parts), return_exceptions=True)
        await self._parts.pool.close()
        self._runner.close()

    def _report(self, seconds: float, *, with_jobs: bool = True, settled: bool = False) -> Report:
        """Describe the target as it is known at this moment."""
        found = self._parts.report(self.kind, with_jobs=with_jobs, settled=settled)
        watch = (self.watch.status(),) if self.watch and self._watching else ()
        return replace(
            found,
            jobs=(*self._parts.statuses(), *self.texts.statuses(), *watch) if with_jobs else (),
            seconds=seconds,
            scrapes=self._scrapes,
            incidents={str(kind): times for kind, times in self.watch.recorder.begun.items()} if self.watch else {},
            login=self._login_probe.latest if found.up else None,
        )
