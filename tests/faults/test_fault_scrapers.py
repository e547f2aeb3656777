"""Scrapers that come all at once, read slowly, leave early or never finish asking: the others do not notice."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn
from attackers import GET, connected
from faults.harness import BUDGET, failing, witnessed
from pages import MONITOR, Page, read_whole
from patience import SECONDS, Stopwatch, until, wait_until
from serving import Exporter, serving

from exporter.assembly import catalog_of
from exporter.demo.cluster import Cluster, free_port
from exporter.fleet import Fleet
from exporter.settings import Settings
from exporter.web.app import create_app

CALLS = "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE query LIKE '%pgvigil:sessions %'"


@pytest.fixture
def naps(tmp_path: Path) -> Path:
    """A collector that takes half a second."""
    (tmp_path / "nap.yaml").write_text(
        "name: nap\nhelp: Own.\nsql: SELECT 1 AS value FROM pg_sleep(0.5)\n"
        "metrics:\n  - {name: pg_nap, type: gauge, help: Own., column: value}\n"
    )
    return tmp_path


@pytest.fixture
def slow_and_big(naps: Path) -> Path:
    """That one, and one that makes a page of megabytes."""
    (naps / "big.yaml").write_text(
        "name: big\nhelp: Own.\ncache: 60\nlabels: [n, text]\n"
        "sql: SELECT n, repeat('x', 1000) AS text, n AS value FROM generate_series(1, 7000) AS n\n"
        "metrics:\n  - {name: pg_big, type: gauge, help: Own., column: value}\n"
    )
    return naps


@pytest.fixture
def exporter(cluster: Callable[..., Cluster], slow_and_big: Path) -> Iterator[tuple[Cluster, Exporter]]:
    """A server, and an exporter of it in a process of its own."""
    server = cluster()
    with serving(
        dsn=server.dsn(user=MONITOR), collectors_dir=str(slow_and_big), cost_budget="0", history_hours="0"
    ) as running:
        yield server, running


def hang_up(connection: socket.socket) -> None:
    """Leave without a word: what is still to come is answered with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


SCRAPE_TIMEOUT = 10.0
"""Seconds within which a page has to come whose scraper names no limit; the setting's default."""


def quick(exporter: Exporter) -> Page:
    """A page that has everything, in time."""
    watch = Stopwatch(exporter.process.pid)
    answer = exporter.get()
    took = watch.seconds
    assert answer.status_code == 200
    assert took < SCRAPE_TIMEOUT, f"the page took {took:.1f} s"
    found = read_whole(answer.text)
    assert found.value("pg_up") == 1
    assert failing(found) == set()
    return found


def files_of(exporter: Exporter) -> int:
    """The open files of the exporter's process, its connections among them."""
    return psutil.Process(exporter.process.pid).num_fds()


async def test_64_scrapers_at_once_are_all_answered_and_share_runs(cluster: Callable[..., Cluster], naps: Path) -> None:
    """Whoever comes while a run is under way shares it; there is never more than one."""
    server = cluster()
    with serving(dsn=server.dsn(user=MONITOR)) as running:
        assert await runs_of_192_scrapes(server, running) <= 192
    with serving(dsn=server.dsn(user=MONITOR), collectors_dir=str(naps), cost_budget="0") as running:
        assert await runs_of_192_scrapes(server, running) <= 12


async def runs_of_192_scrapes(server: Cluster, running: Exporter) -> int:
    """Have 64 scrapers ask at once, three times over, and count what the server was asked."""
    async with httpx.AsyncClient(timeout=SECONDS, limits=httpx.Limits(max_connections=None)) as http:
        first = read_whole((await http.get(running.url + "/metrics")).text).value("pgvigil_scrapes_total")
        before = server.value(CALLS)
        async with witnessed(server) as witness:
            started = time.monotonic()
            for _ in range(3):
                answers = await asyncio.gather(*(http.get(running.url + "/metrics") for _ in range(64)))
                assert [answer.status_code for answer in answers] == [200] * 64
                pages = [read_whole(answer.text) for answer in (answers[0], answers[-1])]
                assert all(page.value("pg_up") == 1 and failing(page) == set() for page in pages)
            took = time.monotonic() - started
        last = read_whole((await http.get(running.url + "/metrics")).text).value("pgvigil_scrapes_total")
    runs: int = server.value(CALLS) - before
    print(f"\n192 scrapes by 64 at once: {runs} runs, {took:.1f} s, {witness.backends} backends")
    assert last - first == 3 * 64 + 1
    assert witness.backends <= BUDGET
    return runs


def test_a_scraper_that_reads_slowly_holds_up_nobody_and_gets_its_page(exporter: tuple[Cluster, Exporter]) -> None:
    _, running = exporter
    quick(running)
    slow = [connected(running, small=True) for _ in range(8)]
    for connection in slow:
        connection.sendall(GET + b"Connection: close\r\n\r\n")
    time.sleep(1)
    for _ in range(3):
        quick(running)
        for connection in slow:
            assert len(connection.recv(100)) == 100
    with closing(slow[0]) as patient:
        answer = bytearray()
        while piece := patient.recv(65536):
            answer += piece
    assert answer.endswith(b"\n")
    assert b"\npg_up 1\n" in answer
    assert len(answer) > 6_000_000
    for connection in slow[1:]:
        hang_up(connection)
    quick(running)


def test_scrapers_that_leave_early_leave_nothing_behind(exporter: tuple[Cluster, Exporter]) -> None:
    """In the middle of the run, in the middle of the page, or in the middle of their question."""
    server, running = exporter
    quick(running)
    files, threads = files_of(running), running.process.pid
    for leaves in ("during the run", "during the page", "during the question"):
        scrapers = [connected(running, small=True) for _ in range(20)]
        for scraper in scrapers:
            scraper.sendall(GET if leaves == "during the question" else GET + b"\r\n")
        for scraper in scrapers:
            if leaves == "during the page":
                assert scraper.recv(100)
            hang_up(scraper)
        quick(running)
    running.get("/healthz")
    wait_until(lambda: files_of(running) <= files)
    assert psutil.Process(threads).num_threads() <= 6
    assert server.value("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", MONITOR) == 2
    assert quick(running).value("pgvigil_connections") == 2


def test_questions_that_never_end_or_make_no_sense_cost_nobody_else(exporter: tuple[Cluster, Exporter]) -> None:
    _, running = exporter
    quick(running)
    questions = [
        b"",
        b"GET /metr",
        GET + b"X-Endless: " + b"x" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx",
        GET + b"X-Prometheus-Scrape-Timeout-Seconds: nan\r\n\r\n",
        GET + b"X-Prometheus-Scrape-Timeout-Seconds: -1\r\nAccept: " + b"a/b;q=x," * 500 + b"\r\n\r\n",
    ]
    callers = [connected(running) for _ in questions]
    for caller, question in zip(callers, questions, strict=True):
        caller.sendall(question)
    for _ in range(3):
        quick(running)
    for caller in callers:
        hang_up(caller)
    quick(running)


@asynccontextmanager
async def served_here(server: Cluster, collectors: Path) -> AsyncIterator[str]:
    """An exporter in this very loop, so that its tasks can be counted."""
    settings = Settings(dsn=server.dsn(user=MONITOR), collectors_dir=collectors)
    app = create_app(Fleet(settings, catalog_of(settings)), settings)
    port = free_port()
    web = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, ws="none", timeout_graceful_shutdown=1))
    running = asyncio.create_task(web.serve())
    await until(lambda: web.started)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        web.should_exit = True
        await running


async def test_no_task_stays_behind_of_scrapers_that_left(cluster: Callable[..., Cluster], slow_and_big: Path) -> None:
    server = cluster()
    async with served_here(server, slow_and_big) as url, httpx.AsyncClient(timeout=SECONDS) as http:
        host, port = url.removeprefix("http://").split(":")
        assert (await http.get(url + "/metrics")).status_code == 200
        before = names()
        for number in range(60):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(GET + (b"\r\n" if number % 3 else b""))
            if number % 3 == 1:
                await reader.read(10)
            writer.transport.abort()
        assert (await http.get(url + "/metrics")).status_code == 200
        await until(lambda: len(names()) <= len(before))
    assert {task.get_name() for task in asyncio.all_tasks()} == {asyncio.current_task().get_name()}  # type: ignore[union-attr]


def names() -> list[str]:
    """The tasks of this loop that go on, by name."""
    return sorted(task.get_name() for task in asyncio.all_tasks() if not task.done())
