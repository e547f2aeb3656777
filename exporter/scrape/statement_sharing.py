"""Tells which statements share a series: excluded ones, and the exporter's own, which are counted as its costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from exporter.connections.session import Session
from exporter.errors import DatabaseError
from exporter.planning.plan import Job
from exporter.planning.statement_filter import StatementFilter
from exporter.samples.ledger import Key, key_columns
from exporter.samples.model import Columns
from exporter.samples.shared_series import SharedSeries
from exporter.scrape.parts import Parts
from exporter.scrape.server_cost import OUR_TEXTS

_OF_STATEMENTS = frozenset({"userid", "dbid", "queryid"})
"""Columns of the key of a ledger that is about statements."""


class StatementSharing:
    """Knows the statements of one target that get no series of their own."""

    def __init__(self, parts: Parts, excluded: StatementFilter) -> None:
        self._parts = parts
        self._filter = excluded
        self._excluded = SharedSeries()
        self._names_version = 0
        self._unmatched: Mapping[str, tuple[str, ...]] = {}

    async def of(self, job: Job, table: Columns, stale: Sequence[Key] | None, session: Session) -> SharedSeries:
        """Return which statements share a series, those just collected included.

        Args:
            job: a job with a ledger.
            table: the rows that were read whole.
            stale: the rows of the last look that have changed or are gone; None for all.
            session: the session to ask for the texts of the exporter's new statements.

        """
        if not (job.collector.ledger and {*job.collector.ledger.key} >= _OF_STATEMENTS):
            return SharedSeries()
        excluded = self._excluded_now()
        if not job.collector.statements:
            return excluded
        costs, role = self._parts.costs, self._parts.discovery.role
        costs.see(table, role, None if stale is None else key_columns(job, stale))
        if await self._learn(job, session):
            per_database = {each.collector.name for each in self._parts.schedule.plan.jobs if each.datname}
            costs.update(self._parts.discovery.names, per_database, self._parts.clock())
        return replace(excluded, role=role, own=costs.own)

    def _excluded_now(self) -> SharedSeries:
        """Look up which roles and databases match the patterns, again once names have changed."""
        names = self._parts.discovery.names
        if names.version != self._names_version:
            self._names_version = names.version
            users, databases = self._filter.excluded_users(names), self._filter.excluded_databases(names)
            self._excluded = SharedSeries(users=users, databases=databases)
            unmatched = self._filter.unmatched(names)
            for setting, patterns in unmatched.items():
                if patterns != self._unmatched.get(setting):
                    self._parts.log.warning("%s matches nothing: %s", setting, ", ".join(patterns))
            self._unmatched = unmatched
        return self._excluded

    async def _learn(self, job: Job, session: Session) -> bool:
        """Read the texts of our role's new statements; return whether nothing went wrong."""
        costs, discovery = self._parts.costs, self._parts.discovery
        schema = discovery.schema(job)
        if not schema or not (missing := costs.missing(self._parts.clock())):
            return True
        sql = OUR_TEXTS.replace("{schema}", schema)
        try:
            answer = await session.fetch(sql, job.collector.timeout, discovery.role, [*map(str, missing)])
        except DatabaseError as error:  # the statements themselves have been collected
            extra = {"collector": job.collector.name, "reason": error.reason}
            self._parts.log.warning("cost of our own statements is unknown: %s", error, extra=extra)
            return False
        costs.learn({row["queryid"]: row["query"] for row in answer.rows})
        return True
