"""Tells which statements share a series: the exporter's own, whose texts are read once, and counted as its costs."""

from collections.abc import Sequence

from exporter.connections.session import Session
from exporter.errors import DatabaseError
from exporter.planning.plan import Job
from exporter.samples.ledger import Key, key_columns
from exporter.samples.model import Columns
from exporter.samples.shared_series import SharedSeries
from exporter.scrape.parts import Parts
from exporter.scrape.server_cost import OUR_TEXTS


class StatementSharing:
    """Knows the exporter's own statements of one target."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def of(self, job: Job, table: Columns, stale: Sequence[Key] | None, session: Session) -> SharedSeries:
        """Return which statements share a series, those just collected included.

        Args:
            job: a job that lists statements.
            table: the rows that were read whole.
            stale: the rows of the last look that have changed or are gone; None for all.
            session: the session to ask for the texts of the exporter's new statements.

        """
        costs, role = self._parts.costs, self._parts.discovery.role
        costs.see(table, role, None if stale is None else key_columns(job, stale))
        if await self._learn(job, session):
            per_database = {each.collector.name for each in self._parts.schedule.plan.jobs if each.datname}
            costs.update(self._parts.discovery.names, per_database, self._parts.clock())
        return SharedSeries(role, costs.own)

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
