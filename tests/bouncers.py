"""Runs PgBouncer in front of a server of the tests, as an unprivileged user even when started by root."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psycopg
from patience import wait_until
from servers import program as installed

from exporter.demo.build import hand_over, run_as
from exporter.demo.cluster import HOST, Cluster, free_port

USERS = {"stats": "a-secret", "admin": "", "web": "", "postgres": ""}
"""Of auth_file: user -> password."""

SETTINGS = {
    "auth_type": "trust",
    "stats_users": "stats",
    "admin_users": "admin",
    "pool_mode": "transaction",
    "unix_socket_dir": "",
    "listen_addr": HOST,
}

PGBOUNCER = ("pgbouncer", "Debian's package has that name")


class Bouncer:
    """One PgBouncer. The databases: `shop`, whose pools have one connection, and whatever else the server has."""

    def __init__(
        self,
        server: Cluster,
        databases: Mapping[str, str] | None = None,
        *,
        program: Path | None = None,
        **settings: str,
    ) -> None:
        self.port = free_port()
        self._program = program or installed(*PGBOUNCER)
        self._folder = Path(tempfile.mkdtemp(prefix="pgvigil-"))
        self._server = server
        self._databases = {"shop": "dbname=postgres pool_size=1", "*": ""} | dict(databases or {})
        self._settings = SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def dsn(self, user: str = "stats", database: str = "") -> str:
        return f"postgresql://{user}@{HOST}:{self.port}/{database}"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        users = self._folder / "users.txt"
        users.write_text("".join(f'"{user}" "{password}"\n' for user, password in USERS.items()))
        where = f"host={HOST} port={self._server.port}"
        lines = ["[databases]", *(f"{name} = {where} {more}" for name, more in self._databases.items())]
        given = {**self._settings, "listen_port": str(self.port), "auth_file": str(users)}
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in given.items())]
        config = self._folder / "pgbouncer.ini"
        config.write_text("\n".join(lines) + "\n")
        hand_over(self._folder)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), str(config)], **run_as(), cwd=self._folder, stdout=log, stderr=log
            )
        wait_until(lambda: self._listens() or not self._running())
        assert self._running(), self.log

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it answer nobody, as if it hung."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def admin(self, command: str) -> list[tuple[Any, ...]]:
        """Run a command on the console."""
        with psycopg.connect(
            self.dsn("admin", "pgbouncer"), autocommit=True, cursor_factory=psycopg.ClientCursor
        ) as console:
            answer = console.execute(command)
            return answer.fetchall() if answer.description else []

    def consoles(self) -> int:
        """How many connections the user stats has to the console."""
        return sum(row[1] == "stats" for row in self.admin("SHOW CLIENTS"))

    @property
    def version(self) -> tuple[int, ...]:
        [(text,)] = self.admin("SHOW VERSION")
        return tuple(int(part) for part in text.split()[1].split("."))

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False
