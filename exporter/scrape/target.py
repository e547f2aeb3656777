"""One scrape of one target: vitals, facts, plan, fetch, samples; with a deadline, last good results, shared runs."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.catalog.model import PRODUCTS, Catalog
from exporter.connections.discovery import CONTENTS_SECONDS, FACTS_TIMEOUT, Facts
from exporter.connections.pool import KeptSession, Sessions
from exporter.connections.session import Connector, Session, Vitals
from exporter.errors import ConnectError, DatabaseError, QueryError
from exporter.planning.database_filter import Choice
from exporter.planning.plan import UNKNOWN, Job, Plan
from exporter.report import JobStatus, Report, Rounds
from exporter.samples.convert import columns, missing_columns, samples
from exporter.samples.ledger import book, new_ledger
from exporter.samples.model import Columns, Samples
from exporter.schedule.cost_budget import Need, intervals, parts
from exporter.schedule.job_state import Attempts
from exporter.schedule.rotation import Rotation
from exporter.scrape import server_cost as costs
from exporter.scrape.health import Health
from exporter.scrape.server_cost import COLLECTOR, Costs
from exporter.scrape.statement_texts import TEXTS, Texts, statements
from exporter.watch.incidents import Incident
from exporter.watch.loop import Watch, WatchOptions

_log = logging.getLogger(__name__)

_LOGIN_TRIPS = 5
"""How often a login and the question for the extensions go to the server and back."""

_NO_LOGIN = ("refused", "unreachable", "too_many_connections", "starting_up", "shutting_down")
"""Why a login fails that would fail in most databases: no visitor tries the next one at once."""

_EARLY = "early visitor"

_LOGIN = ""
"""Stands for a login where the budget of cost is divided between collectors."""

_AIM = 0.8
"""Share of the budget of cost that runs are planned for: some cost more than the last ones, and each visit a login."""

_AHEAD = 0.8
"""Share of the time between two visits by which one looks ahead: what is due at about the next one is left to it."""

_USUAL_GAP_SECONDS = 15.0
"""How far scrapes are taken to be apart until it is known."""

_TROUBLES = ("late", "timeout", "lock_timeout", "connection")
"""Why a collector is not as it should be on a page: it was late, or the server did not let it through."""


@dataclass(frozen=True)
class Options:
    """How a target is treated."""

    max_connections: int = 5
    """Connections at most."""
    last_good: float = 60.0
    """Seconds that the last good result of a failing collector is served, beyond its cache."""
    cost_budget: float = 0.0
    """Share of a core that the collectors may cost the server; 0 for no limit."""
    databases: Choice = field(default_factory=Choice)
    """Which databases are looked into."""
    watch: WatchOptions | None = None
    """How to look between scrapes; None for not at all."""


class Target:
    """One server to scrape. Owns its connections and everything remembered between scrapes."""

    def __init__(self, catalog: Catalog, postgres: Connector, options: Options | None = None, name: str = "") -> None:
        self._kind = postgres.kind
        self._options = options or Options()
        self._sessions = Sessions(postgres, self._options.max_connections)
        self._facts = Facts(catalog.of_kind(self._kind), self._options.databases, self._sessions)
        self._health = Health(PRODUCTS[self._kind])
        self._rotation = Rotation()
        self._visiting: set[str] = set()
        self._held_back: set[str] = set()
        self._attempts: dict[tuple[str, str], Attempts] = {}
        self._stuck: dict[KeptSession, Attempts] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._began_at: float | None = None
        self._gap = _USUAL_GAP_SECONDS
        self._deadline = float("-inf")
        self._scrapes = 0
        self._role = 0
        self._rtt = 0.0
        self._rtts: deque[float] = deque(maxlen=20)
        self._texts = Texts()
        self._costs = Costs()
        watch = self._options.watch
        self._watch = Watch(self._sessions, self._facts.names, watch, name) if watch else None
        self._watching: asyncio.Task[None] | None = None
        self._late: list[JobStatus] = []

    def start(self) -> None:
        """Begin to look between scrapes, where that is asked for."""
        if self._watch and not self._watching:
            self._watching = asyncio.create_task(self._watch.run(lambda: self._late), name="watch")

    @property
    def incidents(self) -> list[Incident]:
        """What was found wrong between scrapes, the newest first."""
        return self._watch.recorder.incidents if self._watch else []

    async def scrape(self, timeout: float) -> Report:
        """Collect what is due and report after `timeout` seconds at the latest; who asks meanwhile shares the run."""
        started = time.monotonic()
        if started >= self._deadline or not self._running():
            self._deadline = started + timeout
            self._begin()
        while running := self._running():
            left = started + timeout - time.monotonic()
            if left <= 0:
                break
            await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        self._scrapes += 1
        self._health.log()
        return self._report(time.monotonic() - started)

    async def ping(self, timeout: float) -> Report:
        """Ask only whether the server is up."""
        started = time.monotonic()
        if not self._running():
            self._health.ask_anew()
        try:
            async with asyncio.timeout(timeout):
                _, vitals = await self._sessions.vital.ready(FACTS_TIMEOUT)
            self._note(vitals)
        except ConnectError as error:
            self._health.note_down(error)
        except TimeoutError:
            _log.debug("no answer within %s s", timeout)
        self._health.log()
        return Report(
            up=self._health.up,
            down_reason=self._health.reason,
            jobs=(),
            skipped={},
            seconds=time.monotonic() - started,
            scrapes=self._scrapes,
            sessions=self._sessions.count,
            kind=self._kind,
        )

    async def close(self) -> None:
        """End what runs and close all connections."""
        running = [*self._tasks.values(), *([self._watching] if self._watching else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._sessions.close()

    async def statement_texts(self, report: Report) -> Texts:
        """Read the texts of the listed statements that are not known yet; DatabaseError says why not."""
        ids = [int(row.queryid) for row in statements(report) if row.queryid.lstrip("-").isdecimal()]
        missing = self._texts.missing(ids)
        job = next((job for job in self.plan.jobs if job.collector.name == COLLECTOR), None)
        if job and missing and (schema := self._facts.schema(job)):
            async with self._sessions.borrowed(job.database) as session:
                rows = await session.fetch(TEXTS.replace("{schema}", schema), FACTS_TIMEOUT, [*map(str, missing)])
            self._texts.learn({row["queryid"]: row["query"] for row in rows})
        return self._texts

    @property
    def plan(self) -> Plan:
        """What runs on the server as it was last seen; nothing before it was seen."""
        return self._facts.plan

    def _running(self) -> list[asyncio.Task[None]]:
        """List what a page waits for: nobody is late for an early visit."""
        return [task for name, task in self._tasks.items() if name != _EARLY and not task.done()]

    def _begin(self) -> None:
        """Start a run on every kept connection that is not still at work."""
        self._health.ask_anew()
        self._pace()
        for vital, kept, other in (
            (True, self._sessions.vital, self._sessions.main),
            (False, self._sessions.main, self._sessions.vital),
        ):
            if self._start(f"{'vital' if vital else 'main'} connection", self._work(vital, kept, other)):
                self._expect(vital)

    def _expect(self, vital: bool) -> None:
        """Mark what is due: until it has been collected, the result that is there is not the newest."""
        for job in self._due():
            if job.collector.vital == vital and job.database not in self._visiting:
                self._of(job).pending = True

    def _pace(self) -> None:
        """Put the most expensive collectors further apart when all together cost more than they may."""
        now = time.monotonic()
        if self._began_at is not None:
            self._gap += 0.3 * (min(now - self._began_at, 300.0) - self._gap)
        self._began_at = now
        if not self._options.cost_budget or not (server := self._facts.server):
            return
        vital = sum(self._of(job).cost / self._gap for job in self.plan.jobs if job.collector.vital)
        share = max(_AIM * self._options.cost_budget - vital, self._options.cost_budget / 10)
        here, elsewhere = self._needs(server.database)
        for_here, for_elsewhere = parts(here.values(), elsewhere.values(), share)
        self._hold_back(intervals(here, for_here) | intervals(elsewhere, for_elsewhere))

    def _needs(self, ours: str) -> tuple[dict[tuple[str, str], Need], dict[tuple[str, str], Need]]:
        """Say what the jobs take in the database of the DSN, and in the others, with a login for each of these.

        The two share the budget evenly, so that however many databases there are, what is asked once for the whole
        server is not held back by what is asked in each of them.
        """
        here: dict[tuple[str, str], Need] = {}
        elsewhere: dict[tuple[str, str], Need] = {}
        for database, jobs in self.plan.by_database.items():
            needs = {
                job.key: Need(self._of(job).cost, max(job.cache, self._gap)) for job in jobs if not job.collector.vital
            }
            if database == ours:
                here = needs
            elif needs:
                login = Need(self._rotation.turn(database).cost, min(need.period for need in needs.values()))
                elsewhere |= needs | {(_LOGIN, database): login}
        return here, elsewhere

    def _hold_back(self, paced: Mapping[tuple[str, str], float]) -> None:
        """Put runs so far apart, and log of each collector when that begins and ends, not of each database."""
        for job in self.plan.jobs:
            self._of(job).interval = paced.get(job.key, 0.0)
        for database in self.plan.by_database:
            self._rotation.turn(database).interval = paced.get((_LOGIN, database), 0.0)
        held_back = {name: interval for (name, _), interval in paced.items() if name != _LOGIN}
        for name in held_back.keys() - self._held_back:
            _log.info("collector runs every %.1f s, because of its cost", held_back[name], extra={"collector": name})
        for name in self._held_back - held_back.keys():
            _log.info("collector runs as often as it should again", extra={"collector": name})
        self._held_back = set(held_back)

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        """Start a task unless its namesake still runs; tell whether it was started."""
        if self._at_work(name):
            work.close()
            return False
        self._tasks[name] = asyncio.create_task(work, name=name)
        return True

    def _at_work(self, name: str) -> bool:
        return name in self._tasks and not self._tasks[name].done()

    async def _work(self, vital: bool, kept: KeptSession, other: KeptSession) -> None:
        """Do a kept connection's share of a run."""
        try:
            kept, session, vitals = await self._ready(kept, other)
        except ConnectError as error:
            self._fail([job for job in self._due() if job.collector.vital == vital], error)
            return
        self._note(vitals)
        await self._end_abandoned(kept, session)
        if not vital:
            self._facts.come_from(session, vitals.database)
        if not vital or not self._facts.learned:
            async with self._facts.learning, kept.lock:
                await self._facts.learn(session, vitals.database)
        jobs = [job for job in self._due() if job.collector.vital == vital and job.database == vitals.database]
        for job in jobs:
            self._of(job).pending = True
        if not vital:
            self._visit_others(vitals.database)
        await self._run(jobs, kept, self._other(kept), session)

    async def _ready(self, kept: KeptSession, other: KeptSession) -> tuple[KeptSession, Session, Vitals]:
        """Choose a kept connection that answers; where the one cannot be had, the other one serves both.

        One that hangs while the other answers has met a query that does not end when it is told to: the connection is
        replaced, and the query rests for long.
        """
        try:
            session, vitals = await kept.ready(FACTS_TIMEOUT)
        except ConnectError as error:
            self._health.note_down(error)
            if not other.open:
                raise
            session, vitals = await other.ready(FACTS_TIMEOUT)
            if error.reason != "hung":
                return other, session, vitals
        else:
            self._stuck.pop(kept, None)
            return kept, session, vitals
        if culprit := self._stuck.pop(kept, None):
            self._suspend(culprit)
        await kept.replace()
        try:
            return kept, *await kept.ready(FACTS_TIMEOUT)
        except ConnectError:
            return other, session, vitals

    def _other(self, kept: KeptSession) -> KeptSession:
        return self._sessions.main if kept is self._sessions.vital else self._sessions.vital

    def _suspend(self, culprit: Attempts) -> None:
        """Let a job rest for long."""
        _log.warning("a query did not end when it was told to; it rests for %.0f s", culprit.suspend())

    async def _end_abandoned(self, kept: KeptSession, session: Session) -> None:
        """See to it that backends which we no longer talk to end, and count them until they have."""
        if self._sessions.budget.abandoned:
            try:
                async with kept.lock:
                    await self._sessions.budget.end_abandoned(session, FACTS_TIMEOUT)
            except QueryError as error:
                _log.info("backends of ours that hang could not be ended: %s", error)

    async def _run(self, jobs: Sequence[Job], kept: KeptSession, other: KeptSession, session: Session) -> None:
        """Run jobs one after another, quick ones first, so that a slow one delays nobody; replace a lost connection."""
        for job in self._quick_first(jobs):
            if not session.usable:
                try:
                    kept, session, _ = await self._ready(kept, other)
                except ConnectError as error:
                    self._fail([job for job in jobs if self._of(job).pending], error)
                    return
            async with kept.lock:
                await self._attempt(job, session)
            if session.stuck:
                self._stuck[kept] = self._of(job)

    def _quick_first(self, jobs: Iterable[Job]) -> list[Job]:
        return sorted(jobs, key=lambda job: self._of(job).took)

    def _note(self, vitals: Vitals) -> None:
        """Take over what the server says of itself."""
        self._health.note_life()
        self._role, self._rtt = vitals.role, vitals.rtt
        self._rtts.append(vitals.rtt)
        if self._facts.note(vitals):
            for attempts in self._attempts.values():
                attempts.expire()

    def _visit_others(self, ours: str) -> None:
        """Visit the other databases where something is due, or that were not looked into of late; some of the rest."""
        others = self._others()
        self._rotation.forget_all_but({ours, *others})
        due = {job.database for job in self._due()} | {name for name in others if self._facts.is_old(name)}
        for name in others:
            turn = self._rotation.turn(name)
            turn.period = max(turn.interval, self._period(name))
        self._rotation.line_up(others, due - self._visiting, self._gap)
        for i in range(self._options.max_connections - 2):
            self._start(f"visitor {i}", self._visitor(early=False))
        self._start(_EARLY, self._visitor(early=True))

    def _period(self, database: str) -> float:
        """Say how often something is due in a database."""
        jobs = self.plan.by_database.get(database, ())
        return min((max(job.cache, self._of(job).interval, self._gap) for job in jobs), default=CONTENTS_SECONDS)

    async def _visitor(self, *, early: bool) -> None:
        """Visit one database after another as long as there is one in line and the server lets us in."""
        while database := self._rotation.next(early=early):
            self._visiting.add(database)
            try:
                let_in = await self._visit(database, early=early)
            finally:
                self._visiting.discard(database)
            if not let_in:
                break

    async def _visit(self, database: str, *, early: bool) -> bool:
        """Borrow a connection for one database and run there what is due; tell whether the server let us in."""
        left = self._wanted(database)
        for job in left:
            self._of(job).pending |= not early and self._is_due(job)
        try:
            async with self._sessions.borrowed(database) as session:
                started = time.monotonic()
                await self._facts.learn_contents(session, database)
                took = session.login_seconds + time.monotonic() - started
                self._rotation.book(database, max(took - _LOGIN_TRIPS * min(self._rtts, default=0.0), 0.0))
                left = self._quick_first(self._wanted(database))
                while left:
                    await self._run_elsewhere(left.pop(0), session)
        except DatabaseError as error:
            self._fail(left, error)
            if error.reason in _NO_LOGIN:
                return False
            if isinstance(error, ConnectError):
                self._rotation.refuse(database)
        return True

    async def _run_elsewhere(self, job: Job, session: Session) -> None:
        """Run a job in another database; QueryError when its query does not end in time."""
        await self._attempt(job, session)
        if session.stuck:
            await self._sessions.vital.ready(FACTS_TIMEOUT)  # else the server hangs, and not the query
            self._suspend(self._of(job))
            raise QueryError("connection", f"the query of {job.collector.name} did not end in time")

    def _wanted(self, database: str) -> list[Job]:
        """List what is to run on a visit: what would be due well before the next one."""
        turn = self._rotation.turn(database)
        jobs = self.plan.by_database.get(database, ())
        return [job for job in jobs if self._of(job).due(job.cache, turn.interval, ahead=_AHEAD * turn.period)]

    def _of(self, job: Job) -> Attempts:
        if (found := self._attempts.get(job.key)) is None:
            found = self._attempts[job.key] = Attempts()
        return found

    def _due(self) -> list[Job]:
        """List the jobs whose result is no longer to be served from the cache."""
        return [job for job in self.plan.jobs if self._is_due(job)]

    def _is_due(self, job: Job) -> bool:
        return self._of(job).due(job.cache, self._rotation.turn(job.database).interval)

    def _fail(self, jobs: Iterable[Job], error: DatabaseError) -> None:
        """Book the failure of jobs that found no connection; that there is none has been logged."""
        for job in jobs:
            self._of(job).fail(QueryError("connection", str(error)), ran=False)

    async def _attempt(self, job: Job, session: Session) -> None:
        """Run one job; whatever goes wrong costs this job only."""
        attempts = self._of(job)
        attempts.begin()
        try:
            rows = await session.fetch(job.sql, job.collector.timeout, search_path=job.collector.search_path)
            attempts.book(len(rows), self._rtt * session.trips)
            table = columns(rows)
            if table and (missing := missing_columns(job, list(table))):
                raise QueryError("query", f"the query has no column {', '.join(missing)}")
            await self._facts.look_up_names(job, table, session)
            result = self._samples(job, table, attempts)
            if job.collector.name == COLLECTOR:
                await self._count_costs(job, table, session)
        except DatabaseError as error:
            if error.reason != "connection":
                self._health.note_life()
            self._book_failure(job, error)
        except Exception as error:  # noqa: BLE001  # the boundary: one collector never costs another
            _log.exception("collector failed in a way nobody foresaw", extra={"collector": job.collector.name})
            self._book_failure(job, QueryError("query", f"{type(error).__name__}: {error}"))
        else:
            self._health.note_life()
            attempts.succeed(result)

    def _samples(self, job: Job, table: Columns, attempts: Attempts) -> Samples:
        if not job.collector.ledger:
            return samples(job, table, self._facts.names)
        attempts.ledger = attempts.ledger or new_ledger(job)
        return book(job, table, self._facts.names, attempts.ledger, time.monotonic())

    async def _count_costs(self, job: Job, table: Columns, session: Session) -> None:
        """Read from the statements that were collected what our own cost the server."""
        now = time.monotonic()
        schema = self._facts.schema(job)
        if schema and (missing := self._costs.missing(table, self._role, now)):
            sql = costs.TEXTS.replace("{schema}", schema)
            try:
                rows = await session.fetch(sql, job.collector.timeout, self._role, [*map(str, missing)])
            except DatabaseError as error:  # the statements themselves have been collected
                _log.warning("what our own statements cost is not known: %s", error)
                return
            self._costs.learn({row["queryid"]: row["query"] for row in rows})
        per_database = {job.collector.name for job in self.plan.jobs if job.collector.scope == "database"}
        self._costs.update(table, self._role, self._facts.names, per_database, now)

    def _book_failure(self, job: Job, error: DatabaseError) -> None:
        if self._of(job).fail(error, ran=True):
            _log.warning(
                "collector failed: %s",
                error,
                extra={"collector": job.collector.name, "datname": job.database, "reason": error.reason},
            )

    def _report(self, seconds: float) -> Report:
        current = self.plan
        keys = {job.key for job in current.jobs}
        self._attempts = {key: attempts for key, attempts in self._attempts.items() if key in keys}
        jobs = self._statuses()
        tried = (job for job in jobs if job.age is not None or job.errors)  # a first round may take long
        self._late = [job for job in tried if not job.success and job.reason in _TROUBLES]
        if self._watch and self._watching:
            jobs = (*jobs, self._watch.status())
        begun = self._watch.recorder.begun if self._watch else {}
        return Report(
            up=self._health.up,
            down_reason=self._health.reason,
            jobs=jobs,
            skipped=current.skipped,
            seconds=seconds,
            scrapes=self._scrapes,
            sessions=self._sessions.count,
            costs=self._costs.all,
            incidents={str(kind): times for kind, times in begun.items()},
            kind=self._kind,
            rounds=self._rounds(),
        )

    def _others(self) -> list[str]:
        """List the databases that are visited: all but that of the DSN."""
        server = self._facts.server
        return [name for name in server.databases if name != server.database] if server else []

    def _rounds(self) -> Rounds:
        interval = max((self._rotation.turn(name).period for name in self._others()), default=0.0)
        return Rounds(self._rotation.visits, self._rotation.login_seconds, interval)

    def _statuses(self) -> tuple[JobStatus, ...]:
        unknown = (JobStatus(name, "", False, None, None, None, message=UNKNOWN) for name in self.plan.unknown)
        return (*(self._of(job).status(job, self._options.last_good) for job in self.plan.jobs), *unknown)
