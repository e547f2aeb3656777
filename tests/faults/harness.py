"""What every fault has in common: an exporter under test, a witness on the server, a network that can be broken."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg
from pages import MONITOR, Page, catalog, scraped, target
from patience import Stopwatch, until

from exporter.catalog.model import Catalog
from exporter.demo.cluster import HOST, Cluster
from exporter.scrape.target import Target
from exporter.watch.loop import WatchOptions

BUDGET = 5
"""Backends of ours at most, whatever happens."""

LOCK_SECONDS = 1.0
"""Seconds within which every lock_timeout of ours, of 0.1 s, has ended a wait even on a busy machine."""

WATCH = WatchOptions(interval=0.5, lock_wait=1.0)


def vital() -> set[str]:
    """Return the collectors that have to be there whatever happens."""
    return {collector.name for collector in catalog() if collector.vital}


@asynccontextmanager
async def exporting(dsn: str, catalog: Catalog | None = None, **options: object) -> AsyncIterator[Target]:
    """A target as `serve` runs it, which looks between scrapes as well."""
    made = target(dsn, catalog, **{"watch": WATCH, **options})
    made.start()
    try:
        yield made
    finally:
        await made.close()


OFFSET = 0.5
"""Seconds that a page is sent before the scraper gives up, as scrape_timeout_offset has it."""


@dataclass(frozen=True)
class Timed:
    """A page, and the seconds it took: those for which the machine ran other programs do not count."""

    page: Page
    seconds: float


async def timed(of: Target, timeout: float) -> Timed:
    """Scrape once; the page has to be there in time, whatever the fault."""
    watch = Stopwatch()
    page = await scraped(of, timeout)
    seconds = watch.seconds
    assert seconds <= timeout + OFFSET, f"the page took {seconds:.2f} s of {timeout} s"
    return Timed(page, seconds)


async def until_whole(of: Target, *, scrapes: int = 2, apart: float = 1.0, timeout: float = 9.5) -> Page:
    """Scrape until everything is there and new, which must be so at the second scrape after a fault at the latest."""
    for number in range(scrapes):
        if number:
            await asyncio.sleep(apart)
        page = (await timed(of, timeout)).page
        if not failing(page) and page.value("pg_up") == 1:
            return page
    raise AssertionError(f"after {scrapes} scrapes: pg_up {page.value('pg_up')}, not well: {failing(page)}")


def failing(page: Page) -> set[str]:
    """Name the collectors whose newest result is not on the page."""
    return {labels["collector"] for labels, value in page.series("pgvigil_collector_success") if value == 0}


def reason(page: Page) -> str:
    """Say why the server is down, by the page; empty when it is up."""
    reasons = [labels["reason"] for labels, value in page.series("pg_up_reason") if value == 1]
    assert len(reasons) <= 1
    assert bool(reasons) == (page.value("pg_up") == 0)
    return reasons[0] if reasons else ""


@dataclass
class Witness:
    """What the server saw of us."""

    backends: int = 0
    """The most at any moment."""
    looks: int = 0
    lock_wait: float = 0.0
    """The longest wait of ours for a relation lock, in seconds."""
    idle_in_transaction: int = 0
    transactions: dict[tuple[int, datetime], set[str]] = field(default_factory=dict)
    """The statements of each transaction of ours, by backend and by when it began."""
    waiting: dict[tuple[int, datetime], float] = field(default_factory=dict)
    """Backends and statements that wait, and since when."""

    def check(self) -> None:
        """Whatever the fault, this must hold: among others, each statement is a transaction of its own."""
        assert self.looks > 0
        assert self.backends <= BUDGET, f"{self.backends} backends of ours at once"
        assert self.lock_wait <= LOCK_SECONDS, f"waited {self.lock_wait:.2f} s for a lock"
        assert self.idle_in_transaction == 0
        assert [statements for statements in self.transactions.values() if len(statements) > 1] == []


_SEEN = """
SELECT a.pid,
       a.query_start,
       a.state,
       a.xact_start,
       a.query,
       EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND NOT l.granted) AS waits
  FROM pg_stat_get_activity(NULL) AS a
 WHERE a.usesysid = $1
   AND a.backend_type = 'client backend'
"""


@asynccontextmanager
async def witnessed(cluster: Cluster, *, user: str = MONITOR, every: float = 0.05) -> AsyncIterator[Witness]:
    """Watch, from a session of the superuser's, what the exporter's role has on the server; check it at the end."""
    found = Witness()
    session = await asyncpg.connect(cluster.dsn(), ssl="disable")
    role = await session.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", user)
    watching = asyncio.create_task(_watch(cluster, session, role, found, every))
    try:
        yield found
        assert not watching.done(), watching.exception()
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    found.check()


async def _watch(cluster: Cluster, session: asyncpg.Connection, role: int, found: Witness, every: float) -> None:
    """Look until cancelled; while the server is away there is nothing to see."""
    try:
        while True:
            try:
                rows = await session.fetch(_SEEN, role)
                _take_note(rows, found)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                with suppress(asyncpg.PostgresError, OSError, TimeoutError):
                    session = await asyncpg.connect(cluster.dsn(), ssl="disable", timeout=2)
            await asyncio.sleep(every)
    finally:
        session.terminate()


def _take_note(rows: list[asyncpg.Record], found: Witness) -> None:
    now = time.monotonic()
    found.looks += 1
    found.backends = max(found.backends, len(rows))
    waits = [(row["pid"], row["query_start"]) for row in rows if row["waits"]]
    found.waiting = {each: found.waiting.get(each, now) for each in waits}
    found.lock_wait = max([found.lock_wait, *(now - since for since in found.waiting.values())])
    found.idle_in_transaction += sum((row["state"] or "").startswith("idle in transaction") for row in rows)
    for row in rows:
        if row["xact_start"]:
            found.transactions.setdefault((row["pid"], row["xact_start"]), set()).add(row["query"])


class Network:
    """A TCP proxy in front of a server: it can be slow, swallow everything, or be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._connections: set[asyncio.StreamWriter] = set()
        self._serving = 0
        self._open = asyncio.Event()
        self._open.set()
        self.refusing = False
        """New connections are closed at once."""
        self.delay = 0.0
        """Seconds by which every piece is held up, each way."""
        self.port = 0

    def swallow(self) -> None:
        """From now on nothing gets through either way, and nobody is told: a half-open connection."""
        self._open.clear()

    def flow(self) -> None:
        """From now on everything gets through; what was swallowed meanwhile arrives late, as TCP would have it."""
        self._open.set()

    def cut(self) -> None:
        """Break all connections that are open."""
        for writer in self._connections:
            writer.transport.abort()

    async def ended(self) -> None:
        """Wait until nothing is left of the connections, so that the loop has nothing to cancel when it closes."""
        await until(lambda: not self._serving)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one connection to the server."""
        self._serving += 1
        try:
            await self._through(reader, writer)
        finally:
            self._serving -= 1

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.refusing:
            await self._open.wait()
        if self.refusing:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, upstream}
        try:
            await asyncio.gather(self._pump(reader, upstream), self._pump(upstream_reader, writer))
        finally:
            for each in (writer, upstream):
                self._connections.discard(each)
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        await asyncio.gather(self._take(reader, held), self._give(held, writer))

    async def _take(self, reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Note when each piece has to arrive: a long way takes time, but many pieces are on it at once."""
        with suppress(OSError):
            while data := await reader.read(65536):
                held.put_nowait((time.monotonic() + self.delay, data))
        held.put_nowait((time.monotonic() + self.delay, b""))

    async def _give(self, held: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                piece = await held.get()
                await asyncio.sleep(max(piece[0] - time.monotonic(), 0))
                await self._open.wait()
                if not piece[1]:
                    break
                writer.write(piece[1])
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.close()


@asynccontextmanager
async def network(cluster: Cluster) -> AsyncIterator[Network]:
    """Put a breakable network in front of a server; `dsn_through` leads through it."""
    made = Network(HOST, cluster.port)
    server = await asyncio.start_server(made.serve, HOST, 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.refusing = True
        made.flow()
        made.cut()
        server.close()
        await made.ended()


def dsn_through(cluster: Cluster, net: Network, database: str = "postgres", user: str = MONITOR) -> str:
    """The server's DSN, by way of the breakable network."""
    return cluster.dsn(database, user).replace(f":{cluster.port}/", f":{net.port}/")


async def both(of: Target) -> list[Page]:
    """The pages of two scrapes, one with a time limit of 10 s and one of 2 s."""
    return [(await timed(of, timeout)).page for timeout in (9.5, 1.5)]
