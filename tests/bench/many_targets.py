"""Measures start, memory and pauses of pgvigil with one and with many targets.

`uv run python tests/bench/many_targets.py --against FOLDER` takes turns with another checkout of it.
"""

import argparse
import asyncio
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import MappingProxyType

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

import httpx
import psutil
from bench.broken import broken  # needs the line above
from programs import end
from servers import NEWEST, build

from exporter.demo.cluster import FAST, HOST, Cluster, free_port

HERE = Path(__file__).parents[2]

PERIOD_SECONDS = 15.0
"""How far scrapes are apart: what is usual with Prometheus."""

DEADLINE_SECONDS = 10.0
"""What the scraper says that it waits: its default."""

_HEADERS = {"Accept-Encoding": "gzip", "X-Prometheus-Scrape-Timeout-Seconds": f"{DEADLINE_SECONDS:g}"}
_IDLE_PAGES = 6
_IDLE_SECONDS = 0.7
_SETTINGS = {**FAST, "shared_buffers": "16MB", "shared_preload_libraries": "pg_stat_statements"}


@contextmanager
def served(folder: Path, pauses: Path, **settings: str) -> Iterator[tuple[psutil.Popen, int]]:
    """The exporter of a checkout, in this Python; it ends when that is over."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment = kept | {f"PGVIGIL_{name.upper()}": value for name, value in settings.items()}
    environment |= {"PGVIGIL_LISTEN": f"{HOST}:{port}", "PGVIGIL_LOG_LEVEL": "error"}
    command = (sys.executable, str(Path(__file__).with_name("heartbeat.py")), str(pauses), "serve")
    process = psutil.Popen(command, cwd=folder, env=environment)
    try:
        yield process, port
    finally:
        end(process)


def _refuse_ended(process: psutil.Popen) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"the exporter ended with {process.returncode}")


@dataclass
class Start:
    """Starts with one target, and what is idle afterwards."""

    seconds: list[float] = field(default_factory=list)
    """Until the first page was read."""
    cpu: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)

    def measure(self, folder: Path, dsn: str, pauses: Path) -> None:
        """Start once."""
        began = time.monotonic()
        with served(folder, pauses, dsn=dsn) as (process, port):
            connection = http.client.HTTPConnection(HOST, port, timeout=60)
            while True:
                with suppress(ConnectionRefusedError):
                    connection.connect()
                    break
                _refuse_ended(process)
                time.sleep(0.005)
            _read(connection)
            self.seconds.append(time.monotonic() - began)
            self.cpu.append(sum(process.cpu_times()[:2]))
            for _ in range(_IDLE_PAGES):
                time.sleep(_IDLE_SECONDS)
                _read(connection)
            time.sleep(_IDLE_SECONDS)
            self.rss.append(process.memory_info().rss / 2**20)

    def __str__(self) -> str:
        first, cpu, rss = map(statistics.median, (self.seconds, self.cpu, self.rss))
        return f"first page after {first:.2f} s, {cpu:.2f} s of CPU; idle RSS {rss:.1f} MiB"


def _read(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/metrics", headers=_HEADERS)
    connection.getresponse().read()


@dataclass
class Many:
    """Runs with many targets."""

    targets: int
    first: list[float] = field(default_factory=list)
    """Seconds of the first page of each target."""
    first_up: list[float] = field(default_factory=list)
    """Seconds from the start until each target's first page with pg_up 1."""
    pages: list[float] = field(default_factory=list)
    """Seconds of all other pages."""
    missed: int = 0
    """Pages that were not there within the scraper's time limit."""
    broken: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of the pages of servers that are broken, by how they are."""
    start_pauses: list[float] = field(default_factory=list)
    """Pauses of the loop in the first two rounds, when all targets are new."""
    pauses: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    _settled_at: float = 0.0
    _hows: Sequence[str] = ()
    """How each target is broken; nothing for those that are whole."""

    def measure(
        self,
        folder: Path,
        dsns: Sequence[str],
        scratch: Path,
        seconds: float,
        broken: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        """Run once; the last targets are those that are broken."""
        config = scratch / "targets.yaml"
        whole = [{"dsn": dsns[n % len(dsns)]} for n in range(self.targets - len(broken))]
        targets = [{"name": f"t{n:03}", **each} for n, each in enumerate([*whole, *broken.values()])]
        self._hows = [*([""] * len(whole)), *broken]
        config.write_text(json.dumps({"targets": targets}))
        with served(folder, scratch / "pauses", config=str(config)) as (process, port):
            asyncio.run(self._scrape(process, f"http://{HOST}:{port}", seconds))
            self.rss.append(process.memory_info().rss / 2**20)
        lines = [line.split() for line in (scratch / "pauses").read_text().splitlines()]
        for at, pause in ((float(at), float(pause)) for at, pause in lines):
            if at > self._settled_at:
                self.pauses.append(pause)
            else:
                self.start_pauses.append(pause)

    async def _scrape(self, process: psutil.Popen, url: str, seconds: float) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=url, headers=_HEADERS, timeout=60, limits=limits) as client:
            while True:
                with suppress(httpx.TransportError):
                    await client.get("/healthz")
                    break
                _refuse_ended(process)
                await asyncio.sleep(0.01)
            began = time.monotonic()
            self._settled_at = began + 2 * PERIOD_SECONDS
            watching = asyncio.create_task(self._watch(process, seconds))
            await asyncio.gather(*(self._rounds(client, n, began, seconds) for n in range(self.targets)))
            await watching

    async def _watch(self, process: psutil.Popen, seconds: float) -> None:
        await asyncio.sleep(2 * PERIOD_SECONDS)
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(seconds - 2 * PERIOD_SECONDS)
        self.cores.append((sum(process.cpu_times()[:2]) - before) / (seconds - 2 * PERIOD_SECONDS))

    async def _rounds(self, client: httpx.AsyncClient, number: int, began: float, seconds: float) -> None:
        """Scrape one target as Prometheus does, which spreads its targets over the interval."""
        due, is_up = began + PERIOD_SECONDS * number / self.targets, False
        while due < began + seconds:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            started = time.monotonic()
            page = (await client.get("/probe", params={"target": f"t{number:03}"})).text
            took = time.monotonic() - started
            self.missed += took > DEADLINE_SECONDS
            if how := self._hows[number]:
                self.broken.setdefault(how, []).append(took)
            else:
                (self.pages if due >= began + PERIOD_SECONDS else self.first).append(took)
            if not is_up and "\npg_up 1\n" in page:
                is_up = True
                self.first_up.append(time.monotonic() - began)
            due += PERIOD_SECONDS

    def __str__(self) -> str:
        pages = sorted(self.pages)
        p50, p99 = (pages[int(len(pages) * share)] for share in (0.5, 0.99))
        return (
            f"first pages: longest {max(self.first):.2f} s; up on {len(self.first_up)}, the last after"
            f" {max(self.first_up, default=float('inf')):.1f} s; missed {self.missed}; pauses of the loop:"
            f" {_longest(self.start_pauses)} in the first 30 s, {_longest(self.pauses)} afterwards;"
            f" pages p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms, max {1000 * pages[-1]:.0f} ms;"
            f" {statistics.median(self.cores):.3f} cores; RSS {statistics.median(self.rss):.0f} MiB"
            + "".join(f"\n  {how}: {len(each)} pages, max {max(each):.2f} s" for how, each in self.broken.items())
        )


def _longest(pauses: Sequence[float]) -> str:
    longest = [f"{1000 * pause:.0f}" for pause in sorted(pauses, reverse=True)[:3]]
    return f"{', '.join(longest) or 'none'} ms ({sum(pause > 0.02 for pause in pauses)} over 20 ms)"


def _print(what: str, found: Mapping[Path, object]) -> None:
    print(f"\n{what}")
    for folder, each in found.items():
        print(f"{'this checkout' if folder == HERE else folder}: {each}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the servers, measure by turns, remove them; a goal that is missed is no failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--starts", type=int, default=5, help="starts with one target (5)")
    parser.add_argument("--targets", type=int, default=200, help="targets in all (200)")
    parser.add_argument("--servers", type=int, default=10, help="servers that the targets share (10)")
    parser.add_argument("--runs", type=int, default=1, help="runs with many targets (1)")
    parser.add_argument("--seconds", type=float, default=60, help="length of such a run (60)")
    parser.add_argument("--broken", action="store_true", help="have ten of them broken, in ten ways")
    options = parser.parse_args(arguments)
    folders = [*([options.against.resolve()] if options.against else []), HERE]
    with tempfile.TemporaryDirectory(prefix="pgvigil-bench-") as made, ExitStack() as stack:
        scratch = Path(made)
        clusters = [stack.enter_context(_server(options)) for _ in range(options.servers if options.runs else 1)]
        dsns = [cluster.dsn("postgres", "pgvigil") + "?sslmode=disable" for cluster in clusters]
        starts = {folder: Start() for folder in folders}
        for _, (folder, start) in product(range(options.starts), starts.items()):
            start.measure(folder, dsns[0], scratch / "pauses")
        if options.starts:
            _print("one target", starts)
        many = {folder: Many(options.targets) for folder in folders}
        ill = stack.enter_context(broken(clusters[0], scratch)) if options.broken else {}
        for _, (folder, each) in product(range(options.runs), many.items()):
            each.measure(folder, dsns, scratch, options.seconds, ill)
        if options.runs:
            _print(f"{options.targets} targets", many)


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[Cluster]:
    settings = {**_SETTINGS, "max_connections": str(50 + 5 * options.targets // options.servers)}
    with Cluster(build(NEWEST), settings=settings) as cluster:
        cluster.execute("CREATE ROLE pgvigil LOGIN; GRANT pg_monitor TO pgvigil; CREATE EXTENSION pg_stat_statements")
        yield cluster


if __name__ == "__main__":
    main()
