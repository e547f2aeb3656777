"""Hundreds of sessions that wait for locks: who is at the root, how many wait, and what it costs to find out."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from clients import until
from pages import MONITOR, catalog, page
from pydantic import SecretStr

from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster
from exporter.planning.plan import plan
from exporter.planning.server import Server
from exporter.samples.convert import columns, transformed

LOGINS = 20
"""Sessions that log in at once."""

WAITING = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"

Statements = list[tuple[str, str]]
"""Of each session, the root first: what it runs at once, and what it waits in."""


def row(sessions: int) -> Statements:
    """All update one row."""
    first = ("BEGIN; UPDATE crowd SET v = 1 WHERE id = 1", "SELECT 1")
    return [first, *[("SELECT 1", "UPDATE crowd SET v = 2 WHERE id = 1")] * sessions]


def table(sessions: int) -> Statements:
    """Readers queue behind a migration that waits for a reader."""
    first, migration = ("BEGIN; SELECT FROM crowd", "SELECT 1"), ("SELECT 1", "ALTER TABLE crowd ADD COLUMN c int")
    return [first, migration, *[("SELECT 1", "SELECT FROM crowd")] * (sessions - 1)]


def chain(sessions: int) -> Statements:
    """Each waits for the one before."""
    return [(_take(i), _take(i - 1) if i else "SELECT 1") for i in range(sessions + 1)]


def cycle(sessions: int) -> Statements:
    """Three wait for each other, all others for one of them."""
    patient = "SET deadlock_timeout = '1h'; "
    ring = [(f"{patient}{_take(i)}", _take((i + 1) % 3)) for i in range(3)]
    return ring + [(f"{patient}SELECT 1", _take(1))] * (sessions - 3)


def _take(number: int) -> str:
    return f"BEGIN; SELECT pg_advisory_xact_lock({number})"


SHAPES = [row, table, chain, cycle]


@asynccontextmanager
async def crowd(server: Cluster, statements: Statements, waiting: int) -> AsyncIterator[int]:
    """Sessions that wait; gives the pid of the first. All end at once."""
    sessions: list[Any] = []
    tasks: list[asyncio.Task[Any]] = []
    try:
        for start in range(0, len(statements), LOGINS):
            sessions += await asyncio.gather(*(_session(server) for _ in statements[start : start + LOGINS]))
        for session, (first, _) in zip(sessions, statements, strict=True):
            await session.execute(first)
        for session, (_, then) in zip(sessions, statements, strict=True):
            tasks.append(asyncio.create_task(session.execute(then)))
            if len(tasks) == 2:  # the others go behind it
                await until(lambda: server.value(WAITING) > 0)
        await until(lambda: server.value(WAITING) == waiting, 60)
        yield sessions[0].get_server_pid()
    finally:
        for session in sessions:
            session.terminate()
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'crowd'")
        await asyncio.gather(*tasks, return_exceptions=True)
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'crowd'"
        await until(lambda: bool(server.value(gone)), 60)


async def _session(server: Cluster) -> Any:
    named = {"application_name": "crowd"}
    return await asyncpg.connect(server.dsn(), server_settings=named, statement_cache_size=0, ssl=False)


async def seconds(server: Cluster, major: int) -> float:
    """The least time of some runs of the query, rows turned into roots included."""
    known = Server((major,), False, "postgres", ("postgres",), {"postgres": {}})
    [job] = [job for job in plan(catalog(), known).jobs if job.collector.name == "lock_blockers"]

    async def run(session: Any) -> float:
        started = time.perf_counter()
        transformed(job, columns((await session.fetch(job.sql, 60)).rows))
        return time.perf_counter() - started

    async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
        return min([await run(session) for _ in range(7)])


def check(server: Cluster, shape: Callable[[int], Statements], root: int, waiting: int) -> None:
    """The page names the root, with everybody behind it."""
    found = page(server.dsn(user=MONITOR))
    labels, blocked = max(found.series("pg_lock_blocker_blocked_sessions"), key=lambda series: series[1])
    state = "deadlock cycle" if shape is cycle else "idle in transaction"
    assert (labels["pid"], labels["state"], blocked) == (str(root), state, waiting)
    assert len(found.series("pg_lock_blocker_blocked_sessions")) == 1
    assert found.value("pg_lock_waiters") == waiting
    assert found.value("pgvigil_collector_success", collector="lock_blockers") == 1


@pytest.mark.timeout(300)
async def test_the_root_of_a_pile_up_is_found_in_linear_time(major: int, cluster: Callable[..., Cluster]) -> None:
    """With PILE_UP=1000 up to a thousand sessions, which takes a quiet machine and a minute for each version."""
    sizes = 100, int(os.environ.get("PILE_UP", "300"))
    server = cluster(major, {"max_connections": "1100"})
    server.execute("CREATE TABLE crowd (id int PRIMARY KEY, v int); INSERT INTO crowd VALUES (1, 0)")
    small, large = sizes
    for shape in SHAPES:
        took = []
        for size in sizes:
            async with crowd(server, shape(size), size) as root:
                check(server, shape, root, size)
                took.append(await seconds(server, major))
        # Linear is an exponent of 1 and quadratic of 2; a busy machine stretches the larger one.
        assert took[1] / took[0] < (large / small) ** 1.7, f"{shape.__name__}: {took} s"
