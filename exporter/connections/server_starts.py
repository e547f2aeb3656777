"""Tells by its start whether a server is the one of before: clones share all else that one says of itself."""

from weakref import WeakSet

from exporter.connections.session import Session


class ServerStarts:
    """The start of the server that is there now, as its sessions say it."""

    def __init__(self) -> None:
        self._heard: WeakSet[Session] = WeakSet()
        """The sessions that have said it once."""
        self._started: float | None = None
        """Unix time in seconds."""

    def is_another(self, started: float | None, session: Session) -> bool:
        """Note a start; return whether it is that of another server than before, or of the same one again.

        An older session tells of a later start only: behind a pooler or a balancer of loads two servers may take turns.
        """
        before, is_new = self._started, session not in self._heard
        self._heard.add(session)
        if started is None or started == before or not (before is None or is_new or started > before):
            return False
        self._started = started
        return before is not None
