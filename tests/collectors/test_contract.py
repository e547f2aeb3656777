"""Every query of every collector, prepared by every supported server: does it return the declared columns?"""

from collections.abc import Callable, Iterable, Mapping

import pytest
from pages import MONITOR
from postgresql19 import DATABASE, VERSION, planted
from pydantic import SecretStr
from servers import MAJORS, NEWEST

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Catalog
from exporter.connections.postgres import Postgres
from exporter.connections.postgres_session import PostgresSession
from exporter.demo.cluster import Cluster
from exporter.errors import QueryError
from exporter.planning.plan import Job, plan
from exporter.planning.server import Extension, Server
from exporter.samples.convert import missing_columns

NUMBERS = {"int2", "int4", "int8", "float4", "float8", "bool"}
"""Types that need no conversion row by row; numeric would arrive as Decimal."""

LABELS = {"text", "name", "varchar", "bool", "int2", "int4", "int8", "oid", "oid[]"}


def ours() -> Catalog:
    """The collectors that ask PostgreSQL; what PgBouncer shows is looked at elsewhere."""
    return load(BUILT_IN, COMPATIBILITY).of_kind("postgresql")


def only_newer() -> set[str]:
    """Name the collectors that no supported version has a query for."""
    return {each.name for each in ours() if not each.extension and not any(each.sql_for((major,)) for major in MAJORS)}


def jobs(version: tuple[int, ...], extensions: Mapping[str, Extension]) -> list[Job]:
    """Every job that could run on this version, on a primary or a standby, those that are off by default included."""
    catalog = Catalog(tuple(c.model_copy(update={"enabled": True}) for c in ours()))
    servers = [
        Server(version, in_recovery, "postgres", ("postgres",), {"postgres": extensions})
        for in_recovery in (False, True)
    ]
    found = {job.collector.name: job for server in servers for job in plan(catalog, server).jobs}
    return list(found.values())


def parameters(job: Job) -> tuple[object, ...]:
    """What the first run of a query is given."""
    if batches := job.collector.batches:
        return 0, batches.rows
    return (None,) * len(job.collector.remember)


async def complaints(jobs: Iterable[Job], server: Cluster, database: str = "postgres") -> list[str]:
    """What is wrong with queries, in sentences."""
    async with await Postgres(SecretStr(server.dsn(database, MONITOR))).connect() as session:
        return [line for job in jobs for line in await _complaints(job, session)]


async def _complaints(job: Job, session: PostgresSession) -> list[str]:
    try:
        types = await session.columns(job.sql)
        for part in job.queries[1:]:
            await session.columns(part)
    except QueryError as error:
        return [f"{job.collector.name}: {error}"]
    wrong = [f"{job.collector.name} lacks the column {column}" for column in missing_columns(job, list(types))]
    plain = [label for label in job.collector.all_labels if label not in job.collector.statement_texts]
    labels = [label for label in plain if label in types and types[label] not in LABELS]
    wrong += [f"{job.collector.name}.{label} is a label of type {types[label]}" for label in labels]
    values = {metric.column for metric in job.metrics if types.get(metric.column, "int8") not in NUMBERS}
    return wrong + [f"{job.collector.name}.{column} is a value of type {types[column]}" for column in values]


async def test_every_query_returns_the_declared_columns(major: int, server: Cluster) -> None:
    extensions = {
        name: Extension(tuple(map(int, version.split("."))), "public")
        for name, version in server.query("SELECT extname, extversion FROM pg_extension WHERE extname <> 'plpgsql'")
    }
    found = await complaints(jobs((major,), extensions), server)
    assert not found, "\n".join(found)


async def test_queries_that_only_19_has_return_the_declared_columns(server18: Cluster) -> None:
    """Against the views as they are documented: no build of 19 can be installed yet."""
    unheard_of = [job for job in jobs(VERSION, {}) if job.collector.name in only_newer()]
    with planted(server18):
        found = await complaints(unheard_of, server18, DATABASE)
    assert len(unheard_of) == len(only_newer())
    assert not found, "\n".join(found)


async def test_collectors_that_need_tables_find_nothing_without_one(
    major: int, cluster: Callable[..., Cluster]
) -> None:
    server = cluster(major)
    server.execute("CREATE DATABASE bare")
    catalog = Catalog(tuple(collector for collector in ours() if collector.scope == "database"))
    per_database = plan(catalog, Server((major,), False, "bare", ("bare",), {"bare": {}})).jobs
    async with await Postgres(SecretStr(server.dsn("bare", MONITOR))).connect() as session:
        assert not (await session.contents(5)).has_tables
        silent = {job.collector.name for job in per_database if not await session.rows(job.sql, 5, *parameters(job))}
    needing = {job.collector.name for job in per_database if job.collector.needs_tables}
    assert len(needing) >= 7
    assert needing <= silent


@pytest.mark.parametrize("version", ["1.8", "1.9", "1.10", "1.11", "1.12"])
async def test_statements_follow_the_version_of_the_extension_not_of_the_server(
    version: str, cluster: Callable[..., Cluster]
) -> None:
    """After pg_upgrade an old extension version stays in a new server until ALTER EXTENSION ... UPDATE."""
    server = cluster(18)
    server.execute("CREATE DATABASE old")
    server.execute(
        f"""CREATE SCHEMA "odd schema";
            CREATE EXTENSION pg_stat_statements VERSION '{version}' SCHEMA "odd schema";
            GRANT USAGE ON SCHEMA "odd schema" TO {MONITOR}""",
        database="old",
    )
    extension = Extension(tuple(map(int, version.split("."))), "odd schema")
    ours = [job for job in jobs((18,), {"pg_stat_statements": extension}) if job.collector.extension]
    assert "statements" in {job.collector.name for job in ours}
    assert await complaints(ours, server, "old") == []


def test_every_metric_is_on_the_newest_supported_version_or_says_until_or_since_when() -> None:
    extensions = {name: Extension((99,), "public") for c in ours() if (name := c.extension)}
    newest = {metric.name for job in jobs((NEWEST,), extensions) for metric in job.metrics}
    declared = [(each, metric) for each in ours() for metric in each.metrics]
    newer = {metric.name for each, metric in declared if not each.extension and (metric.since or (0,)) > (NEWEST,)}
    every = {metric.name for _, metric in declared if not metric.until}
    assert every - newest == newer
