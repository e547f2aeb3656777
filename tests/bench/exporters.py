"""The exporters under test, as child processes that answer on loopback."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporter.catalog.load import BUILT_IN, load
from exporter.demo.cluster import HOST, Cluster, free_port

PROGRAM = "prometheus-postgres-exporter"
QUERIES = Path("/usr/share/doc/prometheus-postgres-exporter/examples/queries.yaml")
"""What Debian's package brings for the metrics of each table and each statement."""

_START_SECONDS = 60.0

# What Prometheus 2.42 sends.
_HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "User-Agent": "Prometheus/2.42.0",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}


@dataclass(frozen=True)
class Exporter:
    """How to start one exporter."""

    name: str
    role: str
    """The role it logs in as; no other has it."""
    port: int
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def ours(cluster: Cluster, database: str, *, full: bool = False) -> Exporter:
    """Ours as it is shipped; `full` switches everything on, with every table's series."""
    return _ours("pgvigil", "pgvigil", cluster, database, _collectors(full, fresh=False))


def ours_fresh(cluster: Cluster, database: str, *, full: bool = False) -> Exporter:
    """Ours with `cache: 0` everywhere and no budget of cost: each scrape collects everything anew."""
    made = _ours("pgvigil, cache 0", "pgvigil_fresh", cluster, database, _collectors(full, fresh=True))
    return replace(made, environment={**made.environment, "PGVIGIL_COST_BUDGET": "0"})


def theirs(cluster: Cluster, database: str, queries: Path | None = None) -> Exporter:
    """Debian's; `queries` adds the series of tables and statements."""
    port = free_port()
    extended = (f"--extend.query-path={queries}",) if queries else ()
    command = (PROGRAM, f"--web.listen-address={HOST}:{port}", "--log.level=error", *extended)
    dsn = cluster.dsn(database, "postgres_exporter") + "?sslmode=disable"
    return Exporter("postgres_exporter", "postgres_exporter", port, command, {"DATA_SOURCE_NAME": dsn})


ROLES = ("pgvigil", "pgvigil_fresh", "postgres_exporter")


def their_version() -> str:
    """The version of Debian's exporter; empty where it is not installed."""
    if shutil.which(PROGRAM) is None:
        return ""
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", done.stdout + done.stderr)
    return found[1].rstrip(",") if found else "unknown"


def corrected_queries(folder: Path) -> Path | None:
    """Debian's queries with the columns of pg_stat_statements named as since PostgreSQL 13; None without them."""
    if not QUERIES.is_file():
        return None
    text = re.sub(r"\b(total|min|max|mean|stddev)_time / 1000", r"\1_exec_time / 1000", QUERIES.read_text())
    corrected = folder / "queries.yaml"
    corrected.write_text(text)
    return corrected


class Running:
    """An exporter that runs; each scrape reads the whole page over one connection that is kept."""

    def __init__(self, exporter: Exporter, pid: int) -> None:
        self.exporter = exporter
        self.pid = pid
        self._connection = http.client.HTTPConnection(HOST, exporter.port, timeout=60)

    def scrape(self, *, gzip: bool = True) -> tuple[float, bytes]:
        """Seconds until the last byte of the page was read, and the bytes as they came."""
        started = time.perf_counter()
        headers = _HEADERS | {"Accept-Encoding": "gzip" if gzip else "identity"}
        try:
            body = self._read(headers)
        except ConnectionError:  # a server may close a connection that rested; Prometheus opens another one as well
            self._connection.close()
            body = self._read(headers)
        return time.perf_counter() - started, body

    def _read(self, headers: Mapping[str, str]) -> bytes:
        self._connection.request("GET", "/metrics", headers=headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"{self.exporter.name} answered {response.status}: {body[:500]!r}")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def running(exporter: Exporter, folder: Path) -> Iterator[Running]:
    """Start an exporter, and end it in the end; its log is kept in the folder meanwhile."""
    log = folder / f"{exporter.role}.log"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "DATA_SOURCE"))}
    environment = inherited | dict(exporter.environment)
    with log.open("wb") as out:
        process = subprocess.Popen(exporter.command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait_until_it_listens(exporter, process, log)
        found = Running(exporter, process.pid)
        yield found
        found.close()
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_listens(exporter: Exporter, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex((HOST, exporter.port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{exporter.name} does not listen:\n{log.read_text(errors='replace')[-3000:]}")


def _ours(name: str, role: str, cluster: Cluster, database: str, collectors: object) -> Exporter:
    port = free_port()
    environment = {
        "PGVIGIL_DSN": cluster.dsn(database, role) + "?sslmode=disable",
        "PGVIGIL_LISTEN": f"{HOST}:{port}",
        "PGVIGIL_COLLECTORS": json.dumps(collectors),
        "PGVIGIL_LOG_LEVEL": "error",
        "PGVIGIL_SAMPLE_INTERVAL": "0",  # scrapes are compared; nobody else looks between them
    }
    return Exporter(name, role, port, (sys.executable, "-m", "exporter", "serve"), environment)


def _collectors(full: bool, fresh: bool) -> dict[str, dict[str, int | bool]]:
    """The settings of each collector: everything on, with per-table series without a limit; and nothing cached."""
    changes: dict[str, dict[str, int | bool]] = {}
    for collector in load(BUILT_IN):
        per_table = collector.scope == "database" and collector.labels == ("schemaname", "relname")
        change: dict[str, int | bool] = {"limit": 0} if full and per_table and collector.limit else {}
        change |= {"enabled": True} if full and not collector.enabled else {}
        change |= {"cache": 0} if fresh and collector.cache else {}
        if change:
            changes[collector.name] = change
    return changes
