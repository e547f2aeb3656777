"""It runs for long and through one fault after the other, and needs no more memory, files or tasks for it.

Two minutes by default; SOAK_SECONDS=1800 makes it half an hour. pytest -s prints the figures.
"""

import asyncio
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
import httpx
import psutil
import pytest
from clients import client
from faults.harness import exporting, failing, timed, until_whole, witnessed
from pages import MONITOR, read_whole
from patience import Stopwatch
from serving import Exporter, serving

from exporter.demo.cluster import Cluster

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))

PAUSE = 4.0
"""Seconds of peace after each fault."""

MOST_GROWTH = 5 * 1024 * 1024


@dataclass(frozen=True)
class Reading:
    """What the exporter's process needs at one moment."""

    seconds: float
    memory: int
    files: int
    threads: int


async def terminated(server: Cluster) -> None:
    """All sessions of ours are ended, once a second."""
    for _ in range(3):
        await asyncio.to_thread(
            server.query, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", MONITOR
        )
        await asyncio.sleep(1)


async def locked(server: Cluster) -> None:
    """A table is locked, and somebody waits for it."""
    async with client(server, "locker") as locker, client(server, "waiter") as waiter:
        await locker.execute("BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        with suppress(asyncpg.QueryCanceledError):
            await waiter.execute("SET statement_timeout = '3s'; SELECT * FROM busy")


async def restarted(server: Cluster) -> None:
    """It is stopped at once, and started a second later."""
    await asyncio.to_thread(server.stop, "immediate")
    await asyncio.sleep(1)
    await asyncio.to_thread(server.start)


async def frozen(server: Cluster) -> None:
    """All its processes stand still for two seconds."""
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children()]
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        await asyncio.sleep(2)
    finally:
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


FAULTS = (terminated, locked, restarted, frozen)


async def trouble(server: Cluster, seconds: float) -> Counter[str]:
    """One fault after the other until the time is nearly over."""
    happened: Counter[str] = Counter()
    end = time.monotonic() + seconds - 12
    while True:
        for fault in FAULTS:
            await asyncio.sleep(PAUSE)
            if time.monotonic() > end:
                return happened
            await fault(server)
            happened[fault.__name__] += 1


async def work(server: Cluster) -> None:
    """A client whose statements are always new ones, so that old ones are evicted; it comes back after every fault."""
    number = 0
    while True:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            connection = await asyncpg.connect(server.dsn(), timeout=5)
            try:
                while True:
                    number += 1
                    first, second = divmod(number % 5000, 71)
                    columns = (", ".join(["1"] * (size + 1)) for size in (first, second))
                    await connection.execute("SELECT ROW({}), ROW({})".format(*columns), timeout=5)
                    await asyncio.sleep(0.05)
            finally:
                connection.terminate()
        await asyncio.sleep(0.5)


@dataclass
class Soak:
    """What came of it."""

    readings: list[Reading]
    latencies: list[float]
    states: Counter[str]


async def scraped(exporter: Exporter, seconds: float) -> Soak:
    """Scrape once a second, whether or not the page before is there already."""
    made = Soak([], [], Counter())
    process = psutil.Process(exporter.process.pid)
    started = time.monotonic()
    scrapes: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(timeout=60) as http:

        async def scrape() -> None:
            watch = Stopwatch(exporter.process.pid)
            answer = await http.get(f"{exporter.url}/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": "2"})
            made.latencies.append(watch.seconds)
            found = read_whole(answer.text)
            made.states["whole" if not failing(found) else "up" if found.value("pg_up") else "down"] += 1
            assert answer.status_code == 200

        for second in range(round(seconds)):
            await asyncio.sleep(max(started + second - time.monotonic(), 0))
            with process.oneshot():
                made.readings.append(
                    Reading(second, process.memory_info().rss, process.num_fds(), process.num_threads())
                )
            scrapes.add(asyncio.create_task(scrape()))
        await asyncio.gather(*scrapes)
    return made


def tenth(readings: Sequence[Reading], share: float) -> list[Reading]:
    """A tenth of the readings that ends at this share of the time."""
    end = round(len(readings) * share)
    return list(readings[end - max(len(readings) // 10, 3) : end])


@pytest.mark.timeout(SECONDS + 120)
async def test_a_scrape_a_second_through_all_faults_needs_no_more_of_anything(cluster: Callable[..., Cluster]) -> None:
    """Growth is measured from a third of the time on, or from minute 5 of half an hour."""
    server = cluster(settings={"pg_stat_statements.max": "1000"})
    server.execute("CREATE TABLE busy (id int)")
    with serving(dsn=server.dsn(user=MONITOR), log_level="error") as exporter:
        async with witnessed(server) as witness:
            working = asyncio.create_task(work(server))
            soak, happened = await asyncio.gather(scraped(exporter, SECONDS), trouble(server, SECONDS))
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        exporter.process.send_signal(signal.SIGTERM)
        _, log = exporter.process.communicate(timeout=20)
    early = tenth(soak.readings, min(1 / 3, 300 / SECONDS) + 0.1)
    late = tenth(soak.readings, 1.0)
    rest = soak.readings[2:4]  # before the first fault, as it is again at the end
    growth = statistics.median(r.memory for r in late) - statistics.median(r.memory for r in early)
    latencies = sorted(soak.latencies)
    print(
        f"\n{len(latencies)} scrapes in {SECONDS:.0f} s, {dict(soak.states)}; faults: {dict(happened)}"
        f"\nlatency: median {statistics.median(latencies):.3f} s, p99 {latencies[int(len(latencies) * 0.99)]:.3f} s,"
        f" longest {latencies[-1]:.3f} s"
        f"\nmemory: {early[0].memory / 1e6:.1f} MB after {early[0].seconds:.0f} s, {late[-1].memory / 1e6:.1f} MB"
        f" at the end, growth {growth / 1e6:.2f} MB"
        f"\nfiles: {max(r.files for r in rest)} -> {min(r.files for r in late)},"
        f" threads: {early[0].threads} -> {late[-1].threads}; backends at most {witness.backends}"
    )
    assert log == ""
    assert len(latencies) == round(SECONDS)
    assert latencies[int(len(latencies) * 0.99)] < 2
    assert set(happened) == {fault.__name__ for fault in FAULTS}
    assert soak.states["whole"] > len(latencies) / 3
    assert growth < MOST_GROWTH
    assert min(r.files for r in late) <= max(r.files for r in rest) + 1, "the lock of the history is not there at first"
    assert min(r.threads for r in late) <= max(r.threads for r in rest)


def tasks() -> Counter[str]:
    """The tasks that go on, by what they do."""
    return Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks() if not task.done())  # type: ignore[union-attr]


async def test_200_scrapes_through_all_faults_leave_no_task_behind(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    server.execute("CREATE TABLE busy (id int)")
    async with exporting(server.dsn(user=MONITOR)) as target, witnessed(server):
        await until_whole(target)
        before = tasks()
        for number in range(200):
            faults = {20: terminated, 70: locked, 120: restarted, 170: frozen}
            if fault := faults.get(number):
                happening = asyncio.create_task(fault(server))
                while not happening.done():
                    await timed(target, 0.5)
                    await asyncio.sleep(0.1)
                await happening
            await timed(target, 1.5)
        await until_whole(target, apart=6)
        after = tasks()
    print(f"\ntasks: {sum(before.values())} -> {sum(after.values())}")
    assert sum(after.values()) <= sum(before.values()), after - before
    assert set(asyncio.all_tasks()) == {asyncio.current_task()}
