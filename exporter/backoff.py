"""Pauses after failures: of logins, of jobs, and of queries that ignored their timeout.

`off_loop` and `statement_texts` have their own.
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff: the pause doubles with each failure in a row, up to a bound."""

    first: float
    """Pause after the first failure, in seconds."""
    longest: float
    """Upper bound of a pause, in seconds."""
    jitter: float = 0.0
    """Share of a pause, from 0 to 1, that may be cut at random, so that not all clients return at once."""

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row, counted from 1."""
        doublings = min(failures - 1, 30)  # beyond any bound in use; 2.0 ** 1024 would overflow
        return min(self.first * 2.0**doublings, self.longest) * random.uniform(1.0 - self.jitter, 1.0)


RECONNECT = Backoff(first=1.0, longest=10.0, jitter=0.5)
"""Pauses between logins that fail: a server that is back is found within a scrape interval."""

SUSPENSION = Backoff(first=60.0, longest=600.0)
"""Pauses of a job whose query ignored its statement_timeout: each run may occupy a backend for good."""


def retry_pause(failures: int, seconds: float) -> float:
    """Return the seconds until a job that fails is tried again.

    As long as its latest run after the first failure, then two, four and eight times as long; never more than 15, so
    that its series are back within two scrapes.

    Args:
        failures: how many runs in a row have failed, counted from 1.
        seconds: how long the latest took.

    """
    return Backoff(first=seconds, longest=15.0).pause(min(failures, 4))
