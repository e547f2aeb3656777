"""Bounds what HTTP clients may hold: how many connections, and how long one may take to ask and to read."""

import logging
import math
import resource
import time
from collections import Counter
from dataclasses import dataclass
from typing import get_args

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from exporter.exposition.process_metrics import (
    HTTP_CONNECTIONS,
    HTTP_CONNECTIONS_MAX,
    HTTP_DROPPED,
    HTTP_UNREAD_BYTES,
    Drop,
)
from exporter.samples.label_values import label_text
from exporter.samples.model import Family

HEAD_BYTES = 16 * 1024
"""Upper bound on the head of a request: ten times what a browser with cookies sends."""

READ_SECONDS = 10.0
"""Deadline for the head of a request, from the first byte, or from the connection: clients send it at once."""

WRITE_SECONDS = 30.0
"""Deadline for reading an answer that does not fit into the buffers of the network: scrapes give up earlier."""

CONNECTIONS = 512
"""Upper bound on connections of clients: beyond it the one that has waited longest makes room."""

UNREAD_BYTES = 64 * 1024 * 1024
"""Upper bound on what clients have been answered and have not read: a hundred large pages."""

OWN_FILES = 192
"""Files kept for ourselves: libraries, logs, files of secrets, and connections accepted before others are closed."""

_FEWEST = 16
"""Connections of clients that there may be whatever the limit on files: too few for an attack, enough to be scraped."""


def connections_within(files: int, for_targets: int) -> int:
    """Return how many connections clients may have, so that the targets keep enough of the files that may be open."""
    return max(min(CONNECTIONS, files - for_targets - OWN_FILES), _FEWEST)


def files_for(for_targets: int) -> int:
    """Return how many files may be open, after raising the soft limit as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + for_targets + OWN_FILES
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted
    most = wanted if hard == unlimited else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


_SELDOM_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """Limits on clients."""

    connections: int = CONNECTIONS
    unread_bytes: int = UNREAD_BYTES
    read_seconds: float = READ_SECONDS
    write_seconds: float = WRITE_SECONDS


class Seldom(logging.Filter):
    """Lets so many lines of each warning through a minute: clients decide how often it is written."""

    def __init__(self, most: int = 1) -> None:
        super().__init__()
        self._most = most
        self._written: dict[str, list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line."""
        if record.levelno == logging.WARNING:
            now = time.monotonic()
            lately = [at for at in self._written.get(record.msg, ()) if now - at < _SELDOM_SECONDS]
            self._written[record.msg] = lately
            if len(lately) >= self._most:
                return False
            lately.append(now)
        return True


class Client:
    """A connection, as far as it may have to make room for another."""

    is_dropped = False

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not read yet, and that the system has not taken either."""
        raise NotImplementedError

    @property
    def waits_since(self) -> float | None:
        """Start of its wait for the client, to ask or to read; None while its answer is being made."""
        raise NotImplementedError

    @property
    def is_timed(self) -> bool:
        """Return whether the client has a deadline: to ask, or to read."""
        raise NotImplementedError

    def overdue(self, now: float, limits: Limits) -> Drop | None:
        """Return for what the client has had its time; None while it has some left."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close the connection, and forget what was not read."""
        raise NotImplementedError


class Clients(ServerState):
    """The state that uvicorn shares between connections, with limits."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.dropped: Counter[Drop] = Counter(dict.fromkeys(get_args(Drop), 0))

    def _there(self) -> list[Client]:
        return [client for client in self.connections if isinstance(client, Client) and not client.is_dropped]

    def families(self) -> list[Family]:
        """Say how many clients there are, and which were dropped."""
        there = self._there()
        labels = [label_text({"reason": reason}) for reason in self.dropped]
        return [
            Family(HTTP_CONNECTIONS, [""], [len(there)]),
            Family(HTTP_CONNECTIONS_MAX, [""], [self.limits.connections]),
            Family(HTTP_UNREAD_BYTES, [""], [sum(client.unread for client in there)]),
            Family(HTTP_DROPPED, labels, [*self.dropped.values()]),
        ]

    def drop(self, client: Client, why: Drop) -> None:
        """Close a connection, and count it."""
        self.dropped[why] += 1
        client.drop()

    def admit(self, newcomer: "Client") -> None:
        """Make room for a connection: drop the one that waits longest for its client, or else the newcomer itself.

        One whose answer is being made is not dropped: that takes no longer than a scrape may.
        """
        there = self._there()
        if len(there) > self.limits.connections:
            waiting = [client for client in there if client is not newcomer and client.waits_since is not None]
            self.drop(min(waiting, key=lambda client: client.waits_since or 0.0, default=newcomer), "room")

    def bound_unread(self) -> None:
        """Drop those that have waited longest for their clients to read while too much is unread."""
        readers = [client for client in self._there() if client.unread]
        unread = sum(client.unread for client in readers)
        for client in sorted(readers, key=lambda client: client.waits_since or math.inf):
            if unread <= self.limits.unread_bytes:
                return
            unread -= client.unread
            self.drop(client, "bytes")

    def drop_overdue(self, now: float) -> bool:
        """Drop the connections whose client has had its time; return whether another client has a deadline."""
        timed = [client for client in self.connections if isinstance(client, Client) and client.is_timed]
        overdue = [(client, why) for client in timed if (why := client.overdue(now, self.limits))]
        for client, why in overdue:
            self.drop(client, why)
        return len(timed) > len(overdue)


_OVER = (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)
"""States in which nothing is read from a client: it has said that its request is the last, or it speaks no HTTP."""


class ClientProtocol(Client, H11Protocol):
    """One connection of a client: HTTP as uvicorn speaks it, with account of what it waits for and since when.

    h11 bounds the head of a request, which httptools, uvicorn's parser in C, does not.
    """

    server_state: Clients

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]  # uvicorn narrows it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._is_asking = True
        """True while a request arrives, or the connection is new and one should come at once."""
        self._reads_slowly: object = None
        """The request whose answer did not fit into the buffers of the network."""
        self._is_paused = False
        """True while they are full: of whatever request, since a client may send the next without reading."""
        self.server_state.admit(self)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_writing(self) -> bool:
        is_unread = self._is_answering or self.transport.get_write_buffer_size() > 0
        is_slow = self._reads_slowly is not None and self._reads_slowly is self.cycle
        return is_unread and (self._is_paused or is_slow)

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not read yet, and that the system has not taken either."""
        return self.transport.get_write_buffer_size()

    @property
    def waits_since(self) -> float | None:
        """Start of its wait for the client, to ask or to read; None while its answer is being made."""
        return None if self._is_answering and not self._is_writing else self._since

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        if self.is_dropped or self.conn.their_state in _OVER:
            return
        if not self._is_asking and not self._is_answering and not self._is_paused:
            self._is_asking, self._since = True, self.loop.time()
        super().data_received(data)
        if self._is_answering:
            self._is_asking = False
            if self.conn.their_state is h11.SEND_BODY:  # nothing here has use for one, and it may have no end
                self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as it is answered."""
        super().pause_writing()
        self._is_paused = True
        self.server_state.bound_unread()
        if self._reads_slowly is not self.cycle:
            self._reads_slowly, self._since = self.cycle, self.loop.time()

    def resume_writing(self) -> None:
        """Note that it reads again; its deadline for one answer stays."""
        super().resume_writing()
        self._is_paused = False

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        if not self._is_writing:
            self._since = self.loop.time()
        super().on_response_complete()

    @property
    def is_timed(self) -> bool:
        """Return whether the client has a deadline: to ask, or to read."""
        return self._is_writing or (self._is_asking and not self._is_answering)

    def overdue(self, now: float, limits: Limits) -> Drop | None:
        """Return for what the client has had its time; None while it has some left."""
        seconds = limits.write_seconds if self._is_writing else limits.read_seconds
        if not self.is_timed or now - self._since <= seconds:
            return None
        return "reads_slowly" if self._is_writing else "asks_slowly"

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close the connection."""
        self.server_state.dropped["no_http"] += 1
        super().send_400_response(msg)

    def drop(self) -> None:
        """Close the connection, and forget what was not read."""
        self.is_dropped = True
        self.transport.abort()
