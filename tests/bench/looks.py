"""Measures the looks between scrapes: `uv run python tests/bench/looks.py agreement` compares the sampled seconds of a
statement with the time that its function measured itself; `load` measures a look at 500 sessions with 5 000 statements.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

import asyncpg
from bench import data  # needs the line above
from pages import MONITOR, Page, scraped, target
from servers import NEWEST

from exporter.demo.cluster import Cluster
from exporter.scrape.target import Target
from exporter.watch.loop import WatchOptions
from exporter.watch.wait_sampler import COLLECTOR

SECONDS = "pg_statement_sampled_seconds_total"
WORKERS = 4

WORK = """
CREATE TABLE journal (id int);
CREATE TABLE spent (locked float8, slept float8, synced float8, computed float8);
CREATE PROCEDURE work(door int) LANGUAGE plpgsql AS $$
DECLARE
    locked float8;
    slept float8;
    synced float8 := 0;
    began timestamptz := clock_timestamp();
    commit_began timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(door);
    locked := extract(epoch FROM clock_timestamp() - began);
    began := clock_timestamp();
    PERFORM pg_sleep(0.5);
    slept := extract(epoch FROM clock_timestamp() - began);
    began := clock_timestamp();
    WHILE clock_timestamp() < began + interval '0.5 s' LOOP
        INSERT INTO journal VALUES (1);
        commit_began := clock_timestamp();
        COMMIT;
        synced := synced + extract(epoch FROM clock_timestamp() - commit_began);
    END LOOP;
    WHILE clock_timestamp() < began + interval '0.9 s' LOOP
    END LOOP;
    INSERT INTO spent VALUES (locked, slept, synced, extract(epoch FROM clock_timestamp() - began) - synced);
END $$;
"""
"""It waits for an advisory lock, sleeps, waits for its commits to be on disk, and computes, and says how long each."""


async def agreement(cluster: Cluster, seconds: float) -> None:
    """Have sessions run one statement that waits in known ways, and print both measurements."""
    cluster.execute(WORK)
    cluster.execute("CALL work(0)")  # the ledger lists what has ended once
    async with looked_at(cluster) as watched:
        cluster.execute("TRUNCATE spent")
        ending = asyncio.Event()
        before = await scraped(watched)
        workers = [asyncio.create_task(_work(cluster, door, ending)) for door in range(1, WORKERS + 1)]
        for _ in range(int(seconds // 15)):
            await asyncio.sleep(15)
            await scraped(watched)
        ending.set()
        await asyncio.gather(*workers)
        after = await scraped(watched)
    queryid = cluster.value("SELECT queryid::text FROM pg_stat_statements WHERE query LIKE 'CALL work(%'")
    found = {kind: _sampled(after, queryid, kind) - _sampled(before, queryid, kind) for kind in _KINDS}
    [spent] = cluster.query("SELECT sum(locked), sum(slept), sum(synced), sum(computed) FROM spent")
    measured = dict(zip(_KINDS, spent, strict=True))
    print(f"{'wait':10}{'measured s':>12}{'sampled s':>12}{'ratio':>8}")
    for kind in _KINDS:
        print(f"{kind:10}{measured[kind]:12.1f}{found[kind]:12.1f}{found[kind] / measured[kind]:8.3f}")
    print(f"{'all':10}{sum(measured.values()):12.1f}{sum(found.values()):12.1f}")
    by_statement = sum(value for _, value in after.series(SECONDS))
    active = sum(value for _, value in after.series("pg_session_sampled_seconds_total", state="active"))
    print(f"sum over all statements {by_statement!r}, active time of the sampler {active!r}")


_KINDS = ("Lock", "Timeout", "IO|LWLock", "CPU")
"""Wait event types of the parts; of those who commit at once, one writes and the others wait for it."""


def _sampled(page: Page, queryid: str, kind: str) -> float:
    series = page.series(SECONDS, queryid=queryid)
    return sum(value for labels, value in series if labels["wait_event_type"] in kind.split("|"))


async def _work(cluster: Cluster, door: int, ending: asyncio.Event) -> None:
    """Run the statement again and again, behind a door that another session opens after a while."""
    keeper, worker = await asyncpg.connect(cluster.dsn()), await asyncpg.connect(cluster.dsn())
    await asyncio.sleep(door / 2)  # not all in the same part at the same time
    while not ending.is_set():
        await keeper.execute(f"SELECT pg_advisory_lock({door})")
        task = asyncio.create_task(worker.execute(f"CALL work({door})"))
        await asyncio.sleep(0.6)
        await keeper.execute(f"SELECT pg_advisory_unlock({door})")
        await task
    await keeper.close()
    await worker.close()


async def load(cluster: Cluster, seconds: float, sessions: int = 500) -> None:
    """Look at many sessions, each with a statement of its own, and print what a look costs."""
    clients = [
        await asyncpg.connect(cluster.dsn(), server_settings={"application_name": f"app {n % 50}"})
        for n in range(sessions)
    ]
    await asyncio.gather(*(client.execute(_statement(n, 1)) for n, client in enumerate(clients)))
    tasks = [asyncio.create_task(client.execute(_statement(n, 10 * int(seconds)))) for n, client in enumerate(clients)]
    async with looked_at(cluster) as watched:
        await scraped(watched)
        await asyncio.sleep(5)
        before, began, cpu = await scraped(watched), time.monotonic(), time.process_time()
        looks = []
        while time.monotonic() < began + seconds:
            await asyncio.sleep(1)
            looks.append((await _status(watched)).duration or 0.0)
        cpu, passed = time.process_time() - cpu, time.monotonic() - began
        after = await scraped(watched)
    series = len(after.series(SECONDS))
    sampled = after.value("pg_session_sampling_seconds_total") - before.value("pg_session_sampling_seconds_total")
    print(f"{sessions} active sessions, a statement each; {series} series by statement")
    print(f"server time of a look: median {1000 * statistics.median(looks):.2f} ms (budget: 2 ms a second)")
    print(f"interval imposed by the budget: {(await _status(watched)).interval:.2f} s")
    print(f"our CPU for looks: {100 * cpu / passed:.2f} % of a core; seconds sampled of {passed:.0f}: {sampled:.0f}")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        client.terminate()


def _statement(number: int, seconds: int) -> str:
    """Write a statement that no other number has: of so many columns, since their names do not count."""
    return f"SELECT pg_sleep({seconds}){', 1' * number}"


async def _status(watched: Target):  # type: ignore[no-untyped-def]
    return next(status for status in (await watched.known(1.0)).jobs if status.collector == COLLECTOR)


@asynccontextmanager
async def looked_at(cluster: Cluster) -> AsyncIterator[Target]:
    """A target with looks as users have them."""
    watched = target(cluster.dsn(user=MONITOR), watch=WatchOptions(), statement_text_length=160)
    await scraped(watched)
    watched.start()
    try:
        yield watched
    finally:
        await watched.close()


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("agreement", "load"))
    parser.add_argument("--seconds", type=float, default=300)
    arguments = parser.parse_args()
    settings = {
        "fsync": "on",
        "max_connections": "600",
    }
    with data.server(NEWEST, settings) as cluster:
        data.create_roles(cluster, (MONITOR,))
        data.create_small(cluster)
        data.run_statements(cluster)
        asyncio.run({"agreement": agreement, "load": load}[arguments.what](cluster, arguments.seconds))


if __name__ == "__main__":
    main()
