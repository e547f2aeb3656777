"""Servers whose data folder is a copy: initdb, which costs five times as much, runs once for each version."""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from servers import build

from exporter.demo.build import hand_over
from exporter.demo.cluster import Cluster


class _Copy(Cluster):
    """A server with a copy of another's data. All copies of one have the same system identifier."""

    original: Path

    def init(self) -> None:
        """Copy the data folder; its settings are added after those of the original."""
        shutil.copytree(self.original, self.data)
        hand_over(self.data)
        self.configure(self.settings)


class Copies(AbstractContextManager["Copies"]):
    """Makes servers, and keeps the data that they are copies of."""

    def __init__(self) -> None:
        self._originals: dict[int, Cluster] = {}

    def cluster(self, major: int, **options: Any) -> Cluster:
        """Return a server that is not started yet; one with a login of its own has data of its own.

        Args:
            major: its version.
            options: those of Cluster.

        """
        if {"auth", "password"} & options.keys():
            return Cluster(build(major), **options)
        if major not in self._originals:
            self._originals[major] = Cluster(build(major))
            self._originals[major].init()
        copy = _Copy(build(major), **options)
        copy.original = self._originals[major].data
        return copy

    def __exit__(self, *_: object) -> None:
        """Remove the data."""
        for original in self._originals.values():
            original.remove()
