"""Pauses after failures: of logins, of jobs, and of queries that ignored their timeout; `off_loop` has its own."""

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

    def pause(self, failures: int, first: float | None = None) -> float:
        """Return the seconds to wait after so many failures in a row, counted from 1.

        Args:
            failures: how many attempts in a row have failed.
            first: the pause after the first failure where it depends on the attempt, such as how long it took.

        """
        doublings = min(failures - 1, 30)  # beyond any bound in use; 2.0 ** 1024 would overflow
        pause = min((self.first if first is None else first) * 2.0**doublings, self.longest)
        return pause * random.uniform(1.0 - self.jitter, 1.0)


RECONNECT = Backoff(first=1.0, longest=10.0, jitter=0.5)
"""Pauses between logins that fail: a server that is back is found within a scrape interval."""

RETRY = Backoff(first=1.0, longest=15.0)
"""Pauses of a job that fails. The first is as long as its run took; 15 s bring its series back within two scrapes."""

SUSPENSION = Backoff(first=60.0, longest=600.0)
"""Pauses of a job whose query ignored its statement_timeout: each run may occupy a backend for good."""
