"""Reads texts from pg_stat_statements; in another database, where the one of the DSN cannot tell them.

The server converts each text to the encoding of the database that asks. One that has no such form, or bytes that the
encoding does not know, fails the call for all. A database in SQL_ASCII takes every byte as it is.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from exporter.connections.discovery import TIMEOUT
from exporter.connections.session import Session
from exporter.errors import DatabaseError, QueryError
from exporter.planning.plan import Job
from exporter.scrape.parts import Parts
from exporter.sql import quoted, signed

_UNCONVERTIBLE = {"22021", "22P05", "42883"}
"""SQLSTATEs of a text that cannot be converted: bytes or characters that the encoding lacks, no conversion at all."""

_BYTEWISE = signed(
    """
SELECT datname::text AS datname
  FROM pg_catalog.pg_database
 WHERE pg_encoding_to_char(encoding) = 'SQL_ASCII'
 ORDER BY datname
""",
    "statement_texts",
)

_MOST_DATABASES = 3
"""Upper bound on the databases that are tried: each costs a login."""

REMEDY = (
    "PostgreSQL cannot convert a statement of another database to the encoding of this one, and then tells no text at"
    " all. CREATE EXTENSION pg_stat_statements in a database with ENCODING 'SQL_ASCII': pgvigil reads them there"
)


async def statement_texts(
    parts: Parts, job: Job, session: AbstractAsyncContextManager[Session], sql: str, timeout: float, *arguments: Any
) -> Sequence[Any]:
    """Run a query for texts in the database of a job, else where they can be told.

    Args:
        parts: the parts of the target.
        job: the job that lists statements.
        session: lends a session in its database, which is given back before another database is asked.
        sql: the query, with {schema} for that of the extension.
        timeout: seconds that it may take.
        arguments: those of the query.

    """
    async with session as here:
        try:
            return await here.rows(_in_schema(sql, parts.discovery.schema(job)), timeout, *arguments)
        except QueryError as error:
            if getattr(error.__cause__, "sqlstate", None) not in _UNCONVERTIBLE:
                raise
            failure = error
        databases = await _bytewise(parts, job, here)
    for database in databases:
        rows = await _rows_there(parts, job, database, sql, timeout, *arguments)
        if rows is not None:
            return rows
    raise QueryError(failure.reason, f"{failure}: {REMEDY}") from failure


async def _bytewise(parts: Parts, job: Job, session: Session) -> list[str]:
    """Name other databases of ours that take every byte."""
    known = set(parts.discovery.server.databases if parts.discovery.server else ()) - {job.database}
    rows = await session.rows(_BYTEWISE, TIMEOUT)
    return [row["datname"] for row in rows if row["datname"] in known][:_MOST_DATABASES]


async def _rows_there(
    parts: Parts, job: Job, database: str, sql: str, timeout: float, *arguments: Any
) -> Sequence[Any] | None:
    """Run the query in another database; None where that lacks the extension, or does not answer."""
    try:
        async with parts.pool.borrowed(database, timeout=TIMEOUT) as session:
            found = (await session.contents(TIMEOUT)).extensions.get(job.collector.extension or "")
            return await session.rows(_in_schema(sql, quoted(found.schema)), timeout, *arguments) if found else None
    except DatabaseError as error:
        parts.log.info("texts of statements cannot be read: %s", error, extra={"datname": database})
        return None


def _in_schema(sql: str, schema: str | None) -> str:
    return sql.replace("{schema}", schema or "")
