"""What several collectors read: they name it in their files, and one statement reads it once for all of them. Pure."""

from collections.abc import Iterable, Mapping
from typing import Literal

from exporter.catalog.by_version import ByVersion, Version, newest
from exporter.sql import without_end

SourceName = Literal["activity", "texts", "locks", "locked"]

_ACTIVITY = """\
SELECT datid, pid, leader_pid, usesysid, application_name, client_addr, client_port, backend_type, state,
       wait_event_type, wait_event, backend_start, xact_start, query_start, state_change, backend_xid, backend_xmin{}
  FROM pg_catalog.pg_stat_get_activity(NULL)"""

_TEXTS = """\
SELECT pid,
       substring(textsend(query) FOR 2000) AS query
  FROM pg_catalog.pg_stat_get_activity(NULL)
 WHERE query <> '<insufficient privilege>'"""
"""The statements of sessions, as bytes: those of another database may be in another encoding."""

_LOCKED = """\
SELECT l.relation
  FROM pg_catalog.pg_lock_status() AS l
 WHERE l.mode = 'AccessExclusiveLock'
   AND l.database IN (0, (SELECT a.datid FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a))
   AND l.relation IS NOT NULL"""
"""The relations of this database, and of all, that cannot be looked at just now."""

SOURCES: Mapping[SourceName, ByVersion] = {
    "activity": {(0,): _ACTIVITY.format(""), (14,): _ACTIVITY.format(", query_id")},
    "texts": {(0,): _TEXTS},
    "locks": {(0,): "SELECT *\n  FROM pg_catalog.pg_lock_status()"},
    "locked": {(0,): _LOCKED},
}
"""Name -> query, of what is beneath pg_stat_activity (texts of queries apart) and pg_locks, which join catalogs."""

OF_LOCK_TABLE: frozenset[SourceName] = frozenset({"locks", "locked"})
"""Sources that read the lock table: while a thousand sessions look for deadlocks, a server keeps its readers waiting
and heeds no timeout."""

Tables = Mapping[str, str]
"""Name -> query, of the tables that a query reads besides those of the server."""


def tables(names: Iterable[SourceName], version: Version) -> Tables:
    """Choose the queries of sources for a version."""
    return {name: sql for name in names if (sql := newest(SOURCES[name], version))}


def with_tables(sql: str, of: Tables) -> str:
    """Put before a query the tables that it reads."""
    return f"{with_clause(of)}SELECT asked.*\n  FROM (\n{without_end(sql)}\n) AS asked" if of else sql  # noqa: S608


def with_clause(of: Tables) -> str:
    """Write the clause that makes tables for a query; empty for none."""
    clauses = [f"{name} AS MATERIALIZED (\n{query}\n)" for name, query in of.items()]
    return f"WITH {', '.join(clauses)}\n" if clauses else ""
