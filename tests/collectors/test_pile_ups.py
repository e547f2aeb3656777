"""Hundreds of sessions that wait for locks: who is at the root, how many wait, and what it costs to find out."""

import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import asyncpg
import pytest
from clients import client, until
from pages import MONITOR, Page, catalog, page, scraped, target
from pydantic import SecretStr
from standby import clone_standby

from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster
from exporter.planning.plan import plan
from exporter.planning.server import Server
from exporter.samples.convert import columns, transformed

LOGINS = 20
"""Sessions that log in at once."""

PAGES = 5
"""Pages of each scene."""

OURS = 5
"""Connections that we may have, by default."""

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


async def work(server: Cluster, major: int) -> int:
    """The rows that the steps of the query pass on or drop, and the lines of code that turn its rows into roots."""
    known = Server((major,), False, "postgres", ("postgres",), {"postgres": {}})
    [job] = [job for job in plan(catalog(), known).jobs if job.collector.name == "lock_blockers"]
    async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
        found = columns((await session.fetch(job.sql, 60)).rows)
    explained = server.value(f"EXPLAIN (ANALYZE, FORMAT JSON) {job.sql}", user=MONITOR)
    return rows_of(json.loads(explained)[0]["Plan"]) + lines_of(lambda: transformed(job, found))


def rows_of(step: Mapping[str, Any]) -> int:
    """Add up what a step of a plan and those below it passed on or dropped."""
    dropped = sum(rows for what, rows in step.items() if what.startswith("Rows Removed by"))
    return int((step["Actual Rows"] + dropped) * step["Actual Loops"]) + sum(map(rows_of, step.get("Plans", ())))


def lines_of(call: Callable[[], object]) -> int:
    """Count the lines of code that a call runs."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


def check(server: Cluster, shape: Callable[[int], Statements], root: int, waiting: int) -> None:
    """The page names the root, with everybody behind it."""
    shows(page(server.dsn(user=MONITOR)), shape, root, waiting)


def shows(found: Page, shape: Callable[[int], Statements], root: int, waiting: int) -> None:
    """A page names the root, with everybody behind it."""
    failures = [
        had for had, _ in found.samples.get("pgvigil_collector_errors_total", []) if had["collector"] == "lock_blockers"
    ]
    assert found.value("pgvigil_collector_success", collector="lock_blockers") == 1, (shape, failures)
    labels, blocked = max(found.series("pg_lock_blocker_blocked_sessions"), key=lambda series: series[1])
    state = "deadlock cycle" if shape is cycle else "idle in transaction"
    assert (labels["pid"], labels["state"], blocked) == (str(root), state, waiting)
    assert len(found.series("pg_lock_blocker_blocked_sessions")) == 1
    assert found.value("pg_lock_waiters") == waiting


@pytest.mark.timeout(300)
async def test_the_root_of_a_pile_up_is_found_in_linear_time(major: int, cluster: Callable[..., Cluster]) -> None:
    """Of work as can be counted, which no busy machine stretches. PILE_UP=1000 is the largest that is promised."""
    small, large = 100, int(os.environ.get("PILE_UP", "300"))
    server = cluster(major, {"max_connections": "1100"})
    server.execute("CREATE TABLE crowd (id int PRIMARY KEY, v int); INSERT INTO crowd VALUES (1, 0)")
    for shape in SHAPES:
        took = []
        for size in (small, large):
            async with crowd(server, shape(size), size) as root:
                check(server, shape, root, size)
                took.append(await work(server, major))
        assert took[1] / took[0] < 1.2 * large / small, f"{shape.__name__}: {took} rows and lines"


@asynccontextmanager
async def crowded(server: Cluster, shape: Callable[[int], Statements], size: int) -> AsyncIterator[tuple[int, int]]:
    """A crowd; gives the root, and how many wait."""
    async with crowd(server, shape(size), size) as root:
        yield root, size


@asynccontextmanager
async def crowded_standby(primary: Cluster, standby: Cluster, size: int) -> AsyncIterator[tuple[int, int]]:
    """Replay waits for a reader, and all others for replay."""
    async with client(standby, "reader") as reader:
        await reader.execute("BEGIN; SELECT FROM crowd")
        primary.execute("ALTER TABLE crowd ADD COLUMN late int")
        await until(lambda: standby.value(WAITING) == 1)
        async with crowd(standby, [("SELECT 1", "SELECT FROM crowd")] * size, size + 1):
            yield reader.get_server_pid(), size + 1


async def deadlock_checks(server: Cluster) -> None:
    """Wait until those that wait have looked for a deadlock, a second after they began (deadlock_timeout).

    A thousand such checks hold the whole lock table for up to fifteen seconds, in which nobody can read pg_locks.
    """
    await asyncio.sleep(1.5)
    await asyncio.to_thread(server.value, WAITING)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("major", [13, 18])
async def test_every_page_of_a_rhythm_names_the_root_and_our_backends_stay_few(
    major: int, cluster: Callable[..., Cluster]
) -> None:
    """PILE_UP=1000 RHYTHM=15 is what is promised; a second is the shortest."""
    size, rhythm = int(os.environ.get("PILE_UP", "100")), float(os.environ.get("RHYTHM", "1"))
    primary = cluster(major, {"max_connections": "1100"})
    primary.execute("CREATE TABLE crowd (id int PRIMARY KEY, v int); INSERT INTO crowd VALUES (1, 0)")
    standby = clone_standby(primary, settings={"max_standby_streaming_delay": "-1"})
    try:
        standby.start()
        await until(lambda: standby.value("SELECT to_regclass('crowd') IS NOT NULL"))
        scenes = [(shape, primary, crowded(primary, shape, size)) for shape in SHAPES]
        for shape, server, scene in [*scenes, (row, standby, crowded_standby(primary, standby, size))]:
            async with scene as (root, waiting):
                await deadlock_checks(server)
                watched = target(server.dsn(user=MONITOR))
                took = list[float]()
                try:
                    for _ in range(PAGES):
                        found = await scraped(watched)
                        shows(found, shape, root, waiting)
                        took.append(found.value("pgvigil_collector_duration_seconds", collector="lock_blockers"))
                        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgvigil'"
                        assert server.value(ours) <= OURS
                        await asyncio.sleep(rhythm)
                finally:
                    await watched.close()
            least, median, most = min(took), statistics.median(took), max(took)
            print(f"{shape.__name__}, {waiting} wait: lock_blockers took {least:.3f}, {median:.3f}, {most:.3f} s")
    finally:
        standby.remove()
