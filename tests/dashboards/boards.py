"""Reads the dashboards as Grafana does: their panels and queries, and what Grafana puts into them before it asks."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "dashboards"

Board = dict[str, Any]
"""A dashboard's JSON."""

INTERVALS: Mapping[str, str] = {"__rate_interval": "7919s", "__interval": "7907s", "__range": "7901s"}
"""Durations that nobody would write, by which they are known again in an expression."""

REFERENCE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::\w+)?\}|(?P<plain>\w+))")
"""A variable in an expression."""


@dataclass(frozen=True)
class Target:
    """One query of a panel."""

    board: Board
    panel: Mapping[str, Any]
    ref: str
    expr: str
    """As it stands in the JSON, variables and all."""
    legend: str
    instant: bool

    @property
    def place(self) -> str:
        """Where to look for it."""
        return f"{self.board['uid']}: {self.panel['title']}: {self.ref}"


@cache
def boards() -> tuple[Board, ...]:
    """Every dashboard."""
    return tuple(json.loads(file.read_text("utf-8")) for file in sorted(FOLDER.glob("*.json")))


def uids() -> list[str]:
    """The uid of every dashboard, which is the name of its file."""
    return [file.stem for file in sorted(FOLDER.glob("*.json"))]


def board(uid: str) -> Board:
    """Give a dashboard that the caller may change."""
    found: Board = json.loads((FOLDER / f"{uid}.json").read_text("utf-8"))
    return found


def panels(shown: Board) -> Iterator[Mapping[str, Any]]:
    """The panels of a dashboard, those of collapsed rows included; no rows."""
    for panel in shown["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def targets(shown: Board) -> Iterator[Target]:
    """The queries of all its panels."""
    for panel in panels(shown):
        for target in panel.get("targets", ()):
            legend = target.get("legendFormat", "")
            yield Target(shown, panel, target["refId"], target["expr"], legend, target.get("instant", False))


def variables(shown: Board) -> dict[str, Any]:
    """Its variables by name."""
    return {variable["name"]: variable for variable in shown["templating"]["list"]}


def usual(shown: Board) -> dict[str, str]:
    """What each variable stands for when nothing was chosen."""
    return {name: each.get("allValue") or each["current"]["value"] for name, each in variables(shown).items()}


def expanded(expr: str, values: Mapping[str, str]) -> str:
    """The expression as it is sent; a variable that there is not stays, and does not parse."""
    known = {**INTERVALS, **values}
    return REFERENCE.sub(lambda found: known.get(found["braced"] or found["plain"], found[0]), expr)
