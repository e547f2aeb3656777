"""Nobody answers: the server or one backend of ours is stopped, the network is slow, cut or half-open."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from clients import until
from faults.harness import (
    dsn_through,
    exporting,
    failing,
    network,
    reason,
    timed,
    until_whole,
    vital,
    witnessed,
)
from pages import MONITOR, Page, uncached

from exporter.demo.cluster import Cluster
from exporter.scrape.target import Target
from exporter.watch.loop import WatchOptions


def ours(server: Cluster) -> set[int]:
    """The backends of ours by process id."""
    sql = "SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = 'client backend'"
    return {row["pid"] for row in server.query(sql, MONITOR)}


@contextmanager
def stopped(server: Cluster) -> Iterator[None]:
    """Stop all processes of a server, as a machine does that is paused."""
    postmaster = psutil.Process(server.pid)
    postmaster.suspend()  # first, so that it has no more children
    processes = [postmaster, *postmaster.children(recursive=True)]
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in reversed(processes):
            process.resume()


async def down(of: Target, why: str, timeout: float) -> Page:
    """The page is in time; says that the server is down, and why; and has the last good results with their age."""
    page = (await timed(of, timeout)).page
    assert reason(page) == why
    assert failing(page) >= vital()
    assert page.value("pgvigil_collector_age_seconds", collector="sessions") > 0
    assert page.series("pg_sessions") != []
    return page


async def test_a_server_is_stopped_for_three_seconds(cluster: Callable[..., Cluster]) -> None:
    """It is whole again on the very connections that it had."""
    server = cluster()
    async with witnessed(server) as seen, exporting(server.dsn(user=MONITOR), uncached()) as running:
        await until_whole(running)
        before = ours(server)
        seen.backends = 0
        with stopped(server):
            await down(running, "hung", 1.5)
            await down(running, "hung", 1.0)
            await asyncio.sleep(0.5)
        await until_whole(running)
        assert ours(server) == before
    assert seen.backends == 2


async def test_a_server_is_stopped_for_twelve_seconds(cluster: Callable[..., Cluster]) -> None:
    """No page is late, and no crowd of logins waits for the server to come to."""
    server = cluster(18, {"log_connections": "on"})

    def logins() -> int:
        return (server.folder / "server.log").read_text().count(f"connection authorized: user={MONITOR}")

    async with witnessed(server, every=0.01), exporting(server.dsn(user=MONITOR), uncached()) as running:
        await until_whole(running)
        before, known = ours(server), logins()
        with stopped(server):
            over = time.monotonic() + 12
            await down(running, "hung", 1.5)
            await down(running, "hung", 9.5)
            while time.monotonic() < over:
                page = await down(running, "hung", 1.5)
                assert page.value("pgvigil_connections") <= 5
                await asyncio.sleep(0.5)
        await until_whole(running, scrapes=11)  # within ten seconds, less than two scrapes are apart
        await until(lambda: len(ours(server)) == len(before))
        assert (
            logins() - known <= 4
        )  # of each connection the one that waited, and one beside it once the server answers


async def test_an_exporter_starts_while_the_server_is_stopped(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    async with witnessed(server), exporting(server.dsn(user=MONITOR), uncached()) as fresh:
        with stopped(server):
            for timeout in (1.5, 9.5):
                page = (await timed(fresh, timeout)).page
                assert reason(page) == "timeout"
                assert page.series("pg_sessions") == []
        await until_whole(fresh, scrapes=5)


async def vital_and_main(server: Cluster) -> tuple[int, int]:
    """Tell our two backends apart: on the vital one the sessions are looked at between scrapes."""
    found: dict[bool, int] = {}

    def both_idle() -> bool:
        sql = "SELECT pid, query LIKE '%AS lock_waiters%' AS vital FROM pg_stat_activity"
        rows = server.query(f"{sql} WHERE usename = $1 AND state = 'idle'", MONITOR)
        found.clear()
        found.update({row["vital"]: row["pid"] for row in rows})
        return len(found) == 2

    await until(both_idle)
    return found[True], found[False]


@pytest.mark.parametrize(("major", "which"), [(13, "vital"), (18, "vital"), (18, "main")])
async def test_one_backend_of_ours_is_stopped(cluster: Callable[..., Cluster], major: int, which: str) -> None:
    """The other connection takes over, and the one that hangs is replaced; its backend counts until it is gone."""
    server = cluster(major)
    async with witnessed(server), exporting(server.dsn(user=MONITOR), uncached()) as running:
        await until_whole(running)
        pids = await vital_and_main(server)
        victim, other = pids if which == "vital" else reversed(pids)
        os.kill(victim, signal.SIGSTOP)
        try:
            page = (await timed(running, 1.5)).page
            assert reason(page) == ""
            assert (failing(page) & vital() == set()) == (which == "main")
            assert page.series("pg_sessions") != []
            page = await until_whole(running, apart=0.5)
            assert page.value("pgvigil_connections") == 3
            assert victim in ours(server)
            assert other in ours(server)
        finally:
            os.kill(victim, signal.SIGCONT)

        await until(lambda: victim not in ours(server))
        page = await until_whole(running)
        assert page.value("pgvigil_connections") == 2
        assert len(ours(server)) == 2


async def test_the_network_is_cut(cluster: Callable[..., Cluster]) -> None:
    """The page says so in time, and the connections are back soon after the network."""
    server = cluster()
    async with network(server) as net, witnessed(server), exporting(dsn_through(server, net), uncached()) as running:
        await until_whole(running)
        net.refusing = True
        net.cut()
        for timeout in (1.5, 9.5):
            await down(running, "unreachable", timeout)
        async with exporting(dsn_through(server, net)) as fresh:
            for timeout in (1.5, 9.5):
                assert reason((await timed(fresh, timeout)).page) == "unreachable"
        net.refusing = False
        await until_whole(running, scrapes=5)
        assert {incident.kind for incident in running.incidents} >= {"down"}


@pytest.mark.parametrize("cut", [False, True], ids=["it heals", "it is cut in the end"])
async def test_the_network_is_half_open(cluster: Callable[..., Cluster], *, cut: bool) -> None:
    """Nothing gets through and nobody is told: as bad as a server that hangs, and told apart from one never seen."""
    server = cluster()
    async with network(server) as net, witnessed(server), exporting(dsn_through(server, net), uncached()) as running:
        await until_whole(running)
        net.swallow()
        for timeout in (1.5,) if cut else (1.5, 9.5):
            await down(running, "hung", timeout)
        async with exporting(dsn_through(server, net)) as fresh:
            assert reason((await timed(fresh, 1.5)).page) == "timeout"
        if cut:
            net.cut()
            await down(running, "hung", 1.5)
        net.flow()
        await until_whole(running, scrapes=5)
        await until(lambda: len(ours(server)) == 2)


async def test_the_way_there_and_back_takes_half_a_second(cluster: Callable[..., Cluster]) -> None:
    """What is vital is there by the long deadline, what is late says so, and latency is not taken for cost."""
    server = cluster()
    async with (
        network(server) as net,
        witnessed(server),
        exporting(dsn_through(server, net), uncached(), cost_budget=0.01, watch=WatchOptions()) as running,
    ):
        await until_whole(running)
        net.delay = 0.25
        page = (await timed(running, 1.5)).page
        assert reason(page) == ""
        assert failing(page) & vital()
        assert page.value("pgvigil_collector_age_seconds", collector="lock_blockers") > 0
        for _ in range(4):
            page = (await timed(running, 9.5)).page
            assert reason(page) == ""
            assert failing(page).isdisjoint(vital())
            assert held_back(page) == {}
        net.delay = 0.0
        await until_whole(running)


def held_back(page: Page) -> dict[str, float]:
    """The collectors held back for five minutes or more: one slow answer does not do that, latency does."""
    intervals = page.series("pgvigil_collector_interval_seconds")
    return {labels["collector"]: value for labels, value in intervals if value >= 300}


async def test_an_exporter_starts_where_the_way_is_long(cluster: Callable[..., Cluster]) -> None:
    """A statement goes there and back twice when it is new, which is no cost either."""
    server = cluster()
    async with network(server) as net, witnessed(server):
        net.delay = 0.1
        async with exporting(dsn_through(server, net), cost_budget=0.01, watch=WatchOptions()) as fresh:
            page = (await timed(fresh, 1.5)).page
            assert reason(page) in ("", "timeout")
            assert page.series("pg_sessions") == []
            await timed(fresh, 9.5)
            page = await until_whole(fresh)
            assert held_back(page) == {}


async def test_connections_that_were_taken_in_silence_for_20_s_never_answer(cluster: Callable[..., Cluster]) -> None:
    """Those stay silent for good, as behind a proxy that forgot them; new ones get through."""
    server = cluster()
    forgotten = asyncio.Event()
    async with network(server) as net:
        silent_until = time.monotonic() + 20

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if time.monotonic() < silent_until:
                await forgotten.wait()
                writer.transport.abort()
            else:
                await net.serve(reader, writer)

        proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        dsn = server.dsn(user=MONITOR).replace(f":{server.port}/", f":{port}/")
        async with exporting(dsn, uncached(), watch=WatchOptions()) as running:
            while time.monotonic() < silent_until:
                assert (await timed(running, 4.5)).page.value("pg_up") == 0
                await asyncio.sleep(1)
            await until_whole(running, apart=15)
        forgotten.set()
        proxy.close()
        await asyncio.sleep(0.1)
