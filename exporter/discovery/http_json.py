"""Asks for JSON over HTTP. Blocking."""

import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from threading import Timer
from typing import Any

SECONDS = 5.0

_MOST_BYTES = 4 * 1024 * 1024
"""Upper bound on an answer: a larger one would hold up the event loop while it is read."""

_PIECE_BYTES = 64 * 1024


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the token of an account would go to wherever an answer leads."""

    def redirect_request(self, *_: object) -> None:
        """Take the answer for a failure."""


class _Deadline:
    """Shuts connections down after some seconds: a byte now and then keeps each read within its own time limit."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timers = list[Timer]()
        self.is_over = False
        """Whether a connection was shut down."""

    def holds_for(self, connection: HTTPConnection) -> None:
        """Shut this one down as well."""
        timer = Timer(self._seconds, self._shut_down, [connection.sock])
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _shut_down(self, connection: socket.socket) -> None:
        self.is_over = True
        with suppress(OSError):  # it has ended
            connection.shutdown(socket.SHUT_RDWR)

    def lift(self) -> None:
        """Let connections be."""
        for timer in self._timers:
            timer.cancel()


class _Plain(urllib.request.HTTPHandler):
    """Opens http:// with a deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        """Open it."""
        return self.do_open(partial(_connection, HTTPConnection, self._deadline), request)


class _Secure(urllib.request.HTTPSHandler):
    """Opens https:// with a deadline."""

    def __init__(self, deadline: _Deadline, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._deadline, self._tls = deadline, context

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        """Open it."""
        made = partial(_connection, HTTPSConnection, self._deadline, context=self._tls)
        return self.do_open(made, request)


def _connection(kind: type[HTTPConnection], deadline: _Deadline, host: str, **arguments: Any) -> HTTPConnection:
    made = kind(host, **arguments)
    connect = made.connect

    def bounded() -> None:
        connect()
        deadline.holds_for(made)

    made.connect = bounded  # type: ignore[method-assign]
    return made


def asked(
    url: str, ca_file: Path | None = None, headers: Mapping[str, str] | None = None, seconds: float | None = None
) -> Any:
    """Return what an address answers; OSError or ValueError where it does not, or not in time: five seconds."""
    seconds = SECONDS if seconds is None else seconds
    with _opened(url, ca_file, headers, seconds) as answer:
        return json.loads(b"".join(_pieces(answer, seconds)))


def first_line(url: str, ca_file: Path | None, headers: Mapping[str, str], seconds: float) -> Any:
    """Return the first line of an answer that goes on; None where it ends without, or says nothing for some seconds."""
    read = b""
    with suppress(TimeoutError), _opened(url, ca_file, headers, seconds) as answer:
        for piece in _pieces(answer, seconds):
            read += piece
            if b"\n" in read:
                break
    return json.loads(read.partition(b"\n")[0]) if read.strip() else None


def _pieces(answer: HTTPResponse, seconds: float) -> Iterator[bytes]:
    """Read an answer piece by piece; TimeoutError where all of it takes too long, ValueError where it is too large."""
    until, size = time.monotonic() + seconds, 0
    while piece := answer.read1(_PIECE_BYTES):
        yield piece
        size += len(piece)
        if time.monotonic() > until:
            raise TimeoutError("timed out")
        if size > _MOST_BYTES:
            raise ValueError("it is too large")


@contextmanager
def _opened(
    url: str, ca_file: Path | None, headers: Mapping[str, str] | None, seconds: float
) -> Iterator[HTTPResponse]:
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310  # http and https only
    deadline = _Deadline(seconds)
    opener = urllib.request.build_opener(_Plain(deadline), _Secure(deadline, context), _NoRedirects)
    try:
        with opener.open(request, timeout=seconds) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except Exception:
        if deadline.is_over:
            raise TimeoutError("timed out") from None
        raise
    finally:
        deadline.lift()


def reason(error: Exception) -> str:
    """Say why it did not; what the other side wrote is cut."""
    if isinstance(error, OSError):
        return str(getattr(error, "reason", "") or error)[:_MOST_SAID]
    return f"is no answer of this kind of API ({type(error).__name__}: {str(error)[:_MOST_SAID]})"


_MOST_SAID = 300
"""Characters of an error that are repeated: some of them are what the other side wrote."""
