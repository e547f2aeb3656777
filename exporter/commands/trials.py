"""Runs every collector once, as a scrape does, and compares its columns with the declared ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from exporter.connections.postgres import Postgres, PostgresSession
from exporter.connections.session import Connector
from exporter.errors import ConnectError, DatabaseError
from exporter.planning.plan import Job
from exporter.report import JobStatus, Report
from exporter.samples.convert import missing_columns
from exporter.scrape.target import Target

_SCRAPE_SECONDS = 120.0
"""Longer than any scraper waits, so that a slow collector is told from one that fails."""

_NUMBERS = {"int2", "int4", "int8", "float4", "float8", "numeric", "bool"}
"""The types that can be a sample's value."""


@dataclass(frozen=True)
class Trial:
    """The result of one collector in one database."""

    collector: str
    datname: str
    rows: int
    seconds: float
    problem: str = ""


async def try_collectors(target: Target, server: Connector) -> tuple[Report, tuple[Trial, ...]]:
    """Scrape once, then compare the columns of every query, also of those that returned no rows."""
    try:
        report = await target.scrape(_SCRAPE_SECONDS)
    finally:
        await target.close()
    if not report.up:
        raise ConnectError(report.down_reason or "other", "the server was lost while its collectors were tried")
    lacking = await _lacking(target.plan.jobs, server) if isinstance(server, Postgres) else {}
    return report, tuple(_trial(status, lacking) for status in report.jobs)


async def _lacking(jobs: Iterable[Job], postgres: Postgres) -> dict[tuple[str, str], str]:
    """Prepare every query, and name the declared columns that it does not return."""
    problems: dict[tuple[str, str], str] = {}
    for database, group in groupby(sorted(jobs, key=lambda job: job.database), key=lambda job: job.database):
        try:
            async with await postgres.connect(database) as session:
                problems.update([(job.key, await _lack(job, session)) for job in group])
        except ConnectError:
            continue  # the scrape could not connect either, and says so
    return problems


async def _lack(job: Job, session: PostgresSession) -> str:
    try:
        types = await session.columns(job.sql, job.collector.search_path)
    except DatabaseError as error:
        return str(error)
    if missing := missing_columns(job, list(types)):
        return f"the query has no column {', '.join(missing)}"
    if job.collector.lenient:
        return ""
    wrong = {m.column: types[m.column] for m in job.metrics if types.get(m.column, "int8") not in _NUMBERS}
    return ", ".join(f"column {column} is of type {of}, which is no number" for column, of in wrong.items())


def _trial(status: JobStatus, lacking: Mapping[tuple[str, str], str]) -> Trial:
    rows = status.samples.rows if status.samples else 0
    rejected = ", ".join(f"{count} {reason}" for reason, count in status.rejected.items())
    problem = "" if status.success else status.message or "was not run"
    problem = problem or lacking.get((status.collector, status.datname), "")
    problem = problem or (f"rows that cannot be served: {rejected}" if rejected else "")
    return Trial(status.collector, status.datname, rows, status.duration or 0.0, problem)
