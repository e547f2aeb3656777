"""Reads small files that users name: never a device or a pipe, and never more than they may hold."""

import os
import stat
from pathlib import Path

LARGEST_BYTES = 2**20
"""Upper bound on a file, in bytes: parsing more takes seconds, in which the exporter is silent."""

NOT_REGULAR = "is not a regular file. Name a file, not a folder, pipe or device"
TOO_LARGE = f"is larger than {LARGEST_BYTES >> 20} MiB. Shorten or split it"


class OddFileError(ValueError):
    """It is not regular, or too large: `str()` says which, and the remedy."""


def read_small(file: Path) -> bytes:
    """Read a file; OSError when it cannot be opened, OddFileError when it is none to be read.

    Blocking: the mount of a regular file may hang.
    """
    number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is opened at once, and refused
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OddFileError(NOT_REGULAR)
        content = b""
        while piece := os.read(number, LARGEST_BYTES + 1 - len(content)):
            content += piece
    finally:
        os.close(number)
    if len(content) > LARGEST_BYTES:
        raise OddFileError(TOO_LARGE)
    return content
