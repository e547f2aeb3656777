"""Looks at every dashboard while servers work, fail and were in trouble: `uv run python tests/dashboards/live.py`."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `dashboards` are found in tests/

import yaml
from dashboards.ask import Answer, Viewer
from dashboards.boards import boards
from dashboards.situations import at_work, in_trouble

MAJORS = (13, 18)
SECONDS = 60.0
MINUTES = 60
OUTAGE_SECONDS = 12.0
QUIET = Path(__file__).with_name("quiet.yml")
FILLED_BY = ("outage", "trouble")

Place = tuple[str, str, str]
"""Dashboard, title of the panel, and query."""


@dataclass(frozen=True)
class Look:
    """What came back for each query, in one situation."""

    answers: Mapping[Place, Answer]

    @property
    def empty(self) -> set[Place]:
        """The queries without any data."""
        return {place for place, answer in self.answers.items() if not answer.series}

    @property
    def refused(self) -> list[str]:
        """What Prometheus complained of."""
        return [f"{answer.target.place}: {answer.said}" for answer in self.answers.values() if answer.said]


@dataclass(frozen=True)
class Quiet:
    """A query that is rightly empty while servers work as they should."""

    place: Place
    why: str
    filled: str
    """The situation in which it is not."""


def quiet() -> list[Quiet]:
    """Read the list of what is rightly empty."""
    return [
        Quiet((entry["dashboard"], entry["panel"], query), entry["why"], entry["filled"])
        for entry in yaml.safe_load(QUIET.read_text("utf-8")) or ()
        for query in entry["queries"]
    ]


def looked(viewer: Viewer) -> Look:
    """Run every query of every dashboard."""
    found = (answer for shown in boards() for answer in viewer.looks_at(shown))
    return Look({_place(answer): answer for answer in found})


def _place(answer: Answer) -> Place:
    return str(answer.target.board["uid"]), str(answer.target.panel["title"]), answer.target.ref


def situations(seconds: float, minutes: int) -> Iterator[tuple[str, Look]]:
    """Look at all dashboards in each situation in turn."""
    with tempfile.TemporaryDirectory(prefix="pgvigil-dashboards-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "work").mkdir()
        work = stack.enter_context(at_work(folder / "work", MAJORS, seconds))
        yield "work", looked(work.viewer(stack))
        work.outage(OUTAGE_SECONDS)
        yield "outage", looked(work.viewer(stack))
    with tempfile.TemporaryDirectory(prefix="pgvigil-dashboards-") as name, in_trouble(Path(name), minutes) as viewer:
        yield "trouble", looked(viewer)


def complaints(looks: Mapping[str, Look], listed: Sequence[Quiet]) -> list[str]:
    """What is empty and should not be."""
    places = looks["work"].answers.keys()
    quiet_places = {each.place for each in listed}
    return [
        *(refused for look in looks.values() for refused in look.refused),
        *(f"{_told(place)}: empty while servers work" for place in sorted(looks["work"].empty - quiet_places)),
        *(f"{_told(each.place)}: listed, but there is no such query" for each in listed if each.place not in places),
        *(
            f"{_told(each.place)}: empty in {each.filled} as well"
            for each in listed
            if each.place in looks[each.filled].empty
        ),
    ]


def _told(place: Place) -> str:
    return ": ".join(place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Look, and say what is empty."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the shops work before anybody looks")
    looks = {}
    for name, look in situations(parser.parse_args(arguments).seconds, MINUTES):
        looks[name] = look
        slowest = max(look.answers.values(), key=lambda answer: answer.seconds)
        print(
            f"{name}: {len(look.answers)} queries, {len(look.empty)} empty; "
            f"the slowest took {slowest.seconds:.2f} s: {slowest.target.place}"
        )
    listed = quiet()
    wrong = complaints(looks, listed)
    said = wrong or [
        f"{len(listed)} queries may be empty at work; each has data in the situation that its entry names."
    ]
    print("\n".join(said))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
