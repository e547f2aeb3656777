"""Runs every collector once, as a scrape does, and compares its columns with the declared ones."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from exporter.connections.postgres import Postgres
from exporter.connections.postgres_session import PostgresSession
from exporter.connections.session import Connector
from exporter.errors import ConnectError, DatabaseError
from exporter.literals import without_literals
from exporter.planning.plan import Job
from exporter.report import JobStatus, Report
from exporter.samples.convert import missing_columns
from exporter.scrape.statement_texts import COLLECTOR
from exporter.scrape.target import Target

_SCRAPE_SECONDS = 120.0
"""Longer than any scraper waits, so that a slow collector is told from one that fails."""

_NUMBERS = {"int2", "int4", "int8", "float4", "float8", "numeric", "bool"}
"""The types that can be a sample's value."""


_DENIED = """
SELECT CASE c.relkind WHEN 'S' THEN 'SELECT ON SEQUENCE ' ELSE 'SELECT ON ' END || format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relname = ANY($1::text[])
   AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND (n.nspname = ANY($1::text[]) OR pg_catalog.pg_table_is_visible(c.oid))
   AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
   AND NOT pg_catalog.has_table_privilege('pg_monitor', c.oid, 'SELECT')
UNION ALL
SELECT 'USAGE ON SCHEMA ' || quote_ident(nspname)
  FROM pg_catalog.pg_namespace
 WHERE nspname = ANY($1::text[])
   AND NOT pg_catalog.has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT 'EXECUTE ON ' || CASE p.prokind WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END
       || format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
 WHERE p.proname = ANY($1::text[])
   AND (n.nspname = ANY($1::text[]) OR pg_catalog.pg_function_is_visible(p.oid))
   AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
   AND NOT pg_catalog.has_function_privilege('pg_monitor', p.oid, 'EXECUTE')
"""
"""Names what the role may not use of all that has one of these names: the server's message depends on its language.

System catalogs are left out: what they hide, passwords for instance, is not for a role that monitors. So is what
pg_monitor may use, whose GRANT is advised already where it is missing.
"""

_NAME = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')


@dataclass(frozen=True)
class Trial:
    """The result of one collector in one database."""

    collector: str
    datname: str
    rows: int
    seconds: float
    problem: str = ""
    lacks: tuple[str, ...] = ()
    """Privileges that the role lacks for it, as GRANT takes them: `SELECT ON public.orders`."""
    database: str = ""
    """The database where they are to be granted."""


@dataclass(frozen=True)
class _Look:
    """Result of preparing one query, without running it."""

    problem: str = ""
    lacks: tuple[str, ...] = ()
    database: str = ""


async def try_collectors(target: Target, server: Connector) -> tuple[Report, tuple[Trial, ...]]:
    """Scrape once, with the texts of statements, then compare the columns of all queries, with rows or without."""
    try:
        report = await target.scrape(_SCRAPE_SECONDS)
        listed = await target.texts.read()
    finally:
        await target.close()
    if not report.up:
        raise ConnectError(report.down_reason or "other", "the server was lost while its collectors were tried")
    denied = {(status.collector, status.datname) for status in report.jobs if status.reason == "permission"}
    looks = await _looks(target.plan.jobs, denied, server) if isinstance(server, Postgres) else {}
    trials = [_trial(status, looks) for status in report.jobs]
    if listed.statements and listed.note:
        trials.append(Trial(COLLECTOR, "", 0, 0.0, listed.note))
    return report, tuple(trials)


async def _looks(
    jobs: Iterable[Job], denied: Collection[tuple[str, str]], postgres: Postgres
) -> dict[tuple[str, str], _Look]:
    """Prepare every query, and name the declared columns that it does not return and the privileges that it lacks."""
    found: dict[tuple[str, str], _Look] = {}
    for database, group in groupby(sorted(jobs, key=lambda job: job.database), key=lambda job: job.database):
        try:
            async with await postgres.connect(database) as session:
                for job in group:
                    lacks = await _lacks(job, session) if job.key in denied else ()
                    found[job.key] = _Look(await _lack(job, session), lacks, database)
        except ConnectError:
            continue  # the scrape could not connect either, and says so
    return found


async def _lacks(job: Job, session: PostgresSession) -> tuple[str, ...]:
    """Name the privileges that the role lacks on what a query names."""
    names = [quoted.replace('""', '"') or plain.lower() for quoted, plain in _NAME.findall(without_literals(job.sql))]
    try:
        answer = await session.fetch(_DENIED, 5.0, list(dict.fromkeys(names)), search_path=job.collector.search_path)
    except DatabaseError:
        return ()
    return tuple(sorted((row[0] for row in answer.rows), reverse=True))  # schemas first


async def _lack(job: Job, session: PostgresSession) -> str:
    try:
        types = await session.columns(job.sql, job.collector.search_path)
        for part in job.queries[1:]:
            await session.columns(part, job.collector.search_path)
    except DatabaseError as error:
        return str(error)
    if missing := missing_columns(job, list(types)):
        return f"the query has no column {', '.join(missing)}"
    if job.collector.lenient:
        return ""
    wrong = {m.column: types[m.column] for m in job.metrics if types.get(m.column, "int8") not in _NUMBERS}
    return ", ".join(f"column {column} is of type {of}, which is no number" for column, of in wrong.items())


def _trial(status: JobStatus, looks: Mapping[tuple[str, str], _Look]) -> Trial:
    look = looks.get((status.collector, status.datname), _Look())
    rows = status.samples.rows if status.samples else 0
    rejected = ", ".join(f"{count} {reason}" for reason, count in status.rejected.items())
    problem = "" if status.success else status.message or "was not run"
    problem = problem or look.problem
    problem = problem or (f"rows that cannot be served: {rejected}" if rejected else "")
    return Trial(status.collector, status.datname, rows, status.duration or 0.0, problem, look.lacks, look.database)
