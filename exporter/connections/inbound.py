"""Bounds what a server may send: stands between the transport of a connection and the driver.

asyncpg reads without a limit. It holds a message until it is whole, collects rows for as long as they come, and hashes
a password as often as the server asks. One hostile server, or one query without a LIMIT, would take memory and time
from all targets. So each piece is looked at before the driver reads it, and what is beyond the bounds ends the
connection. The driver opens connections through the event loop it is given: that is where this is put in.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from asyncpg.protocol import Protocol

from exporter.connections.authentication import Exchange
from exporter.connections.session import MOST_ROWS
from exporter.connections.text_codec import startup
from exporter.errors import ConnectReason

ANSWER_BYTES = 64 * 2**20
"""Upper bound on what a server sends in answer to one question: 500 000 rows of 128 bytes."""

LOGIN_BYTES = 2**17
"""Upper bound on what a server sends between two messages of ours during the login; PostgreSQL sends some 500 bytes."""

MOST_OTHERS = 10_000
"""Upper bound on the messages of an answer that are no rows, such as notices: the driver takes 10 µs for each."""

_header = struct.Struct("!cI").unpack_from

_HEADER_BYTES = 5

_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""A peer that is gone is noticed after two minutes, also while a login is waited for without end."""

_UNIX = getattr(socket, "AF_UNIX", None)

_LEAST_LENGTH = 4
"""Length that a message gives itself at least: it counts the length, not the type."""

_NO_POSTGRES = "the answer is none of PostgreSQL's protocol"


class Inbound(asyncio.Protocol):
    """The bounds of one connection. They restart with each message of the driver."""

    def __init__(self, exchange: Exchange, on_answer: Callable[[], None] = lambda: None) -> None:
        self.refusal = ""
        """Reason for dropping the connection; empty until then."""
        self.reason: ConnectReason = "other"
        """The same in one word, of a login."""
        self.is_logging_in = True
        """False once the server takes queries."""
        self.rows = MOST_ROWS
        """The most rows that the answer to the question at hand may have."""
        self.certificate_expires_at: float | None = None
        """Unix time from which the server's certificate is invalid; None without TLS, or where nobody checks it."""
        self.transport: BoundedTransport
        self._driver: asyncio.Protocol
        self._is_asking_for_tls = True
        """True while the driver waits for the answer to its TLS request: one byte, and no message."""
        self._exchange = exchange
        self._on_answer = on_answer
        self._is_answering = False
        self._bytes = self._rows = self._others = 0
        self._head = b""
        """The beginning of a message that is not whole yet; after the login, of its header only."""
        self._skip = 0
        """Bytes still to come of a message that has been looked at."""

    def lead_to(self, driver: Any) -> Any:
        """Hand what arrives to this protocol from now on."""
        self._driver = driver
        self._is_asking_for_tls &= not isinstance(driver, Protocol)
        self.eof_received = driver.eof_received  # type: ignore[method-assign]
        self.connection_lost = driver.connection_lost  # type: ignore[method-assign]
        self.pause_writing = driver.pause_writing  # type: ignore[method-assign]
        self.resume_writing = driver.resume_writing  # type: ignore[method-assign]
        return driver

    @property
    def driver(self) -> asyncio.Protocol:
        """The protocol that reads what arrives."""
        return self._driver

    def connection_made(self, transport: Any) -> None:
        """Begin; the driver writes through our transport."""
        self._driver.connection_made(self.over(transport))  # type: ignore[arg-type]  # it has all that one has

    def over(self, transport: Any) -> "BoundedTransport":
        """Wrap the transport: the first one, or the one that encrypts it. The system notices when a peer is gone."""
        if (wire := transport.get_extra_info("socket")) is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if wire.family != _UNIX and hasattr(socket, name):
                    wire.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if certificate := transport.get_extra_info("peercert"):
            self.certificate_expires_at = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
        self.transport = BoundedTransport(transport, self)
        return self.transport

    def asked(self) -> None:
        """Begin to count: the driver has sent something, so an answer is due."""
        self._bytes = self._rows = self._others = 0

    def data_received(self, data: bytes) -> None:
        """Hand on what is within the bounds; drop the connection at the first piece that is not."""
        if self.refusal:
            return
        self._bytes += len(data)
        if not self._is_answering:
            self._is_answering = True
            self._on_answer()
        if self._is_asking_for_tls:
            ready = data
        else:
            ready = self._of_login(data) if self.is_logging_in else self._of_answer(data)
        if ready and not self.refusal:
            self._driver.data_received(ready)

    def _refuse(self, why: str, reason: ConnectReason = "other") -> None:
        if not self.refusal:
            self.refusal, self.reason = why, reason
        self._head = b""
        self.transport.abort()

    def _of_login(self, data: bytes) -> bytes:
        """Return the messages that are whole, each looked at; with the end of the login what follows it."""
        data, at = self._head + data, 0
        while self.is_logging_in and len(data) - at >= _HEADER_BYTES:
            kind, length = _header(data, at)
            if length < _LEAST_LENGTH or length + at > LOGIN_BYTES or self._bytes > LOGIN_BYTES:
                self._refuse(f"the server sends more than {LOGIN_BYTES} bytes at the login, or {_NO_POSTGRES}")
                return b""
            end = at + 1 + length
            if end > len(data):
                break
            why = self._exchange.refusal(data[at + _HEADER_BYTES : end]) if kind == b"R" else ""
            if why or (kind == b"Z" and not self._exchange.is_over):
                self._refuse(why or "the server skips the authentication", "authentication")
                return b""
            self.is_logging_in, at = kind != b"Z", end
        self._head = b""
        if self.is_logging_in:
            self._head = data[at:]
            return data[:at]
        return data[:at] + self._of_answer(data[at:])

    def _of_answer(self, data: bytes) -> bytes:
        """Count the rows in a piece of an answer, and return the piece as it is."""
        text, at = self._head + data, self._skip
        end, left = len(text), ANSWER_BYTES - self._bytes
        while at <= end - _HEADER_BYTES:
            kind, length = _header(text, at)
            if kind == b"D":
                self._rows += 1
            else:
                self._others += 1
            at += 1 + length
            if length < _LEAST_LENGTH:
                self._refuse(_NO_POSTGRES)
                break
        if self._rows > self.rows:
            self._refuse(f"the server sends more than {self.rows} rows")
        elif self._others > MOST_OTHERS:
            self._refuse(f"the server sends more than {MOST_OTHERS} messages that are no rows")
        elif left < max(at - end, 0):
            self._refuse(f"the answer is larger than {ANSWER_BYTES // 2**20} MiB; give the query a LIMIT")
        self._head, self._skip = text[at:], max(at - end, 0)
        return data


class BoundedTransport:
    """A transport whose protocol stays the one that bounds: the driver's is behind it."""

    def __init__(self, transport: Any, inbound: Inbound) -> None:
        self.inner = transport
        self.inbound = inbound

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, data: Any) -> None:
        """Send a message of the driver."""
        self.inbound.asked()
        self.inner.write(startup(bytes(data)) if self.inbound.is_logging_in else data)

    def writelines(self, pieces: Any) -> None:
        """Send messages of the driver."""
        self.inbound.asked()
        self.inner.writelines(pieces)

    def get_protocol(self) -> asyncio.Protocol:
        """Return the driver's protocol."""
        return self.inbound.driver

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Put another protocol behind the bounds."""
        self.inbound.lead_to(protocol)


class BoundedLoop:
    """An event loop, as the driver is given it: each connection that it opens is bounded."""

    def __init__(self, require_auth: str, loop: Any) -> None:
        self.inbound: Inbound | None = None
        """The bounds of the latest connection."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called when the server of the next connection begins to answer."""
        self.place = ""
        """Server of the latest connection: `host:port`, or the path of a socket."""
        self._require_auth = require_auth
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], *place: Any, **options: Any) -> tuple[Any, Any]:
        """Open a connection over TCP."""
        self.place = ":".join(map(str, place))
        return await self._opened(self._loop.create_connection, factory, *place, **options)

    async def create_unix_connection(self, factory: Callable[[], Any], *place: Any, **options: Any) -> tuple[Any, Any]:
        """Open a connection over a Unix socket: its other end is on this machine, so it is known when that is gone."""
        self.on_answer()
        self.place = str(*place)
        return await self._opened(self._loop.create_unix_connection, factory, *place, **options)

    async def _opened(
        self, opened: Callable[..., Awaitable[Any]], factory: Callable[[], Any], *place: Any, **options: Any
    ) -> tuple[Any, Any]:
        inbound = self.inbound = Inbound(Exchange(self._require_auth), self.on_answer)

        def bounded() -> Inbound:
            inbound.lead_to(factory())
            return inbound

        await opened(bounded, *place, **options)
        return inbound.transport, inbound.driver

    async def start_tls(self, transport: BoundedTransport, _: Any, context: Any, **options: Any) -> BoundedTransport:
        """Encrypt a connection; what arrives from then on is bounded as before."""
        inbound = transport.inbound
        return inbound.over(await self._loop.start_tls(transport.inner, inbound, context, **options))
