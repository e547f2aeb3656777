"""Clients that ask without end, never finish asking or do not read: a scrape each second is answered all the while."""

import socket
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import pytest
from attackers import GET, connected, without_end
from pages import MONITOR, Page, read
from patience import Stopwatch, wait_until
from serving import Exporter, Surroundings, serving, serving_in

from exporter.demo.cluster import Cluster
from exporter.web.clients import (
    CONNECTIONS,
    OWN_FILES,
    READ_SECONDS,
    WRITE_SECONDS,
    Client,
    Clients,
    Limits,
    connections_within,
)

POST = b"POST /metrics HTTP/1.1\r\nHost: x\r\n"

SCRAPE_TIMEOUT = 5.0
"""Seconds for a scrape while an attack goes on."""

MEGABYTE = 1_000_000


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A collector whose result is ten megabytes, and kept."""
    (tmp_path / "big.yaml").write_text(
        "name: big\nhelp: Own.\ncache: 600\nlabels: [n, text]\n"
        "sql: SELECT n, repeat('x', 1000) AS text, n AS value FROM generate_series(1, 10000) AS n\n"
        "metrics:\n  - {name: pg_big, type: gauge, help: Own., column: value}\n"
    )
    return tmp_path


def scraped(running: Exporter) -> Page:
    """One scrape, which has to be there in time."""
    watch = Stopwatch(running.process.pid)
    answer = running.get(headers={"X-Prometheus-Scrape-Timeout-Seconds": f"{SCRAPE_TIMEOUT:g}"})
    assert watch.seconds < SCRAPE_TIMEOUT
    found = read(answer.text)
    assert found.value("pg_up") == 1
    return found


def memory(running: Exporter) -> int:
    """Resident bytes of the exporter's process."""
    size: int = psutil.Process(running.process.pid).memory_info().rss
    return size


def is_closed(client: socket.socket) -> bool:
    """Return whether the exporter has closed a connection on which nothing is left to be read."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (GET + b"X-Endless: ", b"x" * 65536),
        (b"GET /metrics?", b"x" * MEGABYTE),
        pytest.param(GET, b"X-Many: x\r\n" * 6000, marks=pytest.mark.full),
        pytest.param(POST + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536, marks=pytest.mark.full),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 65536, marks=pytest.mark.full),
    ],
    ids=["header", "url", "headers", "body", "chunk"],
)
def test_a_request_without_end_costs_no_scrape(server18: Cluster, head: bytes, piece: bytes) -> None:
    with serving(dsn=server18.dsn(user=MONITOR)) as running:
        scraped(running)
        before = memory(running)
        with without_end(running, head, piece, times=3):
            for _ in range(4):
                scraped(running)
                time.sleep(0.5)
            grown = memory(running) - before
        scraped(running)
    assert grown < 30 * MEGABYTE


@pytest.mark.parametrize(
    ("method", "head", "piece"),
    [
        ("POST", b"Content-Length: 1000000000000", b"x" * 65536),
        ("GET", b"Content-Length: 1000000000000", b"x" * 65536),
        ("GET", b"Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    ],
)
def test_a_body_is_not_read_to_its_end(server18: Cluster, method: str, head: bytes, piece: bytes) -> None:
    with serving(dsn=server18.dsn(user=MONITOR)) as running, closing(connected(running)) as client:
        client.sendall(f"{method} /metrics HTTP/1.1\r\nHost: x\r\n".encode() + head + b"\r\n\r\n")
        assert client.recv(9) == b"HTTP/1.1 "
        sent = 0
        with suppress(OSError):
            while sent < 100 * MEGABYTE:
                client.sendall(piece)
                sent += len(piece)
    assert sent < 100 * MEGABYTE


def test_requests_that_are_no_http_do_not_fill_the_log(server18: Cluster) -> None:
    with serving(dsn=server18.dsn(user=MONITOR)) as running:
        for _ in range(50):
            with closing(connected(running)) as client:
                client.sendall(b"no http\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 400"
        scraped(running)
        running.process.terminate()
        log = running.process.communicate()[1]
    assert log.count("Invalid HTTP request received.") == 1


@pytest.mark.full
def test_a_request_that_does_not_go_on_is_given_up(server18: Cluster) -> None:
    with serving(dsn=server18.dsn(user=MONITOR)) as running, ExitStack() as opened:
        clients = [opened.enter_context(closing(connected(running))) for _ in range(60)]
        kept = opened.enter_context(closing(connected(running)))
        kept.sendall(GET + b"\r\n")
        for number, client in enumerate(clients):
            client.sendall([b"", b"GET /metr", GET][number % 3])
        over = time.monotonic() + READ_SECONDS + 5
        while not all(map(is_closed, clients)):
            assert time.monotonic() < over
            scraped(running)
            time.sleep(1)
        kept.setblocking(True)
        while b"process_" not in kept.recv(65536):
            pass
        kept.sendall(GET + b"\r\n")
        assert kept.recv(12) != b"", "a scraper's idle connection is kept"


@pytest.mark.full
def test_readers_of_one_page_share_it_and_those_that_do_not_read_are_dropped(server18: Cluster, big: Path) -> None:
    """Before, 300 of them took 5 GB."""
    settings = {"dsn": server18.dsn(user=MONITOR), "collectors_dir": str(big), "cost_budget": "0"}
    with serving(**settings) as running, ExitStack() as opened:
        for _ in range(2):
            scraped(running)
        before, files = memory(running), psutil.Process(running.process.pid).num_fds()
        slow = [opened.enter_context(closing(connected(running, small=True))) for _ in range(100)]
        for number, client in enumerate(slow):
            client.sendall(GET + (b"Connection: close\r\n\r\n" if number % 2 else b"\r\n"))
        for _ in range(4):
            scraped(running)
            time.sleep(0.5)
        assert memory(running) - before < 100 * MEGABYTE
        watch = Stopwatch(running.process.pid)
        while psutil.Process(running.process.pid).num_fds() > files + 10:
            assert watch.seconds < WRITE_SECONDS + 30, "twice as long as promised"
            scraped(running)
            time.sleep(2)


@pytest.mark.full
def test_who_asks_on_and_on_without_reading_is_dropped(server18: Cluster) -> None:
    """The answer that fills the network's buffers is not the last one that is asked for.

    What is asked for is large: of small answers the buffers hold so many that making them takes a slow machine minutes.
    """
    with serving(dsn=server18.dsn(user=MONITOR)) as running, ExitStack() as stack:
        clients = [stack.enter_context(closing(connected(running, small=True))) for _ in range(5)]
        for client in clients:
            client.settimeout(1.0)
            with suppress(OSError):
                for _ in range(200_000):
                    client.sendall(GET.replace(b"/metrics", b"/static/pgvigil.css") + b"\r\n")
        watch = Stopwatch(running.process.pid)
        while not all(map(_is_reset, clients)):
            assert watch.seconds < WRITE_SECONDS + 30, "twice as long as promised"
            time.sleep(1)
        scraped(running)


def _is_reset(client: socket.socket) -> bool:
    """Return whether nothing can be sent any more."""
    client.setblocking(False)
    try:
        client.send(b"GET")
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


@pytest.mark.parametrize("question", [b"", GET], ids=["silent", "half"])
def test_running_out_of_files_is_not_blamed_on_postgresql(server18: Cluster, question: bytes) -> None:
    """More clients than files: those that wait longest make room, and the server's connections have theirs."""
    files = OWN_FILES + 5 + 40
    with serving_in(Surroundings(files=files), dsn=server18.dsn(user=MONITOR)) as running, ExitStack() as opened:
        clients = []
        for _ in range(files + 100):
            clients.append(opened.enter_context(closing(connected(running))))
            clients[-1].sendall(question)
        for _ in range(3):
            found = scraped(running)
            assert found.value("pgvigil_collector_success", collector="sessions") == 1
        assert psutil.Process(running.process.pid).num_fds() < files - 100
        assert sum(map(is_closed, clients)) >= 100 + files - 40


@pytest.mark.full
def test_more_requests_at_once_than_there_may_be_connections_are_bounded(server18: Cluster) -> None:
    with serving(dsn=server18.dsn(user=MONITOR)) as running, ExitStack() as opened:
        scraped(running)
        before, files = memory(running), psutil.Process(running.process.pid).num_fds()
        clients = [opened.enter_context(closing(connected(running))) for _ in range(CONNECTIONS + 100)]
        for client in clients:
            with suppress(OSError):  # made room already
                client.sendall(GET + b"\r\n")
        wait_until(lambda: running.answers() or None)
        assert psutil.Process(running.process.pid).num_fds() <= files + CONNECTIONS + 5  # those to the server
        scraped(running)
        assert memory(running) - before < 200 * MEGABYTE


@pytest.mark.parametrize(
    ("files", "for_targets", "connections"),
    [(100_000, 5, CONNECTIONS), (1024, 5, CONNECTIONS), (1024, 500, 1024 - 500 - OWN_FILES), (64, 5, 16)],
)
def test_clients_leave_the_targets_their_files(files: int, for_targets: int, connections: int) -> None:
    assert connections_within(files, for_targets) == connections


def test_connections_and_those_that_were_dropped_are_counted(server18: Cluster) -> None:
    with serving(dsn=server18.dsn(user=MONITOR)) as running, ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(closing(connected(running)))
        with closing(connected(running)) as odd:
            odd.sendall(b"no http\r\n\r\n")
            assert odd.recv(12) == b"HTTP/1.1 400"
        page = read(running.get().text)
    assert page.value("pgvigil_http_connections") in (4, 5)
    assert page.value("pgvigil_http_connections_max") == CONNECTIONS
    assert page.value("pgvigil_http_unread_bytes") == 0
    assert page.value("pgvigil_http_dropped_total", reason="no_http") == 1
    assert page.value("pgvigil_http_dropped_total", reason="room") == 0


class Reader(Client):
    """One that has not read what it was answered."""

    def __init__(self, since: float | None, unread: int) -> None:
        self._since, self._unread = since, unread

    @property
    def unread(self) -> int:
        """As it was made."""
        return self._unread

    @property
    def waits_since(self) -> float | None:
        """As it was made."""
        return self._since

    def drop(self) -> None:
        """Note it."""
        self.is_dropped = True


def test_those_that_have_waited_longest_to_read_make_room_for_bytes() -> None:
    clients = Clients(Limits(unread_bytes=100))
    readers = [Reader(3, 50), Reader(1, 40), Reader(2, 30), Reader(None, 20), Reader(0, 0)]
    clients.connections |= set(readers)  # type: ignore[arg-type]
    clients.bound_unread()
    assert [each.is_dropped for each in readers] == [False, True, False, False, False]
    assert clients.dropped["bytes"] == 1
