"""Work of statements in the last minutes and in the hour before: in memory, whatever the disk does."""

from collections.abc import Iterable, Mapping

from exporter.history.minute import MOST_STATEMENTS, Use
from exporter.watch.active_sessions import Activity
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
        self.applications: Mapping[Statement, str] = {}
        """The application that was most active with each statement, as of the latest minute in which one was."""
        self.latest: tuple[tuple[Mapping[Statement, Use], float], ...] = ()
        """Work of each of the last minutes, oldest first, and its length in seconds."""

    def add(self, work: Mapping[Statement, Use], seconds: float, sessions: Mapping[Activity, float]) -> None:
        """Take in a minute that is over; one of which nothing is known has no work and no seconds.

        Args:
            work: what its statements did.
            seconds: time between the readings that say so: about a minute, as they may be older than it.
            sessions: session-seconds of active sessions.

        """
        if len(self.latest) == MINUTES:
            faded = {each: use * _FADES for each, use in self.before.items()}
            for each, use in self.latest[0][0].items():
                faded[each] = faded.get(each, Use()) + use
            by_calls = sorted(faded.items(), key=lambda pair: -pair[1].calls)
            self.before = dict(by_calls[:MOST_STATEMENTS])
        self.latest = (*self.latest[1 - MINUTES :], (work, seconds))
        kept = {each for work, _ in self.latest for each in work}
        by_size = sorted(sessions.items(), key=lambda pair: pair[1])
        active = {each.statement: each.application for each, _ in by_size if each.statement in kept}  # the largest last
        self.applications = {each: name for each, name in self.applications.items() if each in kept} | active

    def forget(self) -> None:
        """Forget the last minutes: they were another server's."""
        self.latest = ()


def added(works: Iterable[Mapping[Statement, Use]]) -> dict[Statement, Use]:
    """Add up the work of several times."""
    found: dict[Statement, Use] = {}
    for work in works:
        for each, use in work.items():
            found[each] = found.get(each, Use()) + use
    return found
