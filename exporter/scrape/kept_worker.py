"""Does a kept connection's share of a scrape: discovers the server, then runs what is due, one job after another."""

from collections.abc import Sequence
from contextlib import suppress

from exporter.connections.discovery import TIMEOUT
from exporter.connections.kept_connection import KeptConnection
from exporter.connections.session import Session, Vitals
from exporter.errors import ConnectError, QueryError
from exporter.planning.plan import Job
from exporter.scrape.parts import Parts
from exporter.scrape.run_job import JobRunner

ALONE_SECONDS = 300.0
"""Seconds for which each query is asked alone after a statement that asked several failed."""


class KeptWorker:
    """One of two: one runs the vital jobs, the other one the rest of the DSN's database."""

    def __init__(self, kept: KeptConnection, parts: Parts, runner: JobRunner) -> None:
        self.is_vital = kept is parts.pool.vital
        self.name = "vital" if self.is_vital else "main"
        self._kept = kept
        self._parts = parts
        self._runner = runner
        self._in_use = kept
        """The connection that serves at the moment: the other one where this one cannot be had."""
        self._alone_until = float("-inf")
        """Clock time until which each query is asked alone, since one of several failed."""

    def due(self) -> list[Job]:
        """List what is due of this worker's kind, in all databases."""
        return self._parts.schedule.due(is_vital=self.is_vital)

    async def discover(self) -> Session | None:
        """Connect and learn what the server is; None when there is no connection, and what was due misses its run.

        The first time takes its turn among the targets, but for the vital few.
        """
        if not self.is_vital and not self._parts.discovery.has_learned:
            await self._parts.turns.next()
        try:
            session, vitals = await self._ready()
        except ConnectError as error:
            self._parts.schedule.miss(self.due(), QueryError("connection", str(error)))
            return None
        self._parts.note(vitals, session)
        await self._end_abandoned(session)
        await self._learn(session, vitals.database)
        return session

    async def _learn(self, session: Session, database: str) -> None:
        """Learn over the main connection; over the vital one only what nothing is known of yet."""
        discovery = self._parts.discovery
        if not self.is_vital:
            discovery.come_from(session, database)
        if not self.is_vital or not discovery.has_learned:
            async with discovery.learning, self._in_use.lock:
                await discovery.learn(session, database)
            self._parts.adopt_plan()

    async def _end_abandoned(self, session: Session) -> None:
        """Have the server terminate backends that we no longer talk to; they count until they are gone."""
        budget = self._parts.pool.budget
        if budget.abandoned:
            try:
                async with self._in_use.lock:
                    await budget.end_abandoned(session, TIMEOUT)
            except QueryError as error:
                extra = {"reason": error.reason}
                self._parts.log.info("abandoned backends could not be terminated: %s", error, extra=extra)

    async def run_due(self, session: Session) -> None:
        """Run what is due in the DSN's database; a connection lost on the way is replaced."""
        server = self._parts.discovery.server
        jobs = self._parts.schedule.due(is_vital=self.is_vital, database=server.database if server else "")
        self._parts.schedule.expect(jobs)
        for group in self._groups(jobs, session):
            async with self._in_use.lock:
                if not await self._runner.run_jointly(group, session):
                    self._alone_until = self._parts.clock() + ALONE_SECONDS
        for job in self._parts.schedule.expected(jobs):
            if not session.is_usable:
                try:
                    session, _ = await self._ready()
                except ConnectError as error:
                    self._parts.schedule.miss(self._parts.schedule.expected(jobs), QueryError("connection", str(error)))
                    return
            async with self._in_use.lock:
                await self._runner.run(job, session)
        if not session.is_usable:
            with suppress(ConnectError):  # the next scrape will say so
                await self._ready()

    def _groups(self, jobs: Sequence[Job], session: Session) -> list[list[Job]]:
        """Group what one statement may ask: quick queries of the same cache, which are due together again.

        Those that read the lock table are groups of their own and come last, so that all others are answered while it
        keeps them waiting.
        """
        if self._parts.clock() < self._alone_until or self._parts.pool.budget.abandoned:
            return []
        groups: dict[tuple[bool, float], list[Job]] = {}
        for job in jobs:
            if job.can_join and session.can_join(job.sql) and self._parts.schedule.is_quick(job):
                groups.setdefault((job.reads_lock_table, self._parts.schedule.cache(job)), []).append(job)
        in_order = (groups[key] for key in sorted(groups))
        return [sorted(group, key=lambda job: job.key) for group in in_order if len(group) > 1]

    async def _ready(self) -> tuple[Session, Vitals]:
        """Choose a connection that answers; where this worker's cannot be had, the other one serves both.

        One that hangs while the other answers has met a query that ignored its statement_timeout: the connection is
        replaced, and the query suspended.
        """
        kept, other = self._kept, self._parts.pool.other(self._kept)
        self._in_use = kept
        before = kept.session
        stuck_on = before.stuck_on if before else None
        try:
            session, vitals = await kept.ready(TIMEOUT)
        except ConnectError as error:
            self._parts.health.failed(error)
            if not other.is_ready:
                raise
            found = await other.ready(TIMEOUT)
            if error.reason != "hung":
                self._in_use = other
                return found
        else:
            if session is not before:
                self._suspend(stuck_on)
            return session, vitals
        self._suspend(stuck_on)
        await kept.replace()
        try:
            return await kept.ready(TIMEOUT)
        except ConnectError:
            self._in_use = other
            return found

    def _suspend(self, sql: str | None) -> None:
        """Suspend the job whose query got a connection stuck; a question of our own suspends nothing."""
        if sql and (job := self._parts.schedule.job_of(sql)):
            self._runner.suspend(job)
