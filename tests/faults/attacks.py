"""Attacks an exporter while it is scraped each second, and prints what came of it.

uv run python tests/faults/attacks.py [--scrapes 100] [--only NAME]
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import hostile_server
import httpx
import psutil
from attackers import GET, WITHOUT_LIMIT, connected, silent_dns, without_end
from conftest import PREPARE, SETTINGS
from pages import MONITOR, Page, read
from servers import NEWEST, build
from serving import Exporter, Surroundings, serving_in

from exporter.demo.cluster import HOST, Cluster

TIMEOUT = 5.0
"""Seconds that a scrape may take."""

WELL = "well"
"""The target that nobody attacks."""


@dataclass
class Plan:
    """One attack, prepared: what stands beside the healthy target, and what is done while both are scraped."""

    during: Callable[[Exporter], AbstractContextManager[None]]
    others: Sequence[Mapping[str, str]] = ()
    up_after: Sequence[str] = ()
    """Of the others, those that are up again when the attack is over."""
    surroundings: Surroundings = field(default_factory=Surroundings)
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Scene:
    """Where an attack is prepared."""

    server: Cluster
    folder: Path
    stack: ExitStack

    @property
    def dsn(self) -> str:
        """The healthy server's."""
        return self.server.dsn(user=MONITOR)

    def write(self, name: str, text: str) -> str:
        """Put a file into a folder for collectors, and give the folder."""
        folder = self.folder / "collectors"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        return str(folder)


Attack = Callable[[Scene], Plan]


def endless(head: bytes, piece: bytes) -> Attack:
    """Three clients whose request has no end."""

    @contextmanager
    def during(exporter: Exporter) -> Iterator[None]:
        with without_end(exporter, head, piece, times=3):
            yield

    return lambda _: Plan(during)


def stderr_is_full(scene: Scene) -> Plan:
    """Nobody reads the log, and PostgreSQL of another target stops and starts."""
    other = scene.stack.enter_context(server())
    reader, writer = os.pipe()
    scene.stack.callback(os.close, reader)
    scene.stack.callback(os.close, writer)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)

    @contextmanager
    def during(_: Exporter) -> Iterator[None]:
        other.stop("immediate")
        yield
        other.start()

    target = {"name": "other", "dsn": other.dsn(user=MONITOR)}
    return Plan(during, [target], ["other"], Surroundings(stderr=writer), {"log_level": "debug"})


def password_file_is_a_pipe(scene: Scene) -> Plan:
    """A pipe that nothing writes to is refused, until there is a file in its place."""
    pipe = scene.folder / "password"
    os.mkfifo(pipe)

    @contextmanager
    def during(_: Exporter) -> Iterator[None]:
        yield
        pipe.unlink()
        pipe.write_text("no matter")

    return Plan(during, [{"name": "stuck", "dsn": scene.dsn, "password_file": str(pipe)}], ["stuck"])


def names_hang(scene: Scene) -> Plan:
    """Thirty targets whose names are asked of a server that never answers."""
    dead = [{"name": f"dead{n}", "dsn": f"host=dead{n}.example dbname=postgres"} for n in range(30)]
    return Plan(_nothing, dead, surroundings=scene.stack.enter_context(silent_dns(scene.folder)))


@contextmanager
def _nothing(_: Exporter) -> Iterator[None]:
    yield


def bytes_of_no_encoding(scene: Scene) -> Plan:
    """A database of SQL_ASCII with a table whose name no encoding has."""
    scene.server.execute("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    scene.server.execute(
        r"""DO $$ BEGIN EXECUTE format('CREATE TABLE %I (a int)', convert_from('\xff61fe', 'SQL_ASCII')); END $$""",
        "bytes",
    )
    scene.stack.callback(scene.server.execute, "DROP DATABASE bytes WITH (FORCE)")
    return Plan(_nothing)


BIG = """
name: big
help: Own.
cache: 600
labels: [n, text]
sql: SELECT n, repeat('x', 1000) AS text, n AS value FROM generate_series(1, 10000) AS n
metrics:
  - {name: pg_big, type: gauge, help: Own., column: value}
"""


def slow_readers(scene: Scene) -> Plan:
    """Three hundred that ask for a page of ten megabytes and do not read it."""

    @contextmanager
    def during(exporter: Exporter) -> Iterator[None]:
        with ExitStack() as opened:
            for _ in range(300):
                client = opened.enter_context(closing(connected(exporter, small=True)))
                client.sendall(GET + b"\r\n")
            yield

    settings = {"collectors_dir": scene.write("big.yaml", BIG), "cost_budget": "0"}
    return Plan(during, settings=settings)


def silent_clients(_: Scene) -> Plan:
    """More connections than files, on which nothing is asked."""

    @contextmanager
    def during(exporter: Exporter) -> Iterator[None]:
        with ExitStack() as opened:
            for _ in range(1100):
                opened.enter_context(closing(connected(exporter)))
            yield

    return Plan(during, surroundings=Surroundings(files=1024))


def many_at_once(_: Scene) -> Plan:
    """Two thousand requests at once, again and again."""

    @contextmanager
    def during(exporter: Exporter) -> Iterator[None]:
        def ask() -> None:
            with ExitStack() as opened:
                for _ in range(2000):
                    with suppress(OSError):
                        client = opened.enter_context(closing(connected(exporter)))
                        client.sendall(GET + b"Connection: close\r\n\r\n")

        with again_and_again(ask, 1):
            yield

    return Plan(during)


def unauthenticated_load(_: Scene) -> Plan:
    """Eight clients that ask for the front page without a pause."""

    @contextmanager
    def during(exporter: Exporter) -> Iterator[None]:
        def ask() -> None:
            with suppress(httpx.HTTPError):
                exporter.get("/")

        with again_and_again(ask, 8):
            yield

    return Plan(during)


@contextmanager
def again_and_again(work: Callable[[], None], threads: int) -> Iterator[None]:
    """Do it without a pause, in so many threads."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            work()

    started = [threading.Thread(target=go_on) for _ in range(threads)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in started:
            thread.join()


def hostile(behaviour: hostile_server.Behaviour) -> Attack:
    """A server that speaks in bad faith, and afterwards one that does not, in its place."""

    def attack(scene: Scene) -> Plan:
        is_hostile = threading.Event()
        is_hostile.set()

        async def either(stream: hostile_server.Stream) -> None:
            if is_hostile.is_set():
                await hostile_server.read_startup(stream)
                await behaviour(stream)
            else:
                await _through(scene.server, stream)

        dsn = scene.stack.enter_context(hostile_server.running(either, startup=False))

        @contextmanager
        def during(_: Exporter) -> Iterator[None]:
            yield
            is_hostile.clear()

        target = {"name": "hostile", "dsn": dsn.replace("anyone", MONITOR).replace("anywhere", "postgres")}
        return Plan(during, [target], ["hostile"])

    return attack


def twenty_million_rows(scene: Scene) -> Plan:
    """An honest server and a collector of one's own that has no limit."""
    return Plan(_nothing, settings={"collectors_dir": scene.write("own.yaml", WITHOUT_LIMIT), "max_samples": "100000"})


ATTACKS: Mapping[str, Attack] = {
    "A2 a header without end": endless(GET + b"X-Endless: ", b"x" * 65536),
    "A2 a URL without end": endless(b"GET /metrics?", b"x" * 1_000_000),
    "A2 a body without end": endless(
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n", b"x" * 65536
    ),
    "A3 stderr is a full pipe": stderr_is_full,
    "A3 a password file that is a pipe": password_file_is_a_pipe,
    "A4 30 names that hang": names_hang,
    "A5 bytes of no encoding": bytes_of_no_encoding,
    "A6 300 slow readers": slow_readers,
    "A6 1 100 silent connections": silent_clients,
    "A6 2 000 requests at once": many_at_once,
    "A8 SCRAM without end": hostile(hostile_server.scram_without_end),
    "A8 rows without end": hostile(hostile_server.rows_without_end),
    "A8 a login of a gigabyte": hostile(hostile_server.a_login_of_a_gigabyte),
    "A8 20 million honest rows": twenty_million_rows,
    "A14 8 clients on /": unauthenticated_load,
}


async def _through(server: Cluster, stream: hostile_server.Stream) -> None:
    """Hand everything on to a server, and back."""
    reader, writer = await asyncio.open_connection(HOST, server.port)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                sink.write(piece)
                await sink.drain()
        sink.close()

    await asyncio.gather(pump(stream[0], writer), pump(reader, stream[1]))


WARM_SCRAPES = 20
"""Scrapes before an attack: the first ones fill caches, which is no growth."""

SETTLING_SCRAPES = 60
"""Scrapes after it for memory to be given back."""

MOST_LEFT = 0.1
"""Share of memory that an attack may leave taken."""


@contextmanager
def server() -> Iterator[Cluster]:
    """A server set up as those of the tests are."""
    with Cluster(build(NEWEST), settings=SETTINGS) as made:
        made.execute(PREPARE)
        yield made


@dataclass
class Outcome:
    """What came of one attack."""

    answered: int = 0
    asked: int = 0
    slowest: float = 0.0
    grown: float = 0.0
    """Megabytes of resident memory, at most."""
    left: float = 0.0
    """Resident memory after it, as a share of that before."""
    recovered: int | None = 0
    """At which scrape after it all was up; None when not within ten."""
    why: str = ""
    """What was wrong with the first scrape that was not answered."""


def probe(exporter: Exporter, target: str) -> Page:
    """Scrape one target as Prometheus does."""
    url, limit = f"{exporter.url}/probe?target={target}", {"X-Prometheus-Scrape-Timeout-Seconds": f"{TIMEOUT:g}"}
    return read(httpx.get(url, headers=limit, timeout=TIMEOUT).raise_for_status().text)


def lacks(page: Page) -> str:
    """What a page lacks that has to be there whatever happens."""
    failing = [labels["collector"] for labels, value in page.series("pgvigil_collector_success") if value == 0]
    vital = {"sessions", "locks", "lock_blockers", "wraparound", "replication_slots"} & set(failing)
    reasons = ", ".join(had["reason"] for had, value in page.series("pg_up_reason") if value)
    return f"pg_up is 0: {reasons}" if page.value("pg_up") != 1 else ", ".join(vital)


def attacked(attack: Attack, healthy: Cluster, scrapes: int) -> Outcome:
    """Scrape the healthy target once a second during an attack, then all until they are up."""
    found = Outcome(asked=scrapes)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        scene = Scene(healthy, Path(name), stack)
        plan = attack(scene)
        config = scene.folder / "pgvigil.yaml"
        config.write_text(json.dumps({"targets": [{"name": WELL, "dsn": scene.dsn}, *plan.others]}))
        exporter = stack.enter_context(serving_in(plan.surroundings, "--config", str(config), **plan.settings))
        for _ in range(WARM_SCRAPES):
            probe(exporter, WELL)
            time.sleep(0.5)
        process = psutil.Process(exporter.process.pid)
        before = process.memory_info().rss
        with plan.during(exporter):
            for _ in range(scrapes):
                began = time.monotonic()
                try:
                    said = lacks(probe(exporter, WELL))
                except (httpx.HTTPError, OSError) as error:
                    said = repr(error)
                seconds = time.monotonic() - began
                found.answered += not said
                found.why = found.why or said
                found.slowest = max(found.slowest, seconds)
                found.grown = max(found.grown, (process.memory_info().rss - before) / 1e6)
                time.sleep(max(1 - seconds, 0))
        found.recovered = _recovered(exporter, [WELL, *plan.up_after])
        for _ in range(SETTLING_SCRAPES):
            with suppress(httpx.HTTPError):
                probe(exporter, WELL)
            found.left = process.memory_info().rss / before
            if found.left <= 1 + MOST_LEFT:
                break
            time.sleep(1)
    return found


def _recovered(exporter: Exporter, targets: Sequence[str]) -> int | None:
    for number in range(1, 11):
        time.sleep(1)
        with suppress(httpx.HTTPError):
            if not any(lacks(probe(exporter, target)) for target in targets):
                return number
    return None


def main() -> int:
    """Exit 0 when each scrape was answered, all was up two scrapes later, and memory was as before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scrapes", type=int, default=100)
    parser.add_argument("--only", default="", help="attacks whose names have this in them")
    asked = parser.parse_args()
    good = True
    print("| attack | answered | slowest | memory grew by | memory after it | all up again at scrape |")
    print("|---|---|---|---|---|---|")
    with server() as healthy:
        for name, attack in ATTACKS.items():
            if asked.only in name:
                came = attacked(attack, healthy, asked.scrapes)
                good &= came.answered == came.asked and came.recovered is not None and came.recovered <= 2
                good &= came.left <= 1 + MOST_LEFT
                answered = f"{came.answered} of {came.asked}{came.why and ': ' + came.why}"
                print(
                    f"| {name} | {answered} | {came.slowest:.2f} s | {came.grown:.0f} MB | {came.left:.0%} of before |"
                    f" {came.recovered} |",
                    flush=True,
                )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
