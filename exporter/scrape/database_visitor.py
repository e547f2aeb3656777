"""Visits one database after another over a borrowed connection, and runs there what is due."""

from collections.abc import Sequence

from exporter.connections.discovery import TIMEOUT
from exporter.connections.session import Session
from exporter.errors import BusyError, ConnectError, DatabaseError, QueryError
from exporter.planning.plan import Job
from exporter.scrape.parts import Parts
from exporter.scrape.run_job import JobRunner
from exporter.sql import signed

LOGIN_ROUND_TRIPS = 5
"""Round trips of a login and the question for the contents, which cost the server nothing."""

SERVER_REFUSES = frozenset(
    {"refused", "unreachable", "too_many_connections", "starting_up", "shutting_down", "out_of_files"}
)
"""Reasons that concern the server or ourselves, not one database: no visitor tries the next one at once."""


LOCKED = signed(
    """
SELECT l.mode
  FROM pg_lock_status() AS l
 WHERE l.locktype = 'object'
   AND l.classid = 1262  -- pg_database
   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND l.objid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = $1)
 LIMIT 1
""",
    "visitor",
)
"""Finds whether a database is being renamed, moved, dropped or copied: a login waits for that, as long as it takes."""


class DatabaseVisitor:
    """Takes databases out of the rotation until none is in line, or the server refuses logins."""

    def __init__(self, parts: Parts, runner: JobRunner, *, is_early: bool = False) -> None:
        self.name = "early visitor" if is_early else "visitor"
        self.visiting: str | None = None
        """The database that is being visited."""
        self._is_early = is_early
        """True if it visits databases before they are due, which no page waits for."""
        self._parts = parts
        self._runner = runner

    def due(self) -> list[Job]:
        """List what is due in the database that is being visited."""
        return self._parts.schedule.due(is_vital=False, database=self.visiting) if self.visiting else []

    async def run(self) -> None:
        """Visit what is in line."""
        while database := self._parts.schedule.rotation.next(early=self._is_early):
            self.visiting = database
            try:
                if not await self._visit(database):
                    return
            finally:
                self.visiting = None

    async def _visit(self, database: str) -> bool:
        """Run what is due in one database; return whether the server let us in."""
        schedule = self._parts.schedule
        if not self._is_early:
            schedule.expect_visit(database)
        try:
            await self._check_locks(database)
            async with self._parts.pool.borrowed(database) as session:
                await self._run_jobs(database, session)
        except BusyError as error:
            self._parts.log.info("database not visited: %s", error, extra={"datname": database})
            return False
        except ConnectError as error:
            missed = QueryError("connection", str(error))
            schedule.rotation.record_failed_login()
            if error.reason in SERVER_REFUSES:
                schedule.miss(self.due(), missed)
                return False
            schedule.refuse(database, missed)
        except Exception as error:  # the boundary: one database never costs another
            self._parts.log.error("visit failed unexpectedly", exc_info=error, extra={"datname": database})
            failure = QueryError("query", f"{type(error).__name__}: {error}")
            schedule.miss(self.due(), failure)
        return True

    async def _check_locks(self, database: str) -> None:
        """Raise ConnectError where a login would wait for a lock: it would be seen as a victim, and outlast us."""
        try:
            async with self._parts.pool.used(TIMEOUT) as session:
                rows = await session.rows(LOCKED, TIMEOUT, database)
        except DatabaseError:
            return  # the login shows what is wrong
        if rows:
            raise ConnectError("other", f"a login would wait: a session holds, or waits for, {rows[0]['mode']} on it")

    async def _run_jobs(self, database: str, session: Session) -> None:
        schedule, started = self._parts.schedule, self._parts.clock()
        jobs: Sequence[Job] = schedule.on_visit(database)
        try:
            await self._parts.discovery.learn_contents(session, database)
            seconds = session.login_seconds + self._parts.clock() - started
            ways = LOGIN_ROUND_TRIPS * self._parts.discovery.least_round_trip
            schedule.rotation.record_login(database, max(seconds - ways, 0.0))
            self._parts.adopt_plan()
            jobs = schedule.on_visit(database)
            while jobs:
                job, *jobs = jobs
                if (await self._runner.run(job, session)).is_stuck:
                    await self._suspend(job)
                if not session.is_usable:
                    raise QueryError("connection", f"the session was lost or hangs after {job.collector.name}")
        except DatabaseError as error:
            schedule.miss(jobs, QueryError("connection", str(error)))

    async def _suspend(self, job: Job) -> None:
        """Suspend a job whose query ignored its statement_timeout, unless it is the server that hangs."""
        try:
            await self._parts.pool.vital.ready(TIMEOUT)
        except ConnectError as error:
            self._parts.log.debug("not suspended: %s", error, extra={"collector": job.collector.name})
        else:
            self._runner.suspend(job)
