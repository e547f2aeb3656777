"""The clock of tests: it stands until the test moves it. Hand it in wherever code takes a clock."""


class Clock:
    """Counts seconds, as time.monotonic does; the test advances it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let some seconds pass."""
        self.now += seconds
