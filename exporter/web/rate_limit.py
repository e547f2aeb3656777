"""A token bucket. Pure but for its clock."""

import time
from collections.abc import Callable


class Bucket:
    """Lets `burst` requests through at once, and then one each interval.

    Args:
        interval: seconds.
        burst: requests; 0 lets none through.
        clock: in seconds.

    """

    def __init__(self, interval: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self.burst = burst
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def allows(self) -> bool:
        """Take a token; return whether there was one."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) / self.interval, float(self.burst))
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
