"""Measures what share of a core this process uses, by which looks yield when it has much to do."""

import time
from collections.abc import Callable

_WINDOW_SECONDS = 10.0
"""Seconds over which the share is measured: a single page is no load."""

_MOST_SHARE = 0.25
"""Share of a core from which looks come less often: scrapes have the rest, and room for a bad moment."""


class OwnLoad:
    """The load of one process, which all its targets share."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._measured_at, self._spent = clock(), cpu()
        self._share = 0.0

    @property
    def slowdown(self) -> float:
        """Factor, 1 or more, by which looks are further apart: twice the share of a core, half as many looks."""
        now = self._clock()
        if (seconds := now - self._measured_at) >= _WINDOW_SECONDS:
            spent = self._cpu()
            self._share = (spent - self._spent) / seconds
            self._measured_at, self._spent = now, spent
        return max(self._share / _MOST_SHARE, 1.0)
