"""Waits and measures on a machine that may be busy with other work."""

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

SECONDS = 60.0
"""Until then whatever is waited for happens even on a busy machine; what takes longer never does."""

EVERY = 0.05
"""Seconds between two looks at least."""

REST = 4
"""Seconds of rest for each that a look takes, up to half a second: a page costs the exporter and its server much more
than a file.
"""


async def until(holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return the first answer that is true, of a function or of a coroutine; AssertionError when there is none."""
    give_up = time.monotonic() + seconds
    while True:
        looks_at = time.monotonic()
        answer = holds()
        if isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < give_up, f"not within {seconds:g} s"
        await asyncio.sleep(_rest(looks_at))


def wait_until(holds: Callable[[], Any], every: float = EVERY) -> Any:
    """Return the first answer that is true, where no loop runs; AssertionError when there is none."""
    give_up = time.monotonic() + SECONDS
    while True:
        looks_at = time.monotonic()
        if answer := holds():
            return answer
        assert time.monotonic() < give_up, f"not within {SECONDS:g} s"
        time.sleep(max(_rest(looks_at), every))


def _rest(looks_at: float) -> float:
    """Seconds to rest after a look that began at this time."""
    return min(max(REST * (time.monotonic() - looks_at), EVERY), 0.5)


class Stopwatch:
    """Counts seconds, without those for which the machine ran other programs while we, or an exporter, could have run.

    Linux keeps account of them by thread; elsewhere all seconds count.
    """

    def __init__(self, *pids: int) -> None:
        self._threads = ["thread-self", *map(str, pids)]
        self._started, self._withheld = time.monotonic(), self._waited()

    @property
    def seconds(self) -> float:
        """Seconds since it was made, in the thread that made it."""
        return time.monotonic() - self._started - (self._waited() - self._withheld)

    def _waited(self) -> float:
        """Seconds that the threads were ready to run and did not."""
        accounts = [Path("/proc", thread, "schedstat") for thread in self._threads]
        return sum(int(account.read_text().split()[1]) for account in accounts if account.exists()) / 1e9
