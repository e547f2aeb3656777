"""Starts a program that answers over HTTP, waits until it does, and ends it."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from patience import wait_until


@contextmanager
def running(command: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    """A program that answers at the address `ready`; stopped in the end."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: _answers(ready) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        end(process)


def end(process: subprocess.Popen[bytes] | psutil.Popen) -> None:
    """End a program; one that does not heed SIGTERM is killed."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
