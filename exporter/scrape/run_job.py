"""Runs one job on a session and says what came of it; whatever goes wrong costs this job only."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from exporter.catalog.model import Collector
from exporter.connections.session import Answer, Question, Session
from exporter.errors import DatabaseError, ExcessError, QueryError
from exporter.planning.plan import HIDDEN, Job
from exporter.planning.statement_filter import StatementFilter
from exporter.samples.convert import columns, missing_columns, samples, transformed
from exporter.samples.ledger import Comparison, Ledger, compared, new_ledger, update_ledger
from exporter.samples.model import Samples
from exporter.samples.sums import Sums
from exporter.schedule.job_record import Outcome
from exporter.scrape.ask import ask
from exporter.scrape.ask_changed import Reading, ask_changed
from exporter.scrape.known_answers import KnownAnswers
from exporter.scrape.parts import Parts
from exporter.scrape.statement_sharing import StatementSharing

_Result = TypeVar("_Result")

JOINT_TIMEOUT = 3.5
"""Seconds after which the server ends a statement that asks for several collectors: each is asked alone then."""

_MANY_ROWS = 2_000
"""Rows from which on they are worked on in a thread: more would stop the event loop, and so all targets, too long."""

_LEAST_ROWS = 10_000
"""Rows of a query that are read at least, however few samples a page may have: what it leaves out is counted."""


class JobRunner:
    """Runs jobs of one target, and keeps the ledgers and sums that outlive their runs."""

    def __init__(self, parts: Parts, max_samples: int, excluded: StatementFilter) -> None:
        self._parts = parts
        self._max_samples = max_samples
        self._thread = ThreadPoolExecutor(1)
        self._clock = parts.clock
        self._sharing = StatementSharing(parts, excluded)
        self._ledgers: dict[tuple[str, str], Ledger] = {}
        self._sums: dict[tuple[str, str], Sums] = {}
        self._lacking: dict[tuple[str, str], str] = {}
        """Job -> what has been said of columns that its query lacks."""
        self._known = KnownAnswers(parts.discovery.names)
        self._remembered: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._collectors: dict[tuple[str, str], Collector] = {}
        """Job -> the collector that the rest was kept for."""

    async def run(self, job: Job, session: Session) -> Outcome:
        """Run a job, record what came of it, and log an error that is news."""
        self._forget_another(job)
        if self._is_still_running(job):
            failure = QueryError("connection", "a backend that does not end still runs this query")
            self._parts.schedule.miss([job], failure)
            self.suspend(job)
            return Outcome(0.0, error=failure)
        self._parts.schedule.start(job)
        return self._record(job, await self._outcome(job, session))

    async def run_jointly(self, jobs: Sequence[Job], session: Session) -> bool:
        """Run several jobs by one statement; return False where that failed, and what it cost is booked to none."""
        for job in jobs:
            self._forget_another(job)
            self._parts.schedule.start(job)
        try:
            questions = [Question(job.sql, job.part, job.tables, self._known.known(job)) for job in jobs]
            timeout = min(JOINT_TIMEOUT, *(job.collector.timeout for job in jobs))
            answers = await session.fetch_jointly(questions, timeout)
        except DatabaseError as error:
            self._parts.log.info("collectors are asked one by one: %s", error, extra={"reason": error.reason})
            return False
        except Exception as error:  # the boundary: each of them has to run, and to say what is wrong
            self._parts.log.error("several collectors failed unexpectedly", exc_info=error)
            return False
        for job, answer in zip(jobs, answers, strict=True):
            started = self._clock() - answer.seconds
            self._record(job, await self._worked_out(job, session, Reading(answer), started, answer.seconds))
        return True

    def _forget_another(self, job: Job) -> None:
        """Begin anew where a file of collectors was changed."""
        if self._collectors.setdefault(job.key, job.collector) is not job.collector:
            self._collectors[job.key] = job.collector
            for kept in (self._ledgers, self._sums, self._lacking, self._remembered):
                kept.pop(job.key, None)

    def _record(self, job: Job, outcome: Outcome) -> Outcome:
        """Record what came of a run, and log an error that is news."""
        if outcome.error is None or outcome.error.reason != "connection":
            self._parts.health.answered()
        if self._parts.schedule.record(job, outcome) and outcome.error:
            self._log_error(job, outcome.error)
        if isinstance(outcome.error, ExcessError):
            seconds = self._parts.schedule.suspend(job)
            extra = {"collector": job.collector.name, "datname": job.database}
            self._parts.log.warning("answer was too large; suspended for %.0f s", seconds, extra=extra)
        return outcome

    def _is_still_running(self, job: Job) -> bool:
        """Return whether a backend that we had to abandon may still run this query; another one might end likewise."""
        server = self._parts.discovery.server
        home = server.database if server else job.database
        database = None if job.database == home else job.database
        return any(self._parts.pool.budget.still_runs(sql, database) for sql in job.queries)

    def suspend(self, job: Job) -> None:
        """Suspend a job whose query ignored its statement_timeout."""
        seconds = self._parts.schedule.suspend(job)
        extra = {"collector": job.collector.name, "datname": job.database}
        self._parts.log.warning("query ignored its statement_timeout; suspended for %.0f s", seconds, extra=extra)

    async def _outcome(self, job: Job, session: Session) -> Outcome:
        started = self._clock()
        try:
            reading = await self._read(job, session)
        except DatabaseError as error:
            seconds = self._clock() - started
            spent = seconds if error.reason == "timeout" else 0.0
            return Outcome(seconds, spent, error=error, is_stuck=session.stuck_on in job.queries)
        except Exception as error:  # noqa: BLE001  # the boundary: one collector never costs another
            return Outcome(self._clock() - started, error=self._unexpected(job, error))
        on_the_way = self._parts.discovery.least_round_trip * reading.answer.round_trips
        server_seconds = max(self._clock() - started - on_the_way - reading.own_seconds, 0.0)
        return await self._worked_out(job, session, reading, started, server_seconds)

    async def _worked_out(
        self, job: Job, session: Session, reading: Reading, started: float, server_seconds: float
    ) -> Outcome:
        """Turn what was read into the outcome of a run that began at `started`."""
        found: Samples | DatabaseError
        try:
            is_known = reading.answer.is_known
            found = self._known.samples(job) if is_known else await self._samples(job, reading, session)
        except DatabaseError as error:
            found = error
        except Exception as error:  # noqa: BLE001  # the boundary, as above
            found = self._unexpected(job, error)
        seconds, rows = self._clock() - started, len(reading.answer.rows) + reading.narrow_rows
        if isinstance(found, DatabaseError):
            return Outcome(seconds, server_seconds, rows, error=found)
        return Outcome(seconds, server_seconds, rows, found)

    async def _read(self, job: Job, session: Session) -> Reading:
        """Fetch the rows of a job; of a ledger only those that have changed, where its file says how to tell."""
        if job.narrow_sql and not (ledger := self._ledger(job)).reads_whole(job.sql):

            async def compare(answer: Answer) -> Comparison:
                return await self._worked(len(answer.rows), compared, job, answer.rows, ledger)

            return await ask_changed(job, session, compare, self._clock, self._most_rows(job))
        remembered = self._remembered.get(job.key, (None,) * len(job.collector.remember))
        return Reading(await ask(job, session, remembered, self._clock, self._most_rows(job)))

    def _most_rows(self, job: Job) -> int:
        """Return how many rows fit on a page, of which no more are served; on a small one the cut is still counted."""
        return max(self._max_samples // len(job.metrics), _LEAST_ROWS)

    async def _samples(self, job: Job, reading: Reading, session: Session) -> Samples:
        """Turn the rows into samples; QueryError when declared columns are missing."""
        rows, stale = reading.answer.rows, reading.stale
        many = max(len(rows), reading.narrow_rows)
        table = reading.answer.table
        if table is None:
            table = await self._worked(many, columns, rows)
        if table and (missing := missing_columns(job, list(table))):
            self._lacks(job, missing)
        if hidden := sum(table.get(HIDDEN, ())):
            raise QueryError(
                "permission", f"the role may not see all of it ({hidden} rows are hidden); GRANT pg_monitor TO it"
            )
        if table and job.collector.remember:
            self._remembered[job.key] = tuple(table[column][0] for column in job.collector.remember)
        table = await self._worked(many, transformed, job, table)
        names, version = self._parts.discovery.names, self._known.names_version
        await self._parts.discovery.look_up_names(job, table, session)
        if job.collector.ledger:
            shared = await self._sharing.of(job, table, stale, session)
            ledger = self._ledger(job), self._clock(), stale, shared
            found = await self._worked(many, update_ledger, job, table, names, *ledger)
        else:
            found = await self._worked(many, samples, job, table, names)
            if any(metric.sum for metric in job.metrics):
                found = self._sums.setdefault(job.key, Sums()).keep(found)
        self._known.remember(job, reading.answer, table, found, version)
        return replace(found, unread_rows=1) if reading.answer.is_cut else found

    async def _worked(self, many: int, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Do a piece of work on so many rows; on many of them in a thread, beside the event loop."""
        if many < _MANY_ROWS:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    def _lacks(self, job: Job, columns: Sequence[str]) -> None:
        """Refuse a query that lacks declared columns; of a translated one say once what is left out for it."""
        what = f"the query has no column {', '.join(columns)}"
        if not job.collector.lenient:
            raise QueryError("query", what)
        if self._lacking.get(job.key) != what:
            self._lacking[job.key] = what
            extra = {"collector": job.collector.name, "datname": job.database}
            self._parts.log.warning("%s: metrics and labels that need it are left out", what, extra=extra)

    def _ledger(self, job: Job) -> Ledger:
        if (found := self._ledgers.get(job.key)) is None:
            found = self._ledgers[job.key] = new_ledger(job)
        return found

    def _unexpected(self, job: Job, error: Exception) -> QueryError:
        extra = {"collector": job.collector.name, "datname": job.database}
        self._parts.log.error("collector failed unexpectedly", exc_info=error, extra=extra)
        return QueryError("query", f"{type(error).__name__}: {error}")

    def _log_error(self, job: Job, error: DatabaseError) -> None:
        extra = {"collector": job.collector.name, "datname": job.database, "reason": error.reason}
        self._parts.log.warning("collector failed: %s", error, extra=extra)
