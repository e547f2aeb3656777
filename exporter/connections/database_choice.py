"""Chooses the databases of a server to look into, and logs what is news about them."""

from collections.abc import Sequence

from exporter.connections.session import Directory
from exporter.logs import TargetLog
from exporter.planning.database_filter import PROVIDERS, DatabaseFilter

_MOST_LOGGED = 10
"""Upper bound on the databases that one line of the log names."""


class DatabaseChoice:
    """Chooses by the operator's patterns."""

    def __init__(self, database_filter: DatabaseFilter, log: TargetLog) -> None:
        self.closed: tuple[str, ...] = ()
        """Databases that are to be looked into, and that the role lacks the privilege to connect to."""
        self._filter = database_filter
        self._log = log
        self._idle_patterns: tuple[str, ...] = ()

    def accepts(self, database: str) -> bool:
        """Return whether a database is to be looked into."""
        return self._filter.accepts(database)

    def choose(self, directory: Directory, own: str) -> tuple[str, ...]:
        """Choose among those that may be connected to; log patterns without a match, and databases closed to us.

        Args:
            directory: the databases of the server.
            own: the database of the DSN.

        """
        idle = self._filter.unmatched(directory.databases.values())
        if new := set(idle) - set(self._idle_patterns):
            self._log.warning("no database matches %s", ", ".join(sorted(new)))
        self._idle_patterns = idle
        closed = tuple(sorted(filter(self.accepts, set(directory.closed) - {*PROVIDERS, own})))
        if unseen := [name for name in closed if name not in self.closed]:
            self._log.warning("databases not visited: CONNECT was not granted", extra={"datname": _some(unseen)})
        self.closed = closed
        return tuple(filter(self.accepts, directory.connectable))


def _some(names: Sequence[str]) -> str:
    """Join names, of many the first ones."""
    more = len(names) - _MOST_LOGGED
    return ", ".join(names[:_MOST_LOGGED]) + (f" and {more} more" if more > 0 else "")
