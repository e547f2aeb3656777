"""Tells whether files have changed."""

from collections.abc import Iterable
from pathlib import Path


def fingerprint(files: Iterable[Path]) -> tuple[object, ...]:
    """Return what changes when a file does, or comes or goes. Blocking."""
    return tuple(_state(file) for file in files)


def _state(file: Path) -> object:
    try:
        stat = file.stat()
    except OSError as error:
        return file, error.errno
    return file, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
