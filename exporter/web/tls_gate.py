"""Does the TLS of a connection: the handshake, counted and timed as any client, and then the bytes of HTTP."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from OpenSSL import SSL

from exporter.exposition.process_metrics import Drop
from exporter.web.clients import Client, ClientProtocol, Clients, Limits, Seldom
from exporter.web.tls import reason_of

_log = logging.getLogger(__name__)

_PIECE = 65_536

_RECORD = 16_384
"""Bytes of a record of TLS."""

_LINES = 10
"""Lines a minute about handshakes that fail."""

_log.addFilter(Seldom(_LINES))


class TlsGate(Client, asyncio.Protocol):
    """Stands between the socket and HTTP.

    Args:
        tls: a handshake that has not begun.
        verifies: whether a certificate of the client has to come from one of the authorities.
        make: makes the protocol of HTTP, told whether the client's certificate was verified.
        clients: all connections of clients.
        refused: is told of each handshake that fails.

    """

    def __init__(
        self,
        tls: SSL.Connection,
        make: Callable[[bool], ClientProtocol],
        clients: Clients,
        refused: Callable[[], None],
        *,
        verifies: bool,
    ) -> None:
        self._tls = tls
        self._verifies = verifies
        self._make = make
        self._clients = clients
        self._refused = refused
        self._http: ClientProtocol | None = None
        self._raw: Any = None
        self._since = 0.0

    @property
    def waits_since(self) -> float | None:
        """Start of the handshake."""
        return self._since

    @property
    def is_timed(self) -> bool:
        """Return that a handshake has a deadline."""
        return True

    def overdue(self, now: float, limits: Limits) -> Drop | None:
        """Return for what the client has had its time; None while it has some left."""
        return "asks_slowly" if now - self._since > limits.read_seconds else None

    @property
    def unread(self) -> int:
        """No bytes: nothing is answered before the handshake is over."""
        return 0

    def connection_made(self, transport: Any) -> None:
        """Wait for the client to begin."""
        self._raw, self._since = transport, asyncio.get_running_loop().time()
        self._clients.connections.add(self)  # type: ignore[arg-type]  # it is one, as far as they are asked
        self._clients.admit(self)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, or hand over what came."""
        if self.is_dropped or self._raw.is_closing():
            return
        self._tls.bio_write(data)
        try:
            if self._http is None:
                self._tls.do_handshake()
                self._begin()
            while self._http and not self._http.is_dropped and not self._raw.is_closing():
                self._http.data_received(self._tls.recv(_PIECE))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._raw.close()
        except SSL.Error as error:
            self._fail(error)
        self.flush()

    def _begin(self) -> None:
        self._clients.connections.discard(self)
        self._http = self._make(self._verifies and self._tls.get_peer_certificate(as_cryptography=True) is not None)
        self._http.connection_made(_Transport(self, self._raw))

    def _fail(self, error: SSL.Error) -> None:
        """Close the connection, with the alert that says why to the client."""
        self.flush()
        self._raw.close()
        if self._http is None:
            self._refused()
            reason = self._tls.get_app_data() or reason_of(error)
            _log.warning("TLS handshake failed", extra={"client": _host(self._raw), "reason": reason})

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        if not data or self._raw.is_closing():
            return
        try:
            while data:  # a record at a time
                data = data[self._tls.send(data[:_RECORD]) :]
                self.flush()
        except SSL.Error:
            self._raw.abort()

    def end(self) -> None:
        """Say that nothing more comes, and close."""
        try:
            self._tls.shutdown()
            self.flush()
        except SSL.Error:
            pass  # the client has closed already
        self._raw.close()

    def flush(self) -> None:
        """Send what TLS has to say."""
        while not self._raw.is_closing():
            try:
                self._raw.write(self._tls.bio_read(_PIECE))
            except SSL.Error:
                return

    def pause_writing(self) -> None:
        """Pass on that the client reads slowly."""
        if self._http:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it reads again."""
        if self._http:
            self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._clients.connections.discard(self)
        if self._http:
            self._http.connection_lost(exc)

    def drop(self) -> None:
        """Close the connection."""
        self.is_dropped = True
        self._raw.abort()

    shutdown = drop
    """The server ends."""


class _Transport(asyncio.Transport):
    """What HTTP writes to."""

    def __init__(self, gate: TlsGate, raw: Any) -> None:
        super().__init__()
        self._gate = gate
        self._raw = raw

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the addresses of the socket; `sslcontext` says that it is TLS."""
        return self if name == "sslcontext" else self._raw.get_extra_info(name, default)

    def write(self, data: Any) -> None:
        """Send."""
        self._gate.send(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Send."""
        self._gate.send(b"".join(list_of_data))

    def close(self) -> None:
        """Close when all is sent."""
        self._gate.end()

    def abort(self) -> None:
        """Close at once."""
        self._raw.abort()

    def is_closing(self) -> bool:
        """Return whether it is closed, or about to be."""
        return bool(self._raw.is_closing())

    def pause_reading(self) -> None:
        """Read nothing for now."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that are not sent yet."""
        return int(self._raw.get_write_buffer_size())


def _host(transport: Any) -> str:
    place = transport.get_extra_info("peername")
    return str(place[0]) if isinstance(place, tuple) and place else "unknown"
