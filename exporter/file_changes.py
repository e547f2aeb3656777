"""Tells whether files have changed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

_SETTLED_SECONDS = 1.0
"""Time for which files that have changed have to stay as they are: one may still be being written."""

_MOST_LOOKS = 5
"""Looks at files that change and change before they are read all the same."""


def fingerprint(files: Iterable[Path]) -> tuple[object, ...]:
    """Return what changes when a file does, or comes or goes. Blocking."""
    return tuple(_state(file) for file in files)


async def settled(look: Callable[[], Awaitable[object]], seen: object) -> object:
    """Look again until nothing has changed for a second; what is written all the time is taken as it is."""
    for _ in range(_MOST_LOOKS):
        await asyncio.sleep(_SETTLED_SECONDS)
        before, seen = seen, await look()
        if seen == before:
            break
    return seen


def _state(file: Path) -> object:
    try:
        stat = file.stat()
    except OSError as error:
        return file, error.errno
    return file, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
