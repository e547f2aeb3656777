"""Work of statements in the last minutes and in the hour before: in memory, whatever the disk does."""

from collections import deque
from collections.abc import Mapping

from exporter.history.minute import MOST_STATEMENTS, Use
from exporter.watch.statement_matching import Statement

MINUTES = 5
"""Minutes that count as the last ones."""

_FADES = 1 - 1 / 60
"""What is left of the work before after a minute: an hour is remembered, the older the less."""


class RecentWork:
    """Takes in the work of each minute."""

    def __init__(self) -> None:
        self.before: dict[Statement, Use] = {}
        """Work before the last minutes, which fades within an hour."""
        self._latest = deque[Mapping[Statement, Use]](maxlen=MINUTES)

    @property
    def minutes(self) -> int:
        """Number of the last minutes that are known; at most five."""
        return len(self._latest)

    def add(self, work: Mapping[Statement, Use]) -> None:
        """Take in a minute that is over."""
        if len(self._latest) == MINUTES:
            faded = {each: use * _FADES for each, use in self.before.items()}
            for each, use in self._latest[0].items():
                faded[each] = faded.get(each, Use()) + use
            by_calls = sorted(faded.items(), key=lambda pair: -pair[1].calls)
            self.before = dict(by_calls[:MOST_STATEMENTS])
        self._latest.append(work)

    def latest(self) -> dict[Statement, Use]:
        """Add up the last minutes."""
        found: dict[Statement, Use] = {}
        for work in self._latest:
            for each, use in work.items():
                found[each] = found.get(each, Use()) + use
        return found
