"""One scrape of one target: vitals, facts, plan, fetch, samples; with a deadline, last good results, shared runs."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from exporter.catalog import Catalog
from exporter.errors import ConnectError, DatabaseError, QueryError
from exporter.ledger import Ledger, book, new_ledger
from exporter.names import Names
from exporter.own import JobStatus, Report
from exporter.plan import Job, Plan, Server, plan, quoted
from exporter.postgres import Postgres, Session, Vitals
from exporter.samples import Columns, Samples, columns, missing_columns, samples
from exporter.sessions import KeptSession, Sessions
from exporter.statements import COLLECTOR, TEXTS, Texts, statements

_log = logging.getLogger(__name__)

FACTS_SECONDS = 30.0
"""How long the list of databases, roles and extensions is believed."""

_FACTS_TIMEOUT = 5.0

_NEARLY = 0.95
"""A result that has nearly reached its cache time is collected anew: the next scrape is a whole interval away."""


@dataclass
class _Attempts:
    """What a job's attempts came to: kept from one scrape to the next."""

    samples: Samples | None = None
    succeeded_at: float = float("-inf")
    attempted_at: float = float("-inf")
    duration: float | None = None
    took: float = 0.0
    ok: bool = False
    pending: bool = False
    message: str = ""
    errors: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    ledger: Ledger | None = None


class Target:
    """One PostgreSQL server to scrape. Owns its connections and everything remembered between scrapes."""

    def __init__(
        self, catalog: Catalog, postgres: Postgres, *, max_connections: int = 5, last_good: float = 60.0
    ) -> None:
        self._catalog = catalog
        self._sessions = Sessions(postgres, max_connections)
        self._last_good = last_good
        self._names = Names()
        self._server: Server | None = None
        self._planned: tuple[Server | None, Plan] = (None, Plan((), {}))
        self._learning = asyncio.Lock()
        self._facts_at: dict[str, float] = {}
        self._attempts: dict[tuple[str, str], _Attempts] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._deadline = float("-inf")
        self._up = False
        self._down_reason = "timeout"
        self._down_message = "no answer in time"
        self._logged = "nothing"
        self._scrapes = 0
        self._texts = Texts()

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
        self._log_health()
        return self._report(time.monotonic() - started)

    async def ping(self, timeout: float) -> Report:
        """Ask only whether the server is up."""
        started = time.monotonic()
        if not self._running():
            self._ask_anew()
        try:
            async with asyncio.timeout(timeout):
                _, vitals = await self._sessions.vital.ready(_FACTS_TIMEOUT)
            self._note(vitals)
        except ConnectError as error:
            self._note_down(error)
        except TimeoutError:
            _log.debug("no answer within %s s", timeout)
        self._log_health()
        return Report(
            self._up, self._down_reason, (), {}, time.monotonic() - started, self._scrapes, self._sessions.count
        )

    async def close(self) -> None:
        """End what runs and close all connections."""
        running = self._running()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._sessions.close()

    async def statement_texts(self, report: Report) -> Texts:
        """Read the texts of the listed statements that are not known yet; DatabaseError says why not."""
        ids = [int(row.queryid) for row in statements(report) if row.queryid.lstrip("-").isdecimal()]
        missing = self._texts.missing(ids)
        job = next((job for job in self.plan.jobs if job.collector.name == COLLECTOR), None)
        if job and missing and self._server and job.collector.extension:
            schema = self._server.extensions[job.database][job.collector.extension].schema
            async with self._sessions.borrowed(job.database) as session:
                rows = await session.fetch(TEXTS.replace("{schema}", quoted(schema)), _FACTS_TIMEOUT, missing)
            self._texts.learn({row["queryid"]: row["query"] for row in rows})
        return self._texts

    @property
    def plan(self) -> Plan:
        """What runs on the server as it was last seen; nothing before it was seen."""
        if self._planned[0] is not self._server and self._server:
            self._planned = (self._server, plan(self._catalog, self._server))
        return self._planned[1]

    def _running(self) -> list[asyncio.Task[None]]:
        return [task for task in self._tasks.values() if not task.done()]

    def _begin(self) -> None:
        """Start a run on every kept connection that is not still at work."""
        self._ask_anew()
        for name, kept, other in (
            ("vital", self._sessions.vital, self._sessions.main),
            ("main", self._sessions.main, self._sessions.vital),
        ):
            self._start(f"{name} connection", self._work(name == "vital", kept, other))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start a task unless its namesake still runs."""
        if name in self._tasks and not self._tasks[name].done():
            work.close()
            return
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def _work(self, vital: bool, kept: KeptSession, other: KeptSession) -> None:
        """Do a kept connection's share of a run."""
        try:
            kept, session, vitals = await self._ready(kept, other)
        except ConnectError as error:
            self._fail([job for job in self._due() if job.collector.vital == vital], error)
            return
        self._note(vitals)
        if not vital or not self._facts_at:
            async with self._learning, kept.lock:
                await self._learn_facts(session, vitals.database)
        jobs = [job for job in self._due() if job.collector.vital == vital and job.database == vitals.database]
        for job in jobs:
            self._of(job).pending = True
        if not vital:
            self._visit_others(vitals.database)
        await self._run(jobs, kept, session)

    async def _ready(self, kept: KeptSession, other: KeptSession) -> tuple[KeptSession, Session, Vitals]:
        """Choose a kept connection that answers; where the one cannot be had, the other one serves both."""
        try:
            return kept, *await kept.ready(_FACTS_TIMEOUT)
        except ConnectError as error:
            self._note_down(error)
            if not other.open:
                raise
            return other, *await other.ready(_FACTS_TIMEOUT)

    async def _run(self, jobs: Sequence[Job], kept: KeptSession, session: Session) -> None:
        """Run jobs one after another, quick ones first, so that a slow one delays nobody; replace a lost connection."""
        for job in sorted(jobs, key=lambda job: self._of(job).took):
            if not session.usable:
                try:
                    session, _ = await kept.ready(_FACTS_TIMEOUT)
                except ConnectError as error:
                    self._fail([job for job in jobs if self._of(job).pending], error)
                    return
            async with kept.lock:
                await self._attempt(job, session)

    def _note(self, vitals: Vitals) -> None:
        """Take over what the server says of itself."""
        self._note_life()
        known = self._server or Server(vitals.version, vitals.in_recovery, vitals.database)
        seen = replace(known, version=vitals.version, in_recovery=vitals.in_recovery, database=vitals.database)
        if seen != self._server:
            self._server = seen

    def _note_life(self) -> None:
        self._up, self._down_reason = True, ""

    def _note_down(self, error: ConnectError) -> None:
        """Take over why the server cannot be had, unless another connection found it up."""
        if not self._up:
            if (self._down_reason, error.reason) != ("hung", "timeout"):
                self._down_reason = error.reason
            self._down_message = str(error)

    def _ask_anew(self) -> None:
        """Until it answers, a server that answered before counts as hung, any other as timed out."""
        self._down_reason = "hung" if self._up or self._down_reason == "hung" else "timeout"
        self._up = False

    def _log_health(self) -> None:
        """Log when the server goes or comes, not at every scrape."""
        if self._logged != self._down_reason:
            message = "PostgreSQL is up" if self._up else f"PostgreSQL is down: {self._down_message}"
            _log.log(logging.INFO if self._up else logging.WARNING, message, extra={"reason": self._down_reason})
            self._logged = self._down_reason

    async def _learn_facts(self, session: Session, database: str) -> None:
        """Read the directory and this database's extensions when what is known has grown old; else keep it."""
        now = time.monotonic()
        if self._server is None or now - self._facts_at.get(database, float("-inf")) < FACTS_SECONDS:
            return
        try:
            directory = await session.directory(_FACTS_TIMEOUT)
            extensions = await session.extensions(_FACTS_TIMEOUT)
        except QueryError as error:
            _log.warning("databases, roles and extensions could not be listed: %s", error)
            return
        self._facts_at[database] = now
        self._names.replace(directory.databases, directory.roles)
        gone = set(self._server.extensions) - set(directory.connectable) - {database}
        by_database = {name: found for name, found in self._server.extensions.items() if name not in gone}
        self._server = replace(
            self._server, databases=directory.connectable, extensions=by_database | {database: extensions}
        )

    def _visit_others(self, ours: str) -> None:
        """Start a visit to each other database where something is due, or that was not looked into of late."""
        due = {job.database for job in self._due()}
        now = time.monotonic()
        for database in self._server.databases if self._server else ():
            stale = now - self._facts_at.get(database, float("-inf")) >= FACTS_SECONDS * 10
            if database != ours and (database in due or stale):
                self._start(f"database {database}", self._visit(database))

    async def _visit(self, database: str) -> None:
        """Borrow a connection for one database and run there what is due."""
        for job in self._due():
            if job.database == database:
                self._of(job).pending = True
        try:
            async with self._sessions.borrowed(database) as session:
                await self._learn_extensions(session, database)
                for job in [job for job in self._due() if job.database == database]:
                    await self._attempt(job, session)
        except DatabaseError as error:
            self._fail([job for job in self._due() if job.database == database], error)

    async def _learn_extensions(self, session: Session, database: str) -> None:
        extensions = await session.extensions(_FACTS_TIMEOUT)
        self._facts_at[database] = time.monotonic()
        if self._server and self._server.extensions.get(database) != extensions:
            self._server = replace(self._server, extensions={**self._server.extensions, database: extensions})

    def _of(self, job: Job) -> _Attempts:
        return self._attempts.setdefault(job.key, _Attempts())

    def _due(self) -> list[Job]:
        """List the jobs whose result is no longer to be served from the cache."""
        now = time.monotonic()
        return [job for job in self.plan.jobs if self._is_due(job, now)]

    def _is_due(self, job: Job, now: float) -> bool:
        attempts = self._of(job)
        return not attempts.ok or now - attempts.attempted_at >= _NEARLY * job.collector.cache

    def _fail(self, jobs: Iterable[Job], error: DatabaseError) -> None:
        """Book the failure of jobs that found no connection; that there is none has been logged."""
        for job in jobs:
            self._of(job).message = str(error)
            self._book_failure(job, QueryError("connection", str(error)))

    async def _attempt(self, job: Job, session: Session) -> None:
        """Run one job; whatever goes wrong costs this job only."""
        attempts = self._of(job)
        started = attempts.attempted_at = time.monotonic()
        try:
            table = columns(await session.fetch(job.sql, job.collector.timeout))
            if table and (missing := missing_columns(job, list(table))):
                raise QueryError("query", f"the query has no column {', '.join(missing)}")
            await self._look_up_relations(job, table, session)
            result = self._samples(job, table, attempts)
        except DatabaseError as error:
            if error.reason != "connection":
                self._note_life()
            self._book_failure(job, error)
            return
        except Exception as error:  # noqa: BLE001  # the boundary: one collector never costs another
            _log.exception("collector failed in a way nobody foresaw", extra={"collector": job.collector.name})
            self._book_failure(job, QueryError("query", f"{type(error).__name__}: {error}"))
            return
        finally:
            attempts.took = time.monotonic() - started
        self._note_life()
        attempts.samples, attempts.ok, attempts.pending, attempts.message = result, True, False, ""
        attempts.rejected.update(result.rejected)
        attempts.succeeded_at = time.monotonic()
        attempts.duration = attempts.succeeded_at - started

    def _samples(self, job: Job, table: Columns, attempts: _Attempts) -> Samples:
        if not job.collector.ledger:
            return samples(job, table, self._names)
        attempts.ledger = attempts.ledger or new_ledger(job)
        return book(job, table, self._names, attempts.ledger, time.monotonic())

    def _book_failure(self, job: Job, error: DatabaseError) -> None:
        attempts = self._of(job)
        attempts.ok, attempts.pending = False, False
        attempts.errors[error.reason] += 1
        if attempts.message != str(error):
            attempts.message = str(error)
            _log.warning(
                "collector failed: %s",
                error,
                extra={"collector": job.collector.name, "datname": job.database, "reason": error.reason},
            )

    async def _look_up_relations(self, job: Job, table: Columns, session: Session) -> None:
        """Ask for the names of relations that turned up for the first time; without an answer their oids stand in."""
        for label, kind in job.collector.names.items():
            unknown = self._names.unknown(kind, table.get(label, ())) if kind == "relation" else set()
            for database in {oid for oid, _ in unknown}:
                oids = [oid for of, oid in unknown if of == database]
                try:
                    self._names.learn(await self._relations(database, oids, session, job.database))
                except DatabaseError as error:
                    _log.info("relations could not be named: %s", error, extra={"collector": job.collector.name})

    async def _relations(
        self, database: int, oids: Sequence[int], session: Session, ours: str
    ) -> dict[tuple[int, int], str]:
        name = self._names.database(database)
        if not database or name is None or name == ours:
            return await session.relations(oids, database, _FACTS_TIMEOUT)
        async with self._sessions.borrowed(name, wait=False) as other:
            return await other.relations(oids, database, _FACTS_TIMEOUT)

    def _report(self, seconds: float) -> Report:
        current = self.plan
        keys = {job.key for job in current.jobs}
        self._attempts = {key: attempts for key, attempts in self._attempts.items() if key in keys}
        jobs = tuple(self._status(job) for job in current.jobs)
        return Report(self._up, self._down_reason, jobs, current.skipped, seconds, self._scrapes, self._sessions.count)

    def _status(self, job: Job) -> JobStatus:
        attempts = self._of(job)
        age = time.monotonic() - attempts.succeeded_at
        young = age <= job.collector.cache + self._last_good
        success = attempts.ok and not attempts.pending
        return JobStatus(
            collector=job.collector.name,
            datname=job.datname,
            success=success,
            samples=attempts.samples if success or young else None,
            duration=attempts.duration,
            age=age if attempts.samples else None,
            errors=dict(attempts.errors),
            rejected=dict(attempts.rejected),
            message=attempts.message or ("" if success else "late"),
        )
