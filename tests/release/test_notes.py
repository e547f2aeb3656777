"""The version stands in one place, and the changelog keeps up with it."""

import json
import subprocess
import sys
from importlib.metadata import version as installed_version
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from release.notes import REPOSITORY, ChangelogError, notes, package_version, sections

from exporter import __version__

CHANGELOG = """\
# Changelog

## [Unreleased]

## [1.1.0] - 2026-11-21

### Fixed

- A thing.

## [1.0.0] - 2026-10-01

### Added

- All else.
"""


def test_what_is_new_in_a_version() -> None:
    assert notes(CHANGELOG, "1.1.0", "1.1.0") == "### Fixed\n\n- A thing.\n"


@pytest.mark.parametrize(
    ("old", "new", "package", "message"),
    [
        ("", "", "1.2.0", "1.1.0 was asked for, and the package says 1.2.0"),
        ("[Unreleased]\n", "[Unreleased]\n\n### Added\n\n- More.\n", "1.1.0", "belongs under [1.1.0]"),
        ("## [Unreleased]\n", "", "1.1.0", "belongs under [1.1.0]"),
        (" - 2026-11-21", "", "1.1.0", "lacks the day"),
        ("[1.1.0]", "[1.0.1]", "1.1.0", "is not the newest"),
        ("### Fixed\n\n- A thing.\n", "", "1.1.0", "or what is new"),
        ("### Fixed", "### Fixes", "1.1.0", "kinds that are not of Added, Changed"),
        ("[1.0.0]", "[1.1.0]", "1.1.0", "there twice"),
        (CHANGELOG, "", "1.1.0", "belongs under [1.1.0]"),
    ],
)
def test_a_release_that_does_not_fit_is_refused(old: str, new: str, package: str, message: str) -> None:
    with pytest.raises(ChangelogError) as raised:
        notes(CHANGELOG.replace(old, new, 1) if old else CHANGELOG, package, "1.1.0")
    assert message in str(raised.value)


def test_our_changelog_goes_back_in_time_and_is_not_ahead_of_the_package() -> None:
    ours = sections((REPOSITORY / "CHANGELOG.md").read_text("utf-8"))
    assert next(iter(ours)) == "Unreleased"
    released = {name: section for name, section in ours.items() if name != "Unreleased"}
    days = [section.day for section in released.values()]
    assert all(day is not None for day in days)
    assert all(later >= earlier for later, earlier in pairwise(days))  # type: ignore[operator]
    newest = next(iter(released), __version__)
    assert _numbers(newest) <= _numbers(__version__)
    assert newest != __version__ or not released or not ours["Unreleased"].text, "raise __version__: this one is out"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def test_the_version_stands_in_one_place() -> None:
    assert package_version() == __version__ == installed_version("pgvigil")
    for chart in REPOSITORY.glob("helm/*/Chart.yaml"):
        said = yaml.safe_load(chart.read_text("utf-8"))
        assert {said["version"], str(said["appVersion"])} == {__version__}, f"{chart}: a release would change it"


def test_the_command_says_what_is_wrong_in_a_line() -> None:
    command = [sys.executable, str(Path("tests/release/notes.py")), "0.0.0"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    expected = f"CHANGELOG.md: 0.0.0 was asked for, and the package says {__version__}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    """As the release makes it."""
    file = tmp_path / "pgvigil.cdx.json"
    command = [
        "uv",
        "export",
        "--quiet",
        "--frozen",
        "--no-dev",
        "--format",
        "cyclonedx1.5",
        "--output-file",
        str(file),
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    bill = json.loads(file.read_text())
    assert bill["metadata"]["component"]["name"] == "pgvigil"
    assert {"asyncpg", "fastapi", "uvicorn"} <= {component["name"] for component in bill["components"]}
    assert "pytest" not in file.read_text()
