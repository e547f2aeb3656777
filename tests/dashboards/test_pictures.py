"""Each dashboard has a picture that fits a page, and the page that shows it; tables are merged as Grafana does."""

import re
import struct
from pathlib import Path

import pytest
from dashboards.boards import FOLDER, uids
from dashboards.pictures.answers import merged, named
from dashboards.pictures.draw import MOST_BYTES, PICTURES, WIDTH

README = (FOLDER / "README.md").read_text("utf-8")
COMMAND = "see tests/dashboards/pictures/record.py and draw.py"


def _width(png: Path) -> int:
    """What the header of the file says."""
    start = png.read_bytes()[:24]
    assert start.startswith(b"\x89PNG\r\n\x1a\n")
    return int(struct.unpack(">I", start[16:20])[0])


@pytest.mark.parametrize("uid", uids())
def test_there_is_a_picture_of_each_dashboard(uid: str) -> None:
    picture = PICTURES / f"{uid}.png"

    assert picture.is_file(), COMMAND
    assert _width(picture) == WIDTH
    assert picture.stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("uid", uids())
def test_the_page_asks_the_question_of_each_dashboard_and_shows_it(uid: str) -> None:
    assert re.search(rf"^\| \[{uid}\]\(#{uid}\) \| .+\? \|$", README, re.MULTILINE)
    assert f"## {uid}\n\n![{uid}](pictures/{uid}.png)" in README


def test_rows_meet_by_what_all_queries_give() -> None:
    ages = [{"slot": "a", "Value #A": 1.0}, {"slot": "b", "Value #A": 2.0}]
    states = [{"slot": "b", "state": "lost", "Value #B": 1.0}]

    assert merged([ages, [], states]) == [
        {"slot": "a", "Value #A": 1.0},
        {"slot": "b", "state": "lost", "Value #A": 2.0, "Value #B": 1.0},
    ]


def test_rows_that_differ_stay_apart() -> None:
    states = [{"slot": "a", "state": "x", "Value #B": 1.0}, {"slot": "a", "state": "y", "Value #B": 1.0}]

    assert merged([[{"slot": "a", "Value #A": 1.0}], states]) == [
        {"slot": "a", "state": "x", "Value #A": 1.0, "Value #B": 1.0},
        {"slot": "a", "state": "y", "Value #B": 1.0},
    ]


@pytest.mark.parametrize(
    ("legend", "labels", "name"),
    [
        ("{{a}} on {{ b }}", {"a": "x", "b": "y"}, "x on y"),
        ("{{gone}}", {}, ""),
        ("__auto", {"a": "x"}, "x"),
        ("__auto", {"a": "x", "b": "y"}, "a=x, b=y"),
    ],
)
def test_series_are_called_as_their_legend_says(legend: str, labels: dict[str, str], name: str) -> None:
    assert named(legend, labels) == name
