"""Asks for JSON over HTTP. Blocking."""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

_SECONDS = 5.0

_MOST_BYTES = 16 * 1024 * 1024

_PIECE_BYTES = 64 * 1024


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the token of an account would go to wherever an answer leads."""

    def redirect_request(self, *_: object) -> None:
        """Take the answer for a failure."""


def asked(url: str, ca_file: Path | None = None, headers: Mapping[str, str] | None = None) -> Any:
    """Return what an address answers; OSError or ValueError where it does not, or not in five seconds."""
    with _opened(url, ca_file, headers, _SECONDS) as answer:
        return json.loads(b"".join(_pieces(answer, _SECONDS)))


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
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects)
    try:
        with opener.open(request, timeout=seconds) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        raise


def reason(error: Exception) -> str:
    """Say why it did not."""
    if isinstance(error, OSError):
        return str(getattr(error, "reason", "") or error)
    return f"is no answer of this kind of API ({type(error).__name__}: {error})"
