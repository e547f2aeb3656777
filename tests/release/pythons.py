"""Finds the interpreters that are on this machine, or has one of Debian's run here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from debian import newer

MINORS = (11, 12, 13, 14, 15)
"""Python 3.11 and later are supported."""


def python(minor: int) -> Path:
    """An interpreter of this version: ours, one on the PATH, one of pyenv's, or Debian's; MissingError without any."""
    return next((each for each in _candidates(minor) if _runs(each, minor)), None) or newer(f"python3.{minor}")


def _candidates(minor: int) -> Iterator[Path]:
    name = f"python3.{minor}"
    if sys.version_info.minor == minor:
        yield Path(sys.executable)
    if path := shutil.which(name):
        yield Path(path)
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from root.glob(f"versions/3.{minor}.*/bin/{name}")


def _runs(executable: Path, minor: int) -> bool:
    """Pyenv's stand-ins are on the PATH whether there is a Python behind them or not."""
    look = [str(executable), "-c", "import sys, venv; print(sys.version_info.minor)"]
    return subprocess.run(look, capture_output=True, text=True, check=False).stdout.strip() == str(minor)
