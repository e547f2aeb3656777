"""Keeps garbage collections short, however much there is that lives for long."""

import ctypes
import gc
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How often to collect, and when to freeze."""

    cpu_seconds: float = 0.25
    """CPU time of the process between two collections: what it makes meanwhile is looked at within milliseconds."""
    busy_seconds: float = 0.05
    """CPU time between two steps from which the next one should come soon."""
    long_seconds: float = 0.004
    """CPU time from which a collection is long: what it has kept is not looked at again."""
    warm_up_seconds: float = 900.0
    """Seconds in which memory grows because of what is served: until the longest cache has been filled."""
    bound_seconds: float = 60.0
    """Seconds between two counts of what is frozen, which take milliseconds."""
    growth: float = 1.5
    """How many times as many objects as there were may be frozen, before all of them are looked at again."""


class GarbageCollection:
    """Collects often enough to have little to look at, and freezes what is left: it stays, most likely.

    Python's own full collections look at all objects, which stops 200 targets for a third of a second. A frozen object
    is freed as any other when nothing refers to it; only those that refer to each other are not. Whatever they may be,
    all frozen objects are looked at once more when there are half as many again.
    """

    def __init__(self, pace: Pace = Pace()) -> None:
        self._pace = pace
        self._cpu = 0.0
        """CPU time of the process at the last collection."""
        self._stepped = 0.0
        """CPU time of the process at the last step."""
        self._bound_at = time.monotonic() + pace.warm_up_seconds
        self._most: float | None = None
        """Frozen objects that there may be; None while memory grows because of what is served."""

    def begin(self) -> None:
        """Give back what importing and loading needed for a moment, and freeze the rest."""
        gc.collect()
        gc.freeze()
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # another libc: nothing to give back

    def step(self) -> bool:
        """Collect if the process has worked enough since; return whether it works, and so needs steps every second."""
        before, self._stepped = self._stepped, time.process_time()
        if self._stepped - self._cpu >= self._pace.cpu_seconds:
            self._collect()
        return self._stepped - before >= self._pace.busy_seconds

    def _collect(self) -> None:
        began = time.thread_time()
        gc.collect()
        if time.thread_time() - began >= self._pace.long_seconds:
            gc.freeze()
        if time.monotonic() >= self._bound_at:
            self._bound_at = time.monotonic() + self._pace.bound_seconds
            self._bound()
        self._cpu = time.process_time()

    def _bound(self) -> None:
        """Look at all frozen objects again when they have grown."""
        if self._most and gc.get_freeze_count() > self._most:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._most = None
        self._most = self._most or self._pace.growth * gc.get_freeze_count()
