"""What the changelog says of a version: `python tests/release/notes.py 1.2.3` prints what is new in it.

It fails unless that is the version of the package and the newest in the changelog, with the day of its release.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")

_SECTION = re.compile(
    r"^## \[(?P<name>[^]]+)\](?: - (?P<day>\S+))?\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL
)
_KIND = re.compile(r"^### (.*)$", re.MULTILINE)


class ChangelogError(Exception):
    """The changelog and the version do not fit."""


@dataclass(frozen=True)
class Section:
    """What is new in one version, and the day it was released: none for what is not released."""

    day: date | None
    text: str


def sections(changelog: str) -> Mapping[str, Section]:
    """Read a changelog: version, or Unreleased, -> what is new; the newest first."""
    found = {}
    for each in _SECTION.finditer(changelog):
        unknown = set(_KIND.findall(each["text"])) - set(KINDS)
        if unknown or each["name"] in found:
            raise ChangelogError(f"[{each['name']}]: there twice, or with kinds that are not of {', '.join(KINDS)}")
        found[each["name"]] = Section(date.fromisoformat(each["day"]) if each["day"] else None, each["text"].strip())
    return found


def notes(changelog: str, package: str, version: str) -> str:
    """What is new in a version that is about to be released."""
    if version != package:
        raise ChangelogError(f"{version} was asked for, and the package says {package}")
    unreleased, newest, *_ = [
        *sections(changelog).items(),
        ("nothing", Section(None, "")),
        ("nothing", Section(None, "")),
    ]
    if unreleased[0] != "Unreleased" or unreleased[1].text:
        raise ChangelogError(f"what is under [Unreleased] belongs under [{version}]")
    if newest[0] != version or newest[1].day is None or not newest[1].text:
        raise ChangelogError(f"[{version}] is not the newest, or lacks the day of its release or what is new")
    return newest[1].text + "\n"


def package_version() -> str:
    """The version, which stands in one place."""
    [version] = re.findall(
        r'^__version__ = "(.*)"$', (REPOSITORY / "exporter/__init__.py").read_text("utf-8"), re.MULTILINE
    )
    return str(version)


if __name__ == "__main__":
    try:
        sys.stdout.write(notes((REPOSITORY / "CHANGELOG.md").read_text("utf-8"), package_version(), sys.argv[1]))
    except ChangelogError as error:
        sys.exit(f"CHANGELOG.md: {error}")
