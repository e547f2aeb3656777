"""A clock that a test sets: what schedules, waits or measures is handed one instead of time.monotonic."""

from dataclasses import dataclass


@dataclass
class Clock:
    """Stands still until a test advances it: `Schedule(..., clock=clock)`, then `clock.advance(15)`."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds, as time.monotonic does."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
