"""Measures pgvigil on a server with many databases: `uv run python tests/bench/many_databases.py`."""

import argparse
import gzip
import math
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

import psutil
from bench.data import seconds_in_statements  # needs the line above
from bench.exporters import Running, ours, running
from servers import NEWEST, build

from exporter.catalog.load import BUILT_IN, load
from exporter.demo.cluster import FAST, Cluster

PERIOD_SECONDS = 15.0
"""How far scrapes are apart: what is usual with Prometheus."""

SHORT_CACHE_SECONDS = 60.0
"""The collectors that are to be young are those that keep a result no longer than this."""

_TEMPLATE = "shop_template"
_BATCH = 50
_SETTINGS = {
    **FAST,
    "autovacuum": "off",  # nothing but the exporter is to work while it is measured
    "max_locks_per_transaction": "512",  # a batch of tables is made in one transaction
    "shared_buffers": "256MB",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.max": "20000",
    "pg_stat_statements.track_planning": "on",  # planning costs the server as well
}


def server() -> Cluster:
    """A server that is not started yet."""
    return Cluster(build(NEWEST), settings=_SETTINGS)


def create(cluster: Cluster, databases: int, tables: int) -> None:
    """Databases that are all the same: tables with a primary key, a second index and a few rows."""
    cluster.execute("CREATE ROLE pgvigil LOGIN; GRANT pg_monitor TO pgvigil; CREATE EXTENSION pg_stat_statements")
    cluster.execute(f"CREATE DATABASE {_TEMPLATE}")
    for first in range(0, tables, _BATCH):
        cluster.execute(_tables(range(first, min(first + _BATCH, tables))), _TEMPLATE)
    cluster.execute("ANALYZE", _TEMPLATE)
    for n in range(databases):
        cluster.execute(f"CREATE DATABASE shop_{n:04} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
    cluster.execute(f"DROP DATABASE {_TEMPLATE}")
    cluster.execute("CHECKPOINT")


def _tables(numbers: range) -> str:
    return ";".join(
        f"CREATE TABLE orders_{n:04} (id bigserial PRIMARY KEY, made timestamptz DEFAULT now(), state int);"
        f"CREATE INDEX ON orders_{n:04} (made);"
        f"INSERT INTO orders_{n:04} (state) SELECT i FROM generate_series(1, 5) AS i"
        for n in numbers
    )


@dataclass
class Seen:
    """What was seen of one run."""

    seconds: list[float] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)
    """The times of the pages after the first round."""
    samples: int = 0
    own: int = 0
    """How many of them speak of the exporter itself."""
    size: int = 0
    zipped: int = 0
    first_round: float = math.inf
    """Seconds until every database had been looked into."""
    ages: dict[float, float] = field(default_factory=dict)
    """Cache of a collector -> the oldest result of any database, after the first round."""
    served: float = 0.0
    """The same of results kept for a short time, only of those that are on the page."""
    late: int = 0
    """The most per-database collectors that did not succeed on a page after the first round."""
    connections: int = 0
    rss: int = 0


def measure(cluster: Cluster, minutes: float, folder: Path, databases: int) -> None:
    """Scrape for some minutes as Prometheus does, and print a line a scrape and then the figures."""
    caches = {c.name: c.cache for c in load(BUILT_IN) if c.scope == "database" and c.enabled}
    seen = Seen()
    with running(ours(cluster, "postgres"), folder) as target, _watched(cluster, seen):
        started, before = time.monotonic(), _spent(cluster, target)
        halfway: tuple[float, tuple[float, float, float]] | None = None
        while time.monotonic() - started < minutes * 60:
            turn = len(seen.seconds)
            time.sleep(max(started + turn * PERIOD_SECONDS - time.monotonic(), 0))
            _look(target, seen, caches, databases, time.monotonic() - started)
            if halfway is None and time.monotonic() - started > minutes * 30:
                halfway = time.monotonic(), _spent(cluster, target)
        if halfway:
            _print_costs("first half", started, before, *halfway)
            _print_costs("second half", *halfway, time.monotonic(), _spent(cluster, target))
        seen.rss = psutil.Process(target.pid).memory_info().rss
    _print(seen)


def _look(target: Running, seen: Seen, caches: dict[str, float], databases: int, now: float) -> None:
    seconds, body = target.scrape()
    plain = gzip.decompress(body).decode()
    lines = [line for line in plain.splitlines() if not line.startswith("#")]
    ages = _values(lines, "pgvigil_collector_age_seconds", caches)
    visited = {datname for _, datname in ages}
    success = _values(lines, "pgvigil_collector_success", caches)
    late = sum(not value for value in success.values())
    short = [age for (name, _), age in ages.items() if caches[name] <= SHORT_CACHE_SECONDS]
    seen.seconds.append(seconds)
    seen.samples, seen.size, seen.zipped = len(lines), len(plain), len(body)
    seen.own = sum(line.startswith("pgvigil_") for line in lines)
    if seen.first_round < math.inf:
        seen.steady.append(seconds)
        seen.late = max(seen.late, late)
        for (name, _), age in ages.items():
            seen.ages[caches[name]] = max(seen.ages.get(caches[name], 0.0), age)
        seen.served = max(seen.served, *(age for key, age in ages.items() if success.get(key) and caches[key[0]] <= 60))
    elif len(visited) > databases:
        seen.first_round = now + seconds
    print(
        f"{now:6.0f} s: page {seconds:6.3f} s, {len(lines)} samples, {len(body) / 1e6:.1f} MB gzip, {len(visited)}"
        f" databases, oldest {max(short, default=0.0):.0f} s, {late} late, {seen.connections} connections at most,"
        f" load of the machine {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def _values(lines: Sequence[str], metric: str, collectors: dict[str, float]) -> dict[tuple[str, str], float]:
    """Read a metric of the exporter's own for the per-database collectors."""
    form = re.compile(rf'{metric}{{collector="(\w+)",datname="([^"]+)"}} (\S+)')
    found = (form.match(line) for line in lines if line.startswith(metric))
    return {(m[1], m[2]): float(m[3]) for m in found if m and m[1] in collectors}


@contextmanager
def _watched(cluster: Cluster, seen: Seen) -> Iterator[None]:
    """Count the exporter's connections ten times a second, from outside: its backends are processes of the server."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen.connections = max(seen.connections, len(_backends(cluster)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _backends(cluster: Cluster) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(cluster.pid).children():
        try:
            if " ".join(child.cmdline()).startswith("postgres: pgvigil "):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def _spent(cluster: Cluster, target: Running) -> tuple[float, float, float]:
    """CPU of the exporter, CPU of the whole server, time that the server counts for our statements: all in seconds."""
    postmaster = psutil.Process(cluster.pid)
    server = sum(postmaster.cpu_times()[:4])
    for child in postmaster.children():
        try:
            server += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return (
        sum(psutil.Process(target.pid).cpu_times()[:2]),
        server,
        seconds_in_statements(cluster, target.exporter.role),
    )


def _print_costs(what: str, began: float, before: tuple[float, ...], ended: float, after: tuple[float, ...]) -> None:
    exporter, server, statements = ((b - a) / (ended - began) for a, b in zip(before, after, strict=True))
    print(
        f"{what}: exporter {exporter:.1%} of a core, server {server:.1%} of a core,"
        f" of which in statements {statements:.1%}"
    )


def _print(seen: Seen) -> None:
    for what, seconds in (("all pages", seen.seconds), ("pages after the first round", seen.steady)):
        if seconds:
            ordered = sorted(seconds)
            p50, p99 = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.99))
            print(f"{what}: {len(ordered)}, p50 {p50:.3f} s, p99 {p99:.3f} s, max {ordered[-1]:.3f} s")
    print(f"last page: {seen.samples} samples, {seen.own} of them the exporter's own,", end=" ")
    print(f"{seen.size / 1e6:.1f} MB, {seen.zipped / 1e6:.2f} MB with gzip")
    print(f"connections at most: {seen.connections}; RSS {seen.rss / 2**20:.0f} MiB")
    print(f"first round: {seen.first_round:.0f} s")
    for cache, age in sorted(seen.ages.items()):
        print(f"oldest result of collectors with cache {cache:.0f} s, after the first round: {age:.0f} s")
    print(f"oldest result with cache up to 60 s that counts as a success: {seen.served:.0f} s")
    print(f"not succeeding after the first round, at most: {seen.late} of a page")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the server, measure, remove it; a goal that is missed is no failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--databases", type=int, default=500)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=12)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pgvigil-bench-") as folder, server() as cluster:
        started = time.monotonic()
        create(cluster, options.databases, options.tables)
        print(f"{options.databases} databases x {options.tables} tables in {time.monotonic() - started:.0f} s")
        measure(cluster, options.minutes, Path(folder), options.databases)


if __name__ == "__main__":
    main()
