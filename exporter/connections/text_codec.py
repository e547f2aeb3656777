"""Reads text of any encoding: an unreadable byte costs itself, never the answer or the connection.

Names, gids, paths and query texts of other databases arrive in the encodings of those databases. An unreadable byte
becomes `�` and its two hexadecimal digits, and so does each byte of a `�` that was there before: no two texts become
one, and the bytes can be told from the text. A backslash would not do, since texts and JSON have `\\x` of their own.
"""

import asyncio
import codecs
import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_TEXT_TYPES = {
    "name": 19,
    "text": 25,
    "json": 114,
    "xml": 142,
    "unknown": 705,
    "bpchar": 1042,
    "varchar": 1043,
    "cstring": 2275,
}
"""OIDs of the types whose binary form is text. Their arrays and enums follow."""

_CONVERTED = {"UTF8", "LATIN1"}
"""Server encodings from which PostgreSQL turns any bytes into UTF-8: as they are, or one by one."""

_UNREADABLE = re.compile("[\udc80-\udcff\ufffd]")
"""A byte as `surrogateescape` leaves it, or the mark of one in a text that was damaged before."""

_MARKED = re.compile("\ufffd([0-9a-f]{2})".encode())

_header = struct.Struct("!BI").unpack_from

_HEADER_BYTES = 5

_PROTOCOL = struct.pack("!HH", 3, 0)
"""Version of the protocol, with which a startup message begins behind its length."""

_MESSAGES = frozenset(b"EN")
"""Types of ErrorResponse and NoticeResponse."""


def install(connection: Any) -> Mapping[str, str]:
    """Have a connection decode leniently; return the parameters to set with it.

    It takes no round trip: the driver's own `set_type_codec` would ask the server for the OID of each type.
    """
    settings = connection.get_settings()
    codec = _codec_of(settings.server_encoding)
    for name, oid in _TEXT_TYPES.items():
        encode = partial(str.encode, encoding=codec, errors="replace")
        settings.add_python_codec(oid, name, "pg_catalog", (), "scalar", encode, decoder(codec), "binary")
    if settings.server_encoding in _CONVERTED:
        return {}
    transport = connection._transport  # noqa: SLF001  # the driver has no other way to its protocol
    transport.set_protocol(_Readable(transport.get_protocol()))
    return {"client_encoding": "'SQL_ASCII'"}


def _codec_of(encoding: str) -> str:
    """Name Python's codec for what the server sends: UTF-8 if it converts, or if there is none for its encoding."""
    if encoding in _CONVERTED:
        return "utf-8"
    name = encoding.replace("_", "") if encoding.startswith("EUC") else encoding.replace("KOI8", "KOI8_")
    try:
        return codecs.lookup(name.replace("WIN", "cp")).name
    except LookupError:
        return "utf-8"


def reads_utf8(encoding: str) -> bool:
    """Return whether text of a server of this encoding is read as UTF-8."""
    return _codec_of(encoding) == "utf-8"


def decoder(codec: str = "utf-8") -> Callable[[bytes], str]:
    """Return a decoder of text in the server's encoding: what is not in it may be UTF-8 from another database."""

    def decode(raw: bytes) -> str:
        try:
            text = raw.decode(codec)
        except UnicodeDecodeError:
            text = _of_another(raw, codec)
        return text if text.isascii() else _UNREADABLE.sub(_mark, text)

    return decode


def _of_another(raw: bytes, codec: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(codec, "surrogateescape")


def _mark(unreadable: re.Match[str]) -> str:
    """Write what cannot be read byte by byte."""
    return "".join(f"\ufffd{byte:02x}" for byte in unreadable[0].encode("utf-8", "surrogateescape"))


def unmarked(text: bytes) -> bytes:
    """Return the bytes that a text stands for, given in UTF-8."""
    return _MARKED.sub(lambda found: bytes.fromhex(found[1].decode()), text)


def startup(message: bytes) -> bytes:
    """Write the bytes that its names stand for into a startup message: the driver knows UTF-8 only."""
    body = unmarked(message[4:])
    is_startup = message[:2] == b"\0\0" and message[4:8] == _PROTOCOL
    return struct.pack("!I", len(body) + 4) + body if is_startup else message


class _Readable(asyncio.Protocol):
    """Hands the bytes of a connection to the driver, with `?` for those in errors and notices that are no UTF-8.

    The driver drops the connection over such a message.
    """

    def __init__(self, driver: asyncio.Protocol) -> None:
        self._driver = driver
        self._held = b""
        """The beginning of a message that is not whole yet."""
        self._skip = 0
        """Bytes still to come of a message that needs no look."""
        self.eof_received = driver.eof_received  # type: ignore[method-assign]
        self.connection_lost = driver.connection_lost  # type: ignore[method-assign]
        self.pause_writing = driver.pause_writing  # type: ignore[method-assign]
        self.resume_writing = driver.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        """Pass on what is whole."""
        data, at, parts, taken = self._held + data, self._skip, [], 0
        while len(data) - at >= _HEADER_BYTES:
            kind, length = _header(data, at)
            end = at + 1 + length
            if kind in _MESSAGES:
                if end > len(data):
                    break
                parts += [data[taken:at], _readable(data[at:end])]
                taken = end
            at = end
        whole = max(taken, min(at, len(data)))
        parts.append(data[taken:whole])
        self._held, self._skip = data[whole:], max(at - len(data), 0)
        if ready := b"".join(parts):
            self._driver.data_received(ready)


def _readable(message: bytes) -> bytes:
    """Replace each byte of a message that is no UTF-8, so that its length stays."""
    head, fields = message[:_HEADER_BYTES], message[_HEADER_BYTES:]
    text = fields.decode("utf-8", "surrogateescape")
    return head + "".join("?" if "\udc80" <= letter <= "\udcff" else letter for letter in text).encode()
