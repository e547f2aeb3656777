"""Reads which collectors our own statements belong to, where some are new, and has their cost counted."""

from contextlib import nullcontext

from exporter.connections.session import Session
from exporter.errors import DatabaseError
from exporter.planning.plan import Job
from exporter.scrape.parts import Parts
from exporter.scrape.server_cost import OUR_TEXTS
from exporter.scrape.statement_reads import statement_texts


class CostReader:
    """Counts the cost of our own statements by the statements just collected."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._failure = ""
        """Error of the latest read, once logged; empty after one that did not fail."""

    async def read(self, job: Job, session: Session) -> None:
        """Read the texts of statements that are new, and count what all known ones cost."""
        costs, discovery, now = self._parts.costs, self._parts.discovery, self._parts.clock()
        if discovery.schema(job) and (missing := costs.missing(now)):
            arguments = (discovery.role, [*map(str, missing)])
            timeout = job.collector.timeout
            try:
                rows = await statement_texts(self._parts, job, nullcontext(session), OUR_TEXTS, timeout, *arguments)
            except DatabaseError as error:  # the statements themselves have been collected
                self._log(job, error)
            else:
                costs.learn({row["queryid"]: row["query"] for row in rows})
                self._failure = ""
        per_database = {each.collector.name for each in self._parts.schedule.plan.jobs if each.datname}
        costs.update(discovery.names, per_database, now)

    def _log(self, job: Job, error: DatabaseError) -> None:
        """Log why the cost of new statements is unknown, if that is news."""
        if self._failure != str(error):
            self._failure = str(error)
            extra = {"collector": job.collector.name, "reason": error.reason}
            self._parts.log.warning("cost of our own statements is unknown: %s", error, extra=extra)
