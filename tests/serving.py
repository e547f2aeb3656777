"""Runs `pgvigil serve` as its users do, a process of its own that is asked over HTTP, and other commands in ours."""

import io
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import httpx
from patience import SECONDS, wait_until

from exporter.__main__ import main
from exporter.demo.cluster import free_port


def environment(**settings: str) -> dict[str, str]:
    """Our environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGVIGIL_", "PG"))}
    return kept | {f"PGVIGIL_{name.upper()}": value for name, value in settings.items()}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, with these settings and no others."""
    return run_in(environment(**settings), *arguments)


def run_in(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one in an environment: in this process, since the start of another costs more than most commands."""
    if "serve" in arguments:  # it minds signals
        command = [sys.executable, "-m", "exporter", *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    with (
        patch.dict(os.environ, variables, clear=True),
        _own_log(),
        _captured() as (output, errors),
        ThreadPoolExecutor(1) as beside,  # who asks may have a loop of its own
    ):
        code = beside.submit(_exit_code, arguments).result()
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def _exit_code(arguments: Sequence[str]) -> int:
    """Run the command line as the interpreter does."""
    with patch.object(sys, "argv", ["pgvigil", *arguments]):
        try:
            main()
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


@contextmanager
def _own_log() -> Iterator[None]:
    """Let a command configure its log, and bring back ours."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is written to standard output and standard error, by their streams or their numbers; whole afterwards."""
    read = io.StringIO(), io.StringIO()
    with ExitStack() as undo:
        files = [undo.enter_context(tempfile.TemporaryFile()) for _ in read]
        for number, (name, file) in enumerate(zip(("stdout", "stderr"), files, strict=True), 1):
            getattr(sys, name).flush()
            kept = os.dup(number)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
            stream = undo.enter_context(open(number, "w", encoding="utf-8", closefd=False))
            undo.enter_context(patch.object(sys, name, stream))
        yield read
        for handler in logging.getLogger().handlers:
            handler.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        for text, file in zip(read, files, strict=True):
            file.seek(0)
            text.write(file.read().decode())


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
