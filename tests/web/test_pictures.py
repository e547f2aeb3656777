"""The page of the documentation about `/` has its pictures, which tests/web/pictures.py takes, and no others."""

import re
from pathlib import Path

from exporter.demo.scenarios.repertoire import scenario_of

DOCS = Path(__file__).parents[2] / "docs"

MOST_BYTES = 250_000


def test_each_picture_is_there_and_shown() -> None:
    text = (DOCS / "page.md").read_text("utf-8")
    shown = {DOCS / name for name in re.findall(r"\[[^]]+\]\((pictures/[\w-]+\.png)\)", text)}
    assert shown == set((DOCS / "pictures").glob("*.png"))
    for picture in shown:
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert picture.stat().st_size <= MOST_BYTES


def test_each_incident_on_it_can_be_played() -> None:
    named = re.findall(r"^\| `([\w-]+)`: ", (DOCS / "page.md").read_text("utf-8"), re.MULTILINE)
    assert [scenario_of(name).number for name in named] == [1, 2, 3, 4, 5, 6]
