"""The servers of the benchmark, and what stands in their databases."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations

import asyncpg
from servers import build

from exporter.demo.cluster import FAST, Cluster

MAJOR = 15
"""The version whose figures are published; another one is asked for with --major."""

SMALL = "app"
LARGE = "large"

TABLES = 10_000
STATEMENTS = 5_000
_BATCH = 500

_SETTINGS = {
    **FAST,
    "autovacuum": "off",  # nothing but the exporters is to work while they are measured
    "log_connections": "on",  # sessions are counted, and told apart by role, from the log
    "log_disconnections": "on",
    "max_locks_per_transaction": "512",  # a batch of tables is made in one transaction
    "shared_buffers": "512MB",
    "shared_preload_libraries": "pg_stat_statements",
    "track_io_timing": "on",
    "pg_stat_statements.max": "10000",
    "pg_stat_statements.track_planning": "on",  # planning costs the server as well
}


def server(major: int = MAJOR, settings: Mapping[str, str] | None = None) -> Cluster:
    """A server that is not started yet."""
    return Cluster(build(major), settings={**_SETTINGS, **(settings or {})})


def create_roles(cluster: Cluster, roles: Sequence[str]) -> None:
    """One role an exporter, so that what each costs the server can be told apart."""
    for role in roles:
        cluster.execute(f"CREATE ROLE {role} LOGIN; GRANT pg_monitor TO {role}")
    cluster.execute("CREATE EXTENSION pg_stat_statements")


def create_small(cluster: Cluster) -> None:
    """A database of twenty tables."""
    create_tables(cluster, SMALL, 20)


def create_large(cluster: Cluster) -> None:
    """A database of 10 000 tables with two indexes and a TOAST table each."""
    create_tables(cluster, LARGE, TABLES)


def create_three(cluster: Cluster) -> None:
    """Three databases of 3 000 such tables."""
    create_tables(cluster, LARGE, 3_000)
    for copy in (f"{LARGE}_2", f"{LARGE}_3"):
        cluster.execute(f"CREATE DATABASE {copy} TEMPLATE {LARGE}")
    cluster.execute("CHECKPOINT")


def create_relations(cluster: Cluster) -> None:
    """A database of 100 000 relations: 10 000 tables with a sequence, six indexes and a TOAST table each."""
    create_tables(cluster, LARGE, TABLES, sequence=True, indexes=5)


def create_tables(cluster: Cluster, database: str, tables: int, *, sequence: bool = False, indexes: int = 1) -> None:
    """A database of tables with a primary key, other indexes and a few rows."""
    cluster.execute(f"CREATE DATABASE {database}")
    for first in range(0, tables, _BATCH):
        numbers = range(first, min(first + _BATCH, tables))
        cluster.execute(";".join(_table(n, sequence, indexes) for n in numbers), database)
    cluster.execute("CREATE EXTENSION pg_stat_statements; ANALYZE", database)


def _table(n: int, sequence: bool, indexes: int) -> str:
    name = f"customer_{n:05}"
    return (
        f"CREATE TABLE {name} (id {'bigserial' if sequence else 'bigint'} PRIMARY KEY,"
        " made timestamptz DEFAULT now(), note text);"
        + f"CREATE INDEX ON {name} (made);"
        * indexes
        + f"INSERT INTO {name} (id, note) SELECT i, 'first' FROM generate_series(1, 5) AS i;"
        f"UPDATE {name} SET note = 'second' WHERE id < 3"
    )


def run_statements(cluster: Cluster) -> None:
    """Leave 5 000 statements in pg_stat_statements, each of about 200 characters."""
    asyncio.run(_run_statements(cluster.dsn(SMALL)))


async def _run_statements(dsn: str) -> None:
    columns = [f"a_rather_long_column_name_{c}" for c in "abcdefghij"]
    session = await asyncpg.connect(dsn, ssl="disable", statement_cache_size=0)
    try:
        await session.execute(f"CREATE TABLE wide ({', '.join(f'{column} int' for column in columns)})")
        for a, b, c, d in islice(permutations(columns, 4), STATEMENTS):
            await session.execute(f"SELECT {a}, {b}, {c} FROM public.wide WHERE {a} = 1 AND {b} > 2 ORDER BY {c}, {d}")
    finally:
        await session.close()


def forget_statements(cluster: Cluster) -> None:
    """Empty pg_stat_statements."""
    cluster.query("SELECT pg_stat_statements_reset()")


def seconds_in_statements(cluster: Cluster, role: str) -> float:
    """Time that the server spent on planning and running a role's statements, as it counts it itself."""
    return seconds_by_role(cluster).get(role, 0.0)


def seconds_by_role(cluster: Cluster) -> dict[str, float]:
    """The same of every role that has run any."""
    rows = cluster.query(
        "SELECT r.rolname::text AS role, sum(s.total_exec_time + s.total_plan_time) / 1000 AS seconds"
        "  FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid GROUP BY 1"
    )
    return {row["role"]: float(row["seconds"]) for row in rows}


@dataclass(frozen=True)
class World:
    """A server, and what is made in it before anything is measured."""

    database: str = SMALL
    """The database whose DSN the exporters get."""
    steps: tuple[Callable[[Cluster], None], ...] = (create_small,)
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
