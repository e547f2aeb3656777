"""Servers whose data folder is a copy: initdb, which costs five times as much, runs once for each build."""

import hashlib
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from servers import build, kept

from exporter.demo.build import Build, environment, hand_over, run_as
from exporter.demo.cluster import SUPERUSER, Cluster
from exporter.sql import literal


class _Copy(Cluster):
    """A server with a copy of another's data. All copies of one have the same system identifier."""

    original: Path

    def init(self) -> None:
        """Copy the data folder; its settings are added after those of the original."""
        shutil.copytree(self.original, self.data)
        self.data.chmod(0o700)  # the server starts in no other
        logins = self.data / "pg_hba.conf"
        logins.write_text(re.sub(r"\btrust$", self.auth, logins.read_text("utf-8"), flags=re.MULTILINE), "utf-8")
        self.configure(({"password_encryption": "md5"} if self.auth == "md5" else {}) | dict(self.settings))
        hand_over(self.data)
        if self.password:
            self._run_alone(f"ALTER ROLE {SUPERUSER} PASSWORD {literal(self.password)}")

    def _run_alone(self, statement: str) -> None:
        """Run a statement before there is a server that takes logins."""
        command = [str(self.build.bin / "postgres"), "--single", "-j", "-D", str(self.data), "postgres"]
        done = subprocess.run(
            command,
            **run_as(),
            input=f"{statement}\n\n",
            env=environment(self.build),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def cluster(major: int, **options: Any) -> Cluster:
    """Return a server that is not started yet.

    Args:
        major: its version.
        options: those of Cluster.

    """
    copy = _Copy(build(major), **options)
    copy.original = _original(build(major))
    return copy


@cache
def _original(build: Build) -> Path:
    """The data folder that initdb of a build makes, kept for other processes and runs."""
    postgres = build.bin / "postgres"
    said = subprocess.run([postgres, "--version"], env=environment(build), capture_output=True, text=True, check=True)
    name = hashlib.sha256(f"{postgres} {said.stdout}".encode()).hexdigest()[:16]

    def make(folder: Path) -> Path:
        original = Cluster(build)  # among the temporary files, where the servers' user may write
        try:
            original.init()
            return shutil.copytree(original.data, folder / name)
        finally:
            original.remove()

    return kept(f"data-{name}", make)
