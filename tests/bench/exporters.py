"""The exporters under test, as child processes that answer on loopback."""

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from debian import newer
from programs import end
from servers import MissingError

from exporter.catalog.load import BUILT_IN, load
from exporter.commands.compatibility import names, our_name, served
from exporter.demo.cluster import HOST, Cluster, free_port

PROGRAM = "prometheus-postgres-exporter"
QUERIES = Path("/usr/share/doc/prometheus-postgres-exporter/examples/queries.yaml")
"""Debian 12's custom queries, which add the metrics of each table and each statement."""

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
    """Everything needed to start one exporter."""

    name: str
    role: str
    """The role it logs in as; no other has it."""
    port: int
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """One way to set a program up; `{dsn}` and the other PLACEHOLDERS in command and environment are filled in."""

    program: str
    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name in reports."""
        return f"{self.program}, {self.name}" if self.name else self.program

    @property
    def role(self) -> str:
        """The role it logs in as."""
        return re.sub(r"\W+", "_", self.title).lower()

    def on(self, cluster: Cluster, database: str) -> Exporter:
        """Point it at a database, and give it a port."""
        port = free_port()
        values = {
            "dsn": cluster.dsn(database, self.role) + "?sslmode=disable",
            "address": f"{HOST}:{port}",
            "port": str(port),
            "role": self.role,
            "database": database,
        }
        command = tuple(filled(word, values) for word in self.command)
        environment = {name: filled(value, values) for name, value in self.environment.items()}
        return Exporter(self.title, self.role, port, command, environment)


PLACEHOLDERS = ("dsn", "address", "port", "role", "database")


def filled(text: str, values: Mapping[str, str]) -> str:
    """Fill in the placeholders; other braces, such as those of JSON, stay."""
    return re.sub(rf"{{({'|'.join(PLACEHOLDERS)})}}", lambda found: values[found[1]], text)


def _ours(name: str, collectors: Mapping[str, object] | None = None, **settings: str) -> Way:
    environment = {f"PGVIGIL_{key.upper()}": value for key, value in settings.items()}
    environment |= {"PGVIGIL_COLLECTORS": json.dumps(collectors)} if collectors else {}
    environment |= {"PGVIGIL_DSN": "{dsn}", "PGVIGIL_LISTEN": "{address}"}
    return Way("pgvigil", name, (sys.executable, "-m", "exporter", "serve"), environment)


def subjects(*where: str) -> frozenset[str]:
    """Name our collectors whose subject postgres_exporter has too, by default or with a flag."""
    catalog = load(BUILT_IN)
    always = served(catalog)
    owners = {metric.name: collector.name for collector in catalog for metric in collector.metrics}
    # Settings are one subject; that some of them are metrics of other collectors makes no other subject theirs.
    theirs = [each for each in names() if each.where in where and not each.name.startswith("pg_settings_")]
    return frozenset({"settings"} | {owners[ours] for each in theirs if (ours := our_name(each, always)) in owners})


def _equal(name: str, *where: str) -> Way:
    """Limit ours to those subjects, read at every scrape of the same database, without the look between scrapes."""
    also = subjects(*where)
    collectors = {each.name: {"cache": 0, "enabled": each.name in also} for each in load(BUILT_IN)}
    more = {"cost_budget": "0", "sample_interval": "0", "include_databases": "{database}"}
    return _ours(name, collectors, **more)


def _all_series() -> dict[str, dict[str, object]]:
    """Switch every collector on, and lift the limits of those of tables."""
    per_table = {each.name for each in load(BUILT_IN) if each.labels == ("schemaname", "relname")}
    return {each.name: {"enabled": True} | ({"limit": 0} if each.name in per_table else {}) for each in load(BUILT_IN)}


STATEMENTS = "--collector.stat_statements"
"""The flag with which postgres_exporter reads pg_stat_statements."""

SHIPPED = _ours("as shipped")
FRESH = _ours("cache 0", {each.name: {"cache": 0} for each in load(BUILT_IN)}, cost_budget="0")
EQUAL = _equal("equal freshness", "default")
EQUAL_STATEMENTS = _equal("equal freshness", "default", STATEMENTS)
ALL_SERIES = _ours("all series", _all_series())


def postgres_exporter(program: Path | str = PROGRAM, *flags: str) -> Way:
    """Set theirs up, with some flags; it caches nothing."""
    listen = ("--web.listen-address={address}", "--log.level=error")
    return Way("postgres_exporter", "", (str(program), *listen, *flags), {"DATA_SOURCE_NAME": "{dsn}"})


def peer(text: str) -> Way:
    """Read what --peer says: NAME=COMMAND."""
    name, equals, command = text.partition("=")
    if not (name and equals and shlex.split(command)):
        raise ValueError(f"{text}: write NAME=COMMAND")
    return Way(name, "", tuple(shlex.split(command)))


def newest() -> Path | None:
    """Find the newest postgres_exporter to be had: that of a newer Debian, else the installed one."""
    try:
        return newer(PROGRAM)
    except MissingError:
        return Path(found) if (found := shutil.which(PROGRAM)) else None


def version(program: Path) -> str:
    """Ask a postgres_exporter for its version."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", done.stdout + done.stderr)
    return found[1].rstrip(",") if found else "unknown"


def ours(cluster: Cluster, database: str) -> Exporter:
    """Ours as it is shipped."""
    return _ours("").on(cluster, database)


def theirs(cluster: Cluster, database: str, queries: Path | None = None) -> Exporter:
    """The installed one; `queries` adds series of tables and statements."""
    extended = (f"--extend.query-path={queries}",) if queries else ()
    return postgres_exporter(PROGRAM, *extended).on(cluster, database)


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

    def __init__(self, exporter: Exporter, pid: int, listening_seconds: float) -> None:
        self.exporter = exporter
        self.pid = pid
        self.listening_seconds = listening_seconds
        """Seconds from its start until it listened."""
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
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(exporter.command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait_until_it_listens(exporter, process, log)
        found = Running(exporter, process.pid, time.monotonic() - started)
        yield found
        found.close()
    finally:
        end(process)


def _wait_until_it_listens(exporter: Exporter, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex((HOST, exporter.port)) == 0:
                return
        time.sleep(0.005)
    raise RuntimeError(f"{exporter.name} does not listen:\n{log.read_text(errors='replace')[-3000:]}")
