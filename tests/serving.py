"""Runs `pgvigil serve` as its users do: a process of its own, asked over HTTP."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from patience import SECONDS, wait_until

from exporter.demo.cluster import free_port


def environment(**settings: str) -> dict[str, str]:
    """Our environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGVIGIL_", "PG"))}
    return kept | {f"PGVIGIL_{name.upper()}": value for name, value in settings.items()}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass
class Exporter:
    """A running exporter."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str = "/metrics", headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask for a page."""
        return httpx.get(self.url + path, headers=headers, timeout=SECONDS)

    def answers(self) -> bool:
        """Return whether it serves pages yet; one that has ended fails the test with what it said."""
        try:
            return self.get("/healthz").is_success
        except httpx.RemoteProtocolError:
            return True  # it speaks TLS
        except httpx.TransportError:
            assert self.process.poll() is None, self.process.communicate()[1]
            return False


@contextmanager
def serving(*arguments: str, **settings: str) -> Iterator[Exporter]:
    """An exporter on a free port of its own, ready to answer; killed if it still runs at the end."""
    with serving_in(Surroundings(), *arguments, **settings) as exporter:
        yield exporter


@dataclass(frozen=True)
class Surroundings:
    """Where a process runs."""

    files: int | None = None
    """How many files it may open."""
    stderr: int = subprocess.PIPE
    within: Sequence[str] = ()
    """A command that turns into the one that is given to it."""
    variables: Mapping[str, str] = field(default_factory=dict)

    def limit(self) -> None:
        """Limit this process."""
        if self.files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))


@contextmanager
def serving_in(surroundings: Surroundings, *arguments: str, **settings: str) -> Iterator[Exporter]:
    """One in other surroundings than usual."""
    port = free_port()
    process = subprocess.Popen(
        [*surroundings.within, sys.executable, "-m", "exporter", *arguments, "serve"],
        env={**environment(listen=f"127.0.0.1:{port}", **settings), **surroundings.variables},
        stderr=surroundings.stderr,
        text=True,
        preexec_fn=surroundings.limit,
    )
    exporter = Exporter(f"http://127.0.0.1:{port}", process)
    try:
        wait_until(exporter.answers)
        yield exporter
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()
