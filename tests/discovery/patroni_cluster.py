"""A Patroni cluster on loopback: etcd, and three PostgreSQL with their REST APIs."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml
from patience import wait_until
from programs import end, running
from servers import MissingError, build, kept

from exporter.demo.build import hand_over, run_as
from exporter.demo.cluster import HOST, free_port

ETCD = ("etcd", "Debian's package is called etcd-server")

PATRONI = ("patroni[etcd3]==4.1.5", "psycopg[binary]")
"""From PyPI, in an environment of its own: it runs as the user of the servers, who may not see ours."""

SYSTEM_PYTHON = Path("/usr/bin/python3")

SCOPE = "orders"

SETTINGS = {
    "ttl": 20,
    "loop_wait": 2,
    "retry_timeout": 6,
    "maximum_lag_on_failover": 1048576,
    "postgresql": {
        "use_pg_rewind": True,
        "use_slots": True,
        "parameters": {"wal_log_hints": "on", "shared_buffers": "16MB", "max_connections": 40, "fsync": "off"},
    },
}


def installed() -> Path:
    """The Python that has Patroni; MissingError says why there is none."""
    return kept("patroni-4.1.5", _install) / "bin" / "python"


def _install(folder: Path) -> Path:
    python = SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable)
    environment = folder / "patroni-4.1.5"
    commands: list[list[str]] = [
        [str(python), "-m", "venv", str(environment)],
        [str(environment / "bin" / "pip"), "install", "--quiet", *PATRONI],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise MissingError(f"patroni: {done.stderr.strip()[-300:]}")
    return environment


@dataclass
class Node:
    """One PostgreSQL with its Patroni."""

    name: str
    folder: Path
    port: int = field(default_factory=free_port)
    rest_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its REST API."""
        return f"http://{HOST}:{self.rest_port}"

    def start(self, python: Path, etcd: str, major: int) -> None:
        """Start it, as an unprivileged user."""
        self.folder.mkdir(exist_ok=True)
        found = build(major)
        access = {"superuser": {"username": "postgres"}, "replication": {"username": "postgres"}}
        config = {
            "scope": SCOPE,
            "name": self.name,
            "restapi": {"listen": f"{HOST}:{self.rest_port}", "connect_address": f"{HOST}:{self.rest_port}"},
            "etcd3": {"host": etcd},
            "bootstrap": {"dcs": SETTINGS, "initdb": ["data-checksums", {"encoding": "UTF8"}]},
            "postgresql": {
                "listen": f"{HOST}:{self.port}",
                "connect_address": f"{HOST}:{self.port}",
                "data_dir": str(self.folder / "data"),
                "bin_dir": str(found.bin),
                "pgpass": str(self.folder / "pgpass"),
                "authentication": access,
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "parameters": {"unix_socket_directories": str(self.folder)},
            },
        }
        (self.folder / "patroni.yml").write_text(yaml.safe_dump(config))
        hand_over(self.folder, below=False)
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}
        if found.lib:
            environment["LD_LIBRARY_PATH"] = str(found.lib)
        with (self.folder.parent / f"{self.name}.log").open("a") as log:
            self.process = subprocess.Popen(
                [python, "-m", "patroni", self.folder / "patroni.yml"],
                env=environment,
                stdout=log,
                stderr=log,
                **run_as(),
            )

    def kill(self) -> None:
        """Kill Patroni and its PostgreSQL, as when a machine is gone."""
        assert self.process
        patroni = psutil.Process(self.process.pid)
        everything = [patroni, *patroni.children(recursive=True)]
        file = self.folder / "data" / "postmaster.pid"
        if file.exists():
            pid = int(file.read_text().splitlines()[0])
            if psutil.pid_exists(pid):
                server = psutil.Process(pid)
                everything += [server, *server.children(recursive=True)]
        for each in everything:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop both."""
        if self.process and self.process.poll() is None:
            end(self.process)


@dataclass
class PatroniCluster:
    """Three of them."""

    nodes: Sequence[Node]
    python: Path
    etcd: str
    major: int

    def members(self) -> list[dict[str, Any]]:
        """What the first API that answers says."""
        for node in self.nodes:
            try:
                with urllib.request.urlopen(f"{node.url}/cluster", timeout=5) as answer:
                    found: list[dict[str, Any]] = json.load(answer)["members"]
                    return found
            except (urllib.error.URLError, OSError):
                continue
        return []

    def leader(self) -> Node | None:
        """The node that is the primary; None while there is none."""
        names = [each["name"] for each in self.members() if each["role"] == "leader" and each["state"] == "running"]
        return next((node for node in self.nodes if node.name in names), None)

    def is_whole(self) -> bool:
        """Whether there is a primary, and two that stream from it."""
        return sorted(each["state"] for each in self.members()) == ["running", "streaming", "streaming"]


@contextmanager
def patroni_cluster(etcd: Path, major: int) -> Iterator[PatroniCluster]:
    """A cluster of three, whole when it is handed out."""
    with TemporaryDirectory(prefix="pgvigil-patroni-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)  # the servers run as another user
        with _patroni_cluster(folder, etcd, major) as cluster:
            yield cluster


@contextmanager
def _patroni_cluster(folder: Path, etcd: Path, major: int) -> Iterator[PatroniCluster]:
    client, peer = (f"http://{HOST}:{free_port()}" for _ in range(2))
    command = [str(etcd), "--name=etcd", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={client}"]
    command += [f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", "--log-level=error"]
    command += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}"]
    python = installed()
    with running(command, folder / "etcd.log", f"{client}/health"), ExitStack() as stack:
        nodes = [Node(f"db{number}", folder / f"db{number}") for number in (1, 2, 3)]
        made = PatroniCluster(nodes, python, client.removeprefix("http://"), major)
        for node in nodes:
            node.start(python, made.etcd, major)
            stack.callback(node.stop)
            wait_until(lambda: made.leader() is not None, every=0.5)
        wait_until(made.is_whole, every=0.5)
        yield made
