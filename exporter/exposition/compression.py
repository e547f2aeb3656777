"""Gzip: whether a client takes it, and text in pieces that are each compressed once for as long as they stay. Pure."""

import re
import zlib
from collections.abc import Sequence
from functools import cached_property

from prometheus_client import exposition

_NO_GZIP = re.compile(r"\bgzip\s*;\s*q\s*=\s*0(\.0*)?\s*(,|$)", re.IGNORECASE)
"""A refusal, which prometheus-client takes for a wish."""


class Block:
    """Some whole families as text, which is kept compressed from the first page with gzip on."""

    def __init__(self, text: bytes) -> None:
        self.size = len(text)
        self._text: bytes | None = text
        self._checksum = 0
        """Its CRC-32, once the text is kept compressed only."""

    @property
    def text(self) -> bytes:
        """The text; from now on it is kept again, so that all readers without gzip share it."""
        if self._text is None:
            self._text = zlib.decompress(self.deflated + _GZIP_LAST, -zlib.MAX_WBITS)
        return self._text

    @cached_property
    def deflated(self) -> bytes:
        """The text as a piece of a gzip stream: it ends on a byte and refers to no other piece."""
        squeeze = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        deflated = squeeze.compress(self.text) + squeeze.flush(zlib.Z_FULL_FLUSH)
        self._checksum, self._text = zlib.crc32(self.text), None
        return deflated

    def continued(self, checksum: int) -> int:
        """Continue the CRC-32 of what is before it."""
        if self._text is not None:
            return zlib.crc32(self._text, checksum)
        return _product(checksum, self._shift) ^ self._checksum

    @cached_property
    def _shift(self) -> int:
        """What a checksum is multiplied by when this text follows: x to the power of its bits, modulo _CRC_32."""
        power, found, left = _ONE_BYTE, _ONE, self.size
        while left:
            if left & 1:
                found = _product(found, power)
            power, left = _product(power, power), left >> 1
        return found


_GZIP_LEVEL = 1  # four times as fast as the usual 6; a page is a tenth of its size already
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_GZIP_LAST = b"\x03\x00"  # an empty final block


# CRC-32 is the remainder of a polynomial whose bits stand in reverse order; so the one of two texts is made of theirs.
_CRC_32 = 0xEDB88320
_ONE = 1 << 31
_ONE_BYTE = 1 << 23


def _product(left: int, right: int) -> int:
    """Multiply two polynomials modulo _CRC_32."""
    found, bit = 0, _ONE
    while left:
        if left & bit:
            found ^= right
            left ^= bit
        bit >>= 1
        right = right >> 1 ^ (_CRC_32 if right & 1 else 0)
    return found


def identity(blocks: Sequence[Block]) -> bytes:
    """Join blocks to a plain page."""
    return b"".join(piece.text for piece in blocks)


def gzipped(blocks: Sequence[Block]) -> list[bytes]:
    """Return blocks as the pieces of one gzip stream (RFC 1952): no block is compressed twice."""
    checksum = 0
    for piece in blocks:
        checksum = piece.continued(checksum)
    size = sum(piece.size for piece in blocks) & 0xFFFFFFFF
    tail = checksum.to_bytes(4, "little") + size.to_bytes(4, "little")
    return [_GZIP_HEAD, *(piece.deflated for piece in blocks), _GZIP_LAST + tail]


def gzip_accepted(accept_encoding: str) -> bool:
    """Return whether the client takes gzip, by its Accept-Encoding header."""
    return exposition.gzip_accepted(accept_encoding) and not _NO_GZIP.search(accept_encoding)
