"""Tells which statements share a series: excluded ones, and the exporter's own, which are counted as its costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from exporter.connections.session import Session
from exporter.planning.plan import Job
from exporter.planning.statement_filter import StatementFilter
from exporter.samples.ledger import Key, key_columns
from exporter.samples.model import Columns
from exporter.samples.shared_series import SharedSeries
from exporter.scrape.cost_reader import CostReader
from exporter.scrape.parts import Parts

_OF_STATEMENTS = frozenset({"userid", "dbid", "queryid"})
"""Columns of the key of a ledger that is about statements."""


class StatementSharing:
    """Knows the statements of one target that get no series of their own."""

    def __init__(self, parts: Parts, excluded: StatementFilter) -> None:
        self._parts = parts
        self._costs = CostReader(parts)
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
        await self._costs.read(job, session)
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
