"""Measures how long `/` takes while it matters: `uv run python tests/bench/now_page.py`. Prints a Markdown table.

The states: 500 sessions that wait for one row, all connections used, and a server that is stopped (SIGSTOP). In each,
the page is asked for a hundred times, ten times a second; the first, which imports what it needs, is shown apart.
"""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `serving` are found in tests/

import asyncpg
import httpx
from pages import MONITOR
from servers import NEWEST, build
from serving import serving

from exporter.demo.cluster import FAST, SUPERUSER, Cluster

SETTINGS = {**FAST, "max_connections": "520", "shared_preload_libraries": "pg_stat_statements"}
SESSIONS = 500
REQUESTS = 100
AT_ONCE = 20
"""Sessions that log in at once."""

PREPARE = """
CREATE ROLE pgvigil LOGIN;
GRANT pg_monitor TO pgvigil;
CREATE EXTENSION pg_stat_statements;
CREATE TABLE crowd (id int PRIMARY KEY, v int);
INSERT INTO crowd VALUES (1, 0);
"""


@asynccontextmanager
async def sessions(cluster: Cluster, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    """As many sessions as are asked for."""
    found: list[asyncpg.Connection] = []
    while len(found) < count:
        logins = (asyncpg.connect(cluster.dsn("postgres", SUPERUSER), ssl="disable") for _ in range(AT_ONCE))
        found += await asyncio.gather(*logins)
    yield found
    for each in found:
        each.terminate()


async def measured(url: str, name: str) -> str:
    """Ask for the page a hundred times; return a row of the table."""
    took: list[float] = []
    async with httpx.AsyncClient(timeout=30) as client:
        for _ in range(REQUESTS):
            began = time.perf_counter()
            page = (await client.get(url)).text
            took.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.1 - took[-1], 0))
    found = re.search(r"Newest reading ([^<,]*) ago|Nothing is known yet", page)
    return _row(name, took, found[0] if found else "not said")


def _row(name: str, took: Sequence[float], said: str) -> str:
    by_size = sorted(took)
    shown = (by_size[len(took) // 2], by_size[int(0.95 * len(took))], by_size[-1])
    return f"| {name} | {' | '.join(f'{1000 * seconds:.0f}' for seconds in shown)} | {said} |"


async def run() -> None:
    """Print the table."""
    print("| state | p50 ms | p95 ms | longest ms | what it says |\n|---|---|---|---|---|")
    with Cluster(build(NEWEST), settings=SETTINGS) as cluster:
        cluster.execute(PREPARE)
        with serving(dsn=cluster.dsn(user=MONITOR)) as exporter:
            began = time.perf_counter()
            await asyncio.to_thread(exporter.get, "/")
            print(_row("first page", [time.perf_counter() - began], ""))
            print(await measured(exporter.url, "at peace"))
            async with sessions(cluster, SESSIONS) as crowd:
                await crowd[0].execute("BEGIN; UPDATE crowd SET v = 1 WHERE id = 1")
                waits = [asyncio.create_task(each.execute("UPDATE crowd SET v = 2 WHERE id = 1")) for each in crowd[1:]]
                await asyncio.sleep(20)
                print(await measured(exporter.url, f"{len(crowd)} sessions in the tree"))
                more = [asyncio.create_task(_one_more(cluster)) for _ in range(40)]
                await asyncio.gather(*more)
                print(await measured(exporter.url, "all connections used"))
                os.kill(cluster.pid, signal.SIGSTOP)
                for each in _backends(cluster.pid):
                    os.kill(each, signal.SIGSTOP)
                await asyncio.sleep(10)
                print(await measured(exporter.url, "stopped"))
                for each in (*_backends(cluster.pid), cluster.pid):
                    os.kill(each, signal.SIGCONT)
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)


_KEPT: list[asyncpg.Connection] = []


async def _one_more(cluster: Cluster) -> None:
    try:
        _KEPT.append(await asyncpg.connect(cluster.dsn("postgres", MONITOR), ssl="disable"))
    except asyncpg.PostgresError:
        return  # all are used


def _backends(postmaster: int) -> list[int]:
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
    return [int(pid) for pid in children.split()]


if __name__ == "__main__":
    asyncio.run(run())
