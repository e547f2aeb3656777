"""The folder that holds the history of every target; one process at a time writes there. Blocking."""

import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from exporter.errors import StateError

_PREFIX = "pgvigil-history-"
"""Prefix of the names of temporary folders."""

_LOCK = "pgvigil.lock"

_SUFFIX = ".pgvigil.sqlite"
"""Of our files only: what is old is removed, what is damaged moved aside, and the folder may hold files of others."""


class StateFolder:
    """A folder of the operator, or a temporary one that ends with the process."""

    def __init__(self, path: Path | None) -> None:
        self._asked_for = path
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._path: Path | None = None
        self._opening = Lock()
        """All targets ask for their files at once, each in a thread of its own."""
        self._lock: int | None = None

    @property
    def is_temporary(self) -> bool:
        """Return whether what is kept ends with this process."""
        return self._asked_for is None

    @property
    def is_open(self) -> bool:
        """Return whether there is a folder by now."""
        return self._path is not None

    def file(self, target: str, address: str) -> Path:
        """Return the file of a target; StateError or OSError where the folder cannot be used."""
        with self._opening:
            folder = self._opened()
        name = target or quote(address, safe="")
        return folder / f"{name}{_SUFFIX}"

    def _opened(self) -> Path:
        if self._path is None:
            if self._asked_for is None:
                _remove_orphans(Path(tempfile.gettempdir()))
                self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
                self._path = Path(self._temporary.name)
                self._lock = _locked(self._path)
            else:
                self._asked_for.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = _locked(self._asked_for)
                self._path = self._asked_for
        return self._path

    def remove_old(self, seconds: float, in_use: Collection[Path]) -> None:
        """Remove files of targets that are gone, once nothing in them is as young as that."""
        for file in self._path.glob(f"*{_SUFFIX}") if self._path else ():
            with suppress(OSError):  # another time
                if file not in in_use and time.time() - file.stat().st_mtime > seconds:
                    for each in (file, *file.parent.glob(f"{glob.escape(file.name)}-*")):
                        each.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process use the folder; remove a temporary one."""
        if self._lock is not None:
            os.close(self._lock)
        if self._temporary is not None:
            self._temporary.cleanup()


def _remove_orphans(folder: Path) -> None:
    """Remove the temporary folders of processes that were killed: nobody holds their lock."""
    for orphan in folder.glob(f"{_PREFIX}*"):
        try:
            if orphan.stat().st_uid == os.geteuid() and (orphan / _LOCK).exists():
                os.close(_locked(orphan))
                shutil.rmtree(orphan, ignore_errors=True)
        except (OSError, StateError):
            continue  # it is another's


def _locked(folder: Path) -> int:
    """Lock the folder until the file that is returned is closed, or the process ends."""
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StateError(f"state_dir: {folder} is in use by another pgvigil. Give each a folder of its own") from None
    except BaseException:
        os.close(lock)
        raise
    return lock
