"""Runs a PostgreSQL server with its own data folder."""

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import asyncpg

from exporter.demo.build import Build, environment, hand_over, reachable, run_as
from exporter.errors import ClusterError

FAST: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
"""Settings for a server whose data is disposable."""

HOST = "127.0.0.1"
SUPERUSER = "postgres"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
LOG_LINES = 20

# Below the ports that systems give to outgoing connections, so that a restart finds its own port free.
PORTS = range(20_000, 30_000)

# Its standard input is a pipe from us: it ends when we do, whatever ended us, and then the server has to end as well.
WATCH = 'read -r _; kill -QUIT "$0"'

T = TypeVar("T")


def free_port() -> int:
    """Return a free TCP port of loopback."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as attempt, suppress(OSError):
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind((HOST, port))
            return port
    raise ClusterError(f"no free port between {PORTS.start} and {PORTS.stop}")


class Cluster:
    """One PostgreSQL server with its own data folder, on a TCP port of loopback.

    As a context manager it is initialised if it has no data yet, started, and in the end stopped and removed with its
    folder. Without a folder it gets one of its own among the temporary ones. Whatever ends our process ends the server.
    """

    def __init__(
        self,
        build: Build,
        folder: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] = FAST,
        auth: str = "trust",
        password: str | None = None,
    ) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="pgvigil-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        hand_over(self.folder, below=False)
        self.build = reachable(build, self.folder / "build")
        self.data = self.folder / "data"
        self.port = port or free_port()
        self.settings = settings
        self.auth = auth
        self.password = password
        self._server: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the server, with new data if it has none."""
        with ExitStack() as undo:
            undo.callback(self.remove)
            if not self.data.exists():
                self.init()
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        self.remove()

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        if self._server is None:
            raise ClusterError("the server is not running")
        return self._server.pid

    @property
    def running(self) -> bool:
        """Return whether the postmaster lives."""
        return self._server is not None and self._server.poll() is None

    @property
    def log(self) -> str:
        """The end of the server's log."""
        path = self.folder / "server.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-LOG_LINES:])

    def dsn(self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """The libpq URI of a database; the superuser's password is filled in."""
        word = self.password if password is None and user == SUPERUSER else password
        login = quote(user, safe="") + (f":{quote(word, safe='')}" if word else "")
        return f"postgresql://{login}@{HOST}:{self.port}/{quote(database, safe='')}"

    def init(self) -> None:
        """Create the data folder."""
        options = ["--no-sync", "--username", SUPERUSER, "--auth", self.auth, "--encoding", "UTF8", "--locale", "C"]
        secret = self.folder / "password"
        if self.password:
            secret.write_text(self.password)
            secret.chmod(0o600)
            hand_over(secret)
            options += ["--pwfile", str(secret)]
        self._run("initdb", "-D", str(self.data), *options)
        secret.unlink(missing_ok=True)
        self.configure({"listen_addresses": HOST, "unix_socket_directories": "", **self.settings})

    def configure(self, settings: Mapping[str, str]) -> None:
        """Append settings to postgresql.conf, where the last one of a name counts."""
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {_quoted(value)}\n" for name, value in settings.items())

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        self._launch()
        self._wait_ready(START_SECONDS)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server; one that does not within the time is stopped the harder way."""
        if self._server is None:
            return
        gently = [signal.SIGINT] if mode == "fast" else []
        for force in (*gently, signal.SIGQUIT, signal.SIGKILL):
            if self._ended_by(self._server, force):
                break
        self._reap()

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def query(self, sql: str, *arguments: object, database: str = "postgres", user: str = SUPERUSER) -> list[Any]:
        """Run one statement in a session of its own and return its rows, from code that is not asynchronous."""
        return _wait_for(self._query(sql, *arguments, dsn=self.dsn(database, user)))

    def value(self, sql: str, *arguments: object, database: str = "postgres", user: str = SUPERUSER) -> Any:
        """The first column of the first row of a query."""
        return self.query(sql, *arguments, database=database, user=user)[0][0]

    def execute(self, sql: str, database: str = "postgres", user: str = SUPERUSER) -> None:
        """Run statements separated by semicolons, which share one transaction as in psql -c."""
        _wait_for(self._execute(sql, dsn=self.dsn(database, user)))

    async def _query(self, sql: str, *arguments: object, dsn: str) -> list[Any]:
        session = await asyncpg.connect(dsn, ssl="disable")
        try:
            return list(await session.fetch(sql, *arguments))
        finally:
            await session.close()

    async def _execute(self, sql: str, *, dsn: str) -> None:
        session = await asyncpg.connect(dsn, ssl="disable")
        try:
            await session.execute(sql)
        finally:
            await session.close()

    def _launch(self) -> None:
        """Start the server, and the watch that ends it when we end."""
        if self.running:
            raise ClusterError(f"the server runs already, as process {self.pid}")
        self._reap()
        command = [str(self.build.bin / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self._server = self._popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        watch = ["/bin/sh", "-c", WATCH, str(self.pid)]
        self._watch = self._popen(watch, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _wait_ready(self, seconds: float) -> None:
        """Wait until the server takes connections, which it says in its own lock file, as it does to pg_ctl."""
        give_up = time.monotonic() + seconds
        while not self._ready():
            if not self.running:
                raise self._failed("ended instead of starting")
            if time.monotonic() > give_up:
                raise self._failed(f"took no connections within {seconds:g} s")
            time.sleep(0.01)

    def _ready(self) -> bool:
        """Return whether the lock file is of this process and says that it takes connections."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and int(lines[0]) == self.pid and lines[7].strip() == "ready"

    def _ended_by(self, server: subprocess.Popen[bytes], force: signal.Signals) -> bool:
        """Send a signal, and return whether the server ended in time. A server that was frozen is woken for it."""
        server.send_signal(force)
        server.send_signal(signal.SIGCONT)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _reap(self) -> None:
        """Forget a server that has ended, and end its watch before it can signal a process id that is used again."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
        self._server = self._watch = None

    def _run(self, program: str, *arguments: str) -> None:
        """Run a program of the build to its end."""
        command = [str(self.build.bin / program), *arguments]
        done = subprocess.run(
            command, **run_as(), env=environment(self.build), cwd=self.folder, capture_output=True, text=True
        )
        if done.returncode:
            raise ClusterError(f"{program} failed:\n{done.stdout}{done.stderr}")

    def _popen(self, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, so that Ctrl-C at the terminal reaches it through us alone."""
        return subprocess.Popen(
            command, **run_as(), **streams, env=environment(self.build), cwd=self.folder, start_new_session=True
        )

    def _failed(self, what: str) -> ClusterError:
        """Stop what is left of the server and say what its log ends with."""
        log = self.log
        self.stop("immediate")
        return ClusterError(f"PostgreSQL {what}; its log ends with:\n{log}")


def _quoted(value: str) -> str:
    """Quote a value for postgresql.conf."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread of its own, because the caller's may already run a loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
