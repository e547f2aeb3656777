"""Chooses the database to visit next: the one not visited for longest, in a round spread evenly over its time."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

SOON = 0.15
"""Share of its period after which a database may be visited before it is due, so that not all are due at once."""

ROUND = 0.9
"""Share of its period within which a database has its turn ahead of time, so that nothing is due where all is well."""

REFUSED_SECONDS = 0.25
"""Pause of a database that refused us, in seconds per database: at most four failed logins a second."""


@dataclass
class Turn:
    """State of one database's visits."""

    visited_at: float = float("-inf")
    rests_until: float = float("-inf")
    interval: float = 0.0
    """Seconds that the budget of cost puts between two visits at least; 0 when it has no need to."""
    period: float = 60.0
    """Seconds between two visits when all goes well."""
    _costs: deque[float] = field(default_factory=lambda: deque(maxlen=3))

    @property
    def cost(self) -> float:
        """Seconds of the server's time that a visit takes before the first query: the middle one of the last visits."""
        return statistics.median_low(self._costs) if self._costs else 0.0

    def record_login(self, seconds: float) -> None:
        """Note the server time that a login took, in seconds."""
        self._costs.append(seconds)


class Rotation:
    """The databases of one server that wait for a visit, in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.visits = 0
        """Visits so far."""
        self.login_seconds = 0.0
        """Server time of their logins, in seconds."""
        self._turns: dict[str, Turn] = {}
        self._due: deque[str] = deque()
        self._early: deque[str] = deque()

    def turn(self, database: str) -> Turn:
        """Give what is remembered of a database."""
        if (found := self._turns.get(database)) is None:
            found = self._turns[database] = Turn()
        return found

    def forget_all_but(self, present: Collection[str]) -> None:
        """Forget the databases that are gone."""
        self._turns = {name: turn for name, turn in self._turns.items() if name in present}

    def line_up(self, databases: Iterable[str], due: Collection[str], gap: float) -> None:
        """Put in line what is due, and of the rest as many as keep the round even until the next scrape.

        Args:
            databases: all that are visited in turn.
            due: those where something is due.
            gap: seconds until the next scrape.

        """
        now = self._clock()
        awake = (name for name in databases if now >= self.turn(name).rests_until)
        in_order = sorted(awake, key=lambda name: self.turn(name).visited_at)
        self._due = deque(name for name in in_order if name in due)
        share = int(sum(min(gap / (ROUND * self.turn(name).period), 1.0) for name in in_order)) - len(self._due)
        young = (name for name in in_order if name not in due)
        ready = [name for name in young if now - self.turn(name).visited_at >= SOON * self.turn(name).period]
        self._early = deque(ready[: max(share, 0)])

    def next(self, *, early: bool) -> str | None:
        """Take the next database out of the line: one that is due, or one ahead of its time."""
        line = self._early if early else self._due
        if not line:
            return None
        database = line.popleft()
        self.turn(database).visited_at = self._clock()
        return database

    def refuse(self, database: str) -> None:
        """Note that a database refused us; the more there are, the longer it is before it is asked again."""
        self.turn(database).rests_until = self._clock() + REFUSED_SECONDS * len(self._turns)

    def record_failed_login(self) -> None:
        """Count a visit that ended at the login."""
        self.visits += 1

    def record_login(self, database: str, seconds: float) -> None:
        """Note the server time that a login took, in seconds."""
        self.visits += 1
        self.login_seconds += seconds
        self.turn(database).record_login(seconds)
