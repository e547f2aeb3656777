"""Gzip: whether a client takes it, and text in pieces that are each compressed once for as long as they stay. Pure."""

import re
import zlib
from collections.abc import Sequence
from functools import cached_property

from prometheus_client import exposition

_NO_GZIP = re.compile(r"\bgzip\s*;\s*q\s*=\s*0(\.0*)?\s*(,|$)", re.IGNORECASE)
"""A refusal, which prometheus-client takes for a wish."""


class Block:
    """Some whole families as text. Caches what a gzip stream needs of it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._checksum: tuple[int, int] | None = None

    def checksum(self, before: int) -> int:
        """Continue a CRC-32; cached for as long as the blocks before this one stay."""
        if self._checksum is None or self._checksum[0] != before:
            self._checksum = before, zlib.crc32(self.text, before)
        return self._checksum[1]

    @cached_property
    def deflated(self) -> bytes:
        """The text as a piece of a gzip stream: it ends on a byte and refers to no other piece."""
        squeeze = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        return squeeze.compress(self.text) + squeeze.flush(zlib.Z_FULL_FLUSH)


_GZIP_LEVEL = 1  # four times as fast as the usual 6; a page is a tenth of its size already
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_GZIP_LAST = b"\x03\x00"  # an empty final block


def identity(blocks: Sequence[Block]) -> bytes:
    """Join blocks to a plain page."""
    return b"".join(piece.text for piece in blocks)


def gzipped(blocks: Sequence[Block]) -> list[bytes]:
    """Return blocks as the pieces of one gzip stream (RFC 1952): no block is compressed twice."""
    checksum = 0
    for piece in blocks:
        checksum = piece.checksum(checksum)
    size = sum(len(piece.text) for piece in blocks) & 0xFFFFFFFF
    tail = checksum.to_bytes(4, "little") + size.to_bytes(4, "little")
    return [_GZIP_HEAD, *(piece.deflated for piece in blocks), _GZIP_LAST + tail]


def gzip_accepted(accept_encoding: str) -> bool:
    """Return whether the client takes gzip, by its Accept-Encoding header."""
    return exposition.gzip_accepted(accept_encoding) and not _NO_GZIP.search(accept_encoding)
