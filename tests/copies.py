"""Servers whose data folder is a copy: initdb, which costs five times as much, runs once for each build."""

import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from servers import build, kept

from exporter.demo.build import Build, environment, hand_over
from exporter.demo.cluster import Cluster


class _Copy(Cluster):
    """A server with a copy of another's data. All copies of one have the same system identifier."""

    original: Path

    def init(self) -> None:
        """Copy the data folder; its settings are added after those of the original."""
        shutil.copytree(self.original, self.data)
        self.data.chmod(0o700)  # the server starts in no other
        hand_over(self.data)
        self.configure(self.settings)


def cluster(major: int, **options: Any) -> Cluster:
    """Return a server that is not started yet; one with a login of its own has data of its own.

    Args:
        major: its version.
        options: those of Cluster.

    """
    if {"auth", "password"} & options.keys():
        return Cluster(build(major), **options)
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
