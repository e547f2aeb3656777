"""Starts a program that answers over HTTP, waits until it does, and ends it."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

READY_SECONDS = 20.0


@contextmanager
def running(command: Sequence[str], log: Path, ready: str, seconds: float = READY_SECONDS) -> Iterator[None]:
    """A program that answers at the address `ready`; stopped in the end."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        give_up = time.monotonic() + seconds
        while not _answers(ready):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        yield
    finally:
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
