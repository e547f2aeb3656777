"""The server of the benchmark, and what stands in its databases."""

import asyncio
from itertools import islice, permutations

import asyncpg
from servers import build

from exporter.demo.cluster import FAST, Cluster

MAJOR = 15
"""The version that Debian ships beside its exporter."""

SMALL = "app"
LARGE = "large"
COPIES = ("large_2", "large_3")

TABLES = 10_000
STATEMENTS = 5_000
_BATCH = 500

_SETTINGS = {
    **FAST,
    "autovacuum": "off",  # nothing but the exporters is to work while they are measured
    "max_locks_per_transaction": "512",  # a batch of tables is made in one transaction
    "shared_buffers": "512MB",
    "shared_preload_libraries": "pg_stat_statements",
    "track_io_timing": "on",
    "pg_stat_statements.max": "10000",
    "pg_stat_statements.track_planning": "on",  # planning costs the server as well
}


def server(major: int = MAJOR) -> Cluster:
    """A server that is not started yet."""
    return Cluster(build(major), settings=_SETTINGS)


def create_roles(cluster: Cluster, roles: tuple[str, ...]) -> None:
    """One role an exporter, so that what each costs the server can be told apart."""
    for role in roles:
        cluster.execute(f"CREATE ROLE {role} LOGIN; GRANT pg_monitor TO {role}")
    cluster.execute("CREATE EXTENSION pg_stat_statements")


def create_small(cluster: Cluster) -> None:
    """A database of twenty tables."""
    cluster.execute(f"CREATE DATABASE {SMALL}")
    cluster.execute(_tables(range(20)), SMALL)
    cluster.execute("CREATE EXTENSION pg_stat_statements; ANALYZE", SMALL)


def create_large(cluster: Cluster) -> None:
    """A database of 10 000 tables with two indexes and a TOAST table each."""
    cluster.execute(f"CREATE DATABASE {LARGE}")
    for first in range(0, TABLES, _BATCH):
        cluster.execute(_tables(range(first, first + _BATCH)), LARGE)
    cluster.execute("CREATE EXTENSION pg_stat_statements; ANALYZE", LARGE)


def copy_large(cluster: Cluster) -> None:
    """Two more databases like it."""
    for copy in COPIES:
        cluster.execute(f"CREATE DATABASE {copy} TEMPLATE {LARGE}")
    cluster.execute("CHECKPOINT")


def run_statements(cluster: Cluster) -> None:
    """Leave 5 000 statements in pg_stat_statements, each of about 200 characters."""
    asyncio.run(_run_statements(cluster.dsn(SMALL)))


def forget_statements(cluster: Cluster) -> None:
    """Empty pg_stat_statements."""
    cluster.query("SELECT pg_stat_statements_reset()")


def seconds_in_statements(cluster: Cluster, role: str) -> float:
    """Time that the server spent on planning and running a role's statements, as it counts it itself."""
    return float(
        cluster.value(
            "SELECT coalesce(sum(s.total_exec_time + s.total_plan_time), 0) / 1000"
            "  FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid WHERE r.rolname = $1",
            role,
        )
    )


def _tables(numbers: range) -> str:
    return ";".join(
        f"CREATE TABLE customer_{n:05} (id bigint PRIMARY KEY, made timestamptz DEFAULT now(), note text);"
        f"CREATE INDEX ON customer_{n:05} (made);"
        f"INSERT INTO customer_{n:05} (id, note) SELECT i, 'first' FROM generate_series(1, 5) AS i;"
        f"UPDATE customer_{n:05} SET note = 'second' WHERE id < 3"
        for n in numbers
    )


async def _run_statements(dsn: str) -> None:
    columns = [f"a_rather_long_column_name_{c}" for c in "abcdefghij"]
    session = await asyncpg.connect(dsn, ssl="disable", statement_cache_size=0)
    try:
        await session.execute(f"CREATE TABLE wide ({', '.join(f'{column} int' for column in columns)})")
        for a, b, c, d in islice(permutations(columns, 4), STATEMENTS):
            await session.execute(f"SELECT {a}, {b}, {c} FROM public.wide WHERE {a} = 1 AND {b} > 2 ORDER BY {c}, {d}")
    finally:
        await session.close()
