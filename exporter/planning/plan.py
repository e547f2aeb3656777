"""Catalog x server facts -> the jobs to run, or the reason why a collector is skipped. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from exporter.catalog.by_version import OLDEST, Version
from exporter.catalog.model import COMPUTED, Catalog, Collector, Metric
from exporter.catalog.sources import OF_LOCK_TABLE, Tables, tables, with_tables
from exporter.catalog.transforms import TRANSFORMS
from exporter.kinds import PRODUCTS
from exporter.planning.database_filter import DatabaseFilter
from exporter.planning.label_columns import LabelColumns
from exporter.planning.server import Extension, Server
from exporter.planning.table_filter import TableFilter
from exporter.sql import quoted, signed, without_end

FULL_LIMITS = 25
"""Databases that each get all the rows that a limit allows; more than so many share what these would have."""


WITHOUT_TABLES_SECONDS = 300.0
"""Least cache, in seconds, of a database without tables, such as `postgres` beside the database that matters."""


@dataclass(frozen=True)
class Job:
    """One query to run in one database, and the metrics its rows become."""

    collector: Collector
    database: str
    sql: str
    metrics: tuple[Metric, ...]
    is_without_tables: bool = False
    """The database holds system catalogs only, which change slowly."""
    limit: int | None = None
    """Rows that are kept of a query that runs in batches; another query's limit is part of its SQL."""
    part: str = ""
    """The query without the tables of its sources, for a statement that reads them for several jobs."""
    tables: Tables = field(default_factory=dict, compare=False)
    """The tables of its sources."""

    @cached_property
    def datname(self) -> str:
        """The database that its samples speak of; empty when they speak of the whole server."""
        return self.database if self.collector.scope == "database" else ""

    @cached_property
    def cache(self) -> float:
        """Seconds that its result is served again."""
        cache = self.collector.cache
        return max(cache, WITHOUT_TABLES_SECONDS) if cache and self.is_without_tables and self.datname else cache

    @cached_property
    def can_join(self) -> bool:
        """Return whether its query may be one of several that a statement asks: without parameters or a second pass."""
        each = self.collector
        return each.joins and not (each.remember or each.batches or each.ledger or each.lenient)

    @cached_property
    def reads_lock_table(self) -> bool:
        """Return whether it reads the lock table, for which it may have to wait."""
        return not OF_LOCK_TABLE.isdisjoint(self.collector.sources)

    @cached_property
    def narrow_sql(self) -> str | None:
        """The columns by which rows are told apart and changes are seen; None where all rows are read whole."""
        ledger = self.collector.ledger
        if ledger is None or ledger.changes is None:
            return None
        columns = dict.fromkeys((*ledger.key, *ledger.changes.columns))
        return signed(narrowed(self.sql, columns), self.collector.name)

    @cached_property
    def changed_sql(self) -> str | None:
        """The whole rows whose numbers its $1 lists; None where all rows are read whole."""
        changes = self.collector.ledger.changes if self.collector.ledger else None
        return signed(numbered(self.sql, changes.by), self.collector.name) if changes else None

    @cached_property
    def queries(self) -> tuple[str, ...]:
        """Every statement that it may run."""
        return tuple(filter(None, (self.sql, self.narrow_sql, self.changed_sql)))

    @cached_property
    def label_columns(self) -> LabelColumns:
        """The columns whose text the server is to write."""
        collector = self.collector
        ledger, batches = collector.ledger, collector.batches
        values = {metric.column for metric in self.metrics} | {*collector.remember}
        values |= {column.removeprefix(COMPUTED) for column in values}
        values |= {*ledger.key, ledger.rank} if ledger else set()
        values |= {batches.by, batches.rank} if batches else set()
        values |= {*TRANSFORMS[collector.transform].needs} if collector.transform else set()
        labels = frozenset({*collector.labels, *(label for metric in self.metrics for label in metric.labels)})
        labels = labels.difference(collector.names, collector.statement_texts)
        return LabelColumns.of(labels, frozenset(values), collector.lenient)

    @cached_property
    def key(self) -> tuple[str, str]:
        """The identity of the job from plan to plan."""
        return self.collector.name, self.datname


@dataclass(frozen=True)
class Plan:
    """Jobs to run, and skipped collectors."""

    jobs: tuple[Job, ...]
    skipped: Mapping[str, str]
    """Collector name -> reason."""
    unknown: tuple[str, ...] = ()
    """Collectors of which cannot be said yet whether they run: the extensions have not been listed."""

    @cached_property
    def by_database(self) -> Mapping[str, tuple[Job, ...]]:
        """The jobs of each database."""
        found: dict[str, list[Job]] = {}
        for job in self.jobs:
            found.setdefault(job.database, []).append(job)
        return {database: tuple(jobs) for database, jobs in found.items()}


def plan(catalog: Catalog, server: Server, table_filter: TableFilter | None = None) -> Plan:
    """Decide for each collector where it runs, or why it does not. Without a filter it tells of all tables."""
    table_filter = table_filter or TableFilter()
    jobs: list[Job] = []
    skipped: dict[str, str] = {}
    unknown = []
    for collector in catalog:
        if reason := skip_reason(collector, server):
            skipped[collector.name] = reason
            continue
        if awaits_extensions(collector, server):
            unknown.append(collector.name)
            continue
        found = _jobs(collector, server, table_filter)
        jobs += found
        if not found:
            skipped[collector.name] = _no_query(collector, server)
    return Plan(tuple(jobs), skipped, tuple(unknown))


def skip_reason(collector: Collector, server: Server) -> str | None:
    """Say why a collector does not run on this server at all; None when it does."""
    if not collector.enabled:
        return "switched off"
    if collector.role != "any" and (collector.role == "standby") != server.in_recovery:
        return f"runs on a {collector.role} only"
    if collector.extension and server.database in server.extensions and not _candidates(collector, server):
        return f"extension {collector.extension} is not installed"
    return None


def awaits_extensions(collector: Collector, server: Server) -> bool:
    """Return whether it depends on extensions that have not been listed yet whether a collector runs."""
    return bool(collector.extension) and not _candidates(collector, server)


def _databases(collector: Collector, server: Server) -> tuple[str, ...]:
    """Choose its databases: all, or one; only those with its extension and, if it needs tables, with tables."""
    ours_first = _candidates(collector, server)
    if collector.databases:
        ours_first = tuple(filter(DatabaseFilter(collector.databases).accepts, ours_first))
    if collector.needs_tables:
        ours_first = tuple(name for name in ours_first if name not in server.without_tables)
    if collector.scope == "server":
        return ours_first[:1]
    return ours_first if server.own else tuple(name for name in ours_first if name != server.database)


def _candidates(collector: Collector, server: Server) -> tuple[str, ...]:
    """All databases, that of the DSN first; with an extension, those that have it."""
    ours_first = tuple(dict.fromkeys((server.database, *server.databases)))
    if not collector.extension:
        return ours_first
    return tuple(name for name in ours_first if collector.extension in server.extensions.get(name, {}))


def _version(collector: Collector, database: str, server: Server) -> Version:
    if collector.extension:
        return server.extensions[database][collector.extension].version
    return server.version


def _jobs(collector: Collector, server: Server, table_filter: TableFilter) -> list[Job]:
    """Make its jobs; where the extension is the same, or there is none, they share their query."""
    databases = _databases(collector, server)
    limit = shared(collector.limit, len(databases)) if collector.limit else None
    made: dict[Extension | None, Job | None] = {}
    jobs = []
    for database in databases:
        extension = server.extensions[database][collector.extension] if collector.extension else None
        if extension not in made:
            version = extension.version if extension else server.version
            made[extension] = _job(collector, database, version, extension, limit, table_filter)
        if job := made[extension]:
            jobs.append(replace(job, database=database, is_without_tables=database in server.without_tables))
    return jobs


def shared(limit: int, databases: int) -> int:
    """Say how many rows of each database a limit allows: all of it, or an even share of what it allows in a few."""
    return limit if databases <= FULL_LIMITS else max(limit * FULL_LIMITS // databases, 1)


def lock_entries(catalog: Catalog, server: Server | None) -> str | None:
    """Return the query for the lock entries in which waits are traced; None where no collector has one.

    Of a server that is not known yet it is that of the oldest version, which all have the columns for.
    """
    collector = next((each for each in catalog if each.transform == "wait_roots"), None)
    return collector.sql_for(server.version if server else (OLDEST,)) if collector else None


def _job(
    collector: Collector,
    database: str,
    version: Version,
    extension: Extension | None,
    limit: int | None,
    table_filter: TableFilter,
) -> Job | None:
    sql, details = collector.part_for(version), collector.details_for(version)
    metrics = collector.metrics_for(version)
    if sql is None or not metrics:
        return None
    if collector.table:
        sql = table_filter.over(sql, collector.table)
    if limit and not (collector.ledger or collector.batches or collector.transform):
        sql = with_limit(sql, limit, metrics)
    if details:
        sql = with_details(sql, details)
    if extension:
        sql = sql.replace("{schema}", quoted(extension.schema))
    read = tables(collector.sources, version)
    whole = signed(with_tables(sql, read), collector.name)
    return Job(collector, database, whole, metrics, False, limit if collector.batches else None, sql, read)


def _no_query(collector: Collector, server: Server) -> str:
    if not _databases(collector, server):
        if collector.databases:
            return f"no database that is looked into matches {', '.join(collector.databases)}"
        has_no_tables = collector.needs_tables and server.without_tables
        return "no database has a table" if has_no_tables else "no database is to be looked into"
    version = ".".join(map(str, _version(collector, _databases(collector, server)[0], server)))
    return f"has no query for {collector.extension or PRODUCTS[collector.kind]} {version}"


ROWS_IN_ALL = "pgvigil_rows_in_all"
"""The column in which a limited query says how many rows there were before the cut."""


HIDDEN = "pgvigil_hidden"
"""The column in which a query counts what the role may not see: above 0 its collector fails with `permission`."""


def sum_column(column: str) -> str:
    """Name the column in which a limited query says what another one added up to before the cut."""
    return f"pgvigil_sum_{column}"


def with_limit(sql: str, limit: int, metrics: tuple[Metric, ...]) -> str:
    """Keep the first rows of a query, and count and sum all of them in the same pass."""
    columns = dict.fromkeys(metric.rest_column for metric in metrics if metric.rest_column)
    sums = "".join(
        f",\n       CAST(sum({quoted(column)}) OVER () AS float8) AS {quoted(sum_column(column))}" for column in columns
    )
    return (
        f"SELECT kept.*,\n       count(*) OVER () AS {ROWS_IN_ALL}{sums}\n"  # noqa: S608  # columns are quoted
        f"  FROM (\n{without_end(sql)}\n) AS kept\n LIMIT {limit}"
    )


def narrowed(sql: str, columns: Iterable[str]) -> str:
    """Return some of the columns of a query only."""
    names = ",\n       ".join(f"rows.{quoted(column)}" for column in columns)
    return f"SELECT {names}\n  FROM (\n{without_end(sql)}\n) AS rows"  # noqa: S608  # columns are quoted


def numbered(sql: str, by: str) -> str:
    """Return those rows of a query, in its order, that have one of the numbers in $1, or none.

    The numbers come as texts: the driver knows what an array of text is. OR keeps this a hashed subplan; a join might
    return the rows in another order.
    """
    column = f"rows.{quoted(by)}"
    return (
        f"SELECT rows.*\n  FROM (\n{without_end(sql)}\n) AS rows\n"  # noqa: S608  # the column is quoted
        f" WHERE {column} IS NULL\n"
        f"    OR {column} IN (SELECT CAST(number AS pg_catalog.int8)\n"
        "                      FROM pg_catalog.unnest(CAST($1 AS pg_catalog.text[])) AS wanted (number))"
    )


def with_details(sql: str, details: str) -> str:
    """Add to each row of a query what a second one says of it; the rows stay in their order."""
    return (
        "SELECT kept.*,\n       details.*\n"  # noqa: S608  # both come from files
        "  FROM (SELECT rows.*,\n               row_number() OVER () AS pgvigil_place\n"
        f"          FROM (\n{without_end(sql)}\n) AS rows) AS kept\n"
        f" CROSS JOIN LATERAL (\n{without_end(details)}\n) AS details\n"
        " ORDER BY kept.pgvigil_place"
    )
