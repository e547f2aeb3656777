"""Asks a Prometheus what Grafana would ask it for a dashboard, and says how many series came."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from dashboards.boards import Board, Target, expanded, targets, usual, variables
from dashboards.lint import LABEL_VALUES

POINTS = 720
"""How many points wide a panel is, on half of a screen."""


@dataclass(frozen=True)
class Window:
    """The time shown, and how often there is a sample."""

    end: float
    seconds: float
    every: float

    @property
    def step(self) -> float:
        """From one point to the next."""
        return max(self.every, math.ceil(self.seconds / POINTS))

    @property
    def intervals(self) -> dict[str, str]:
        """What Grafana puts in for its own variables."""
        rate = max(self.step + self.every, 4 * self.every)
        return {"__interval": f"{self.step:g}s", "__rate_interval": f"{rate:g}s", "__range": f"{self.seconds:g}s"}


@dataclass(frozen=True)
class Answer:
    """How many series a query gave, and in how long."""

    target: Target
    series: int
    seconds: float
    said: str = ""
    """What Prometheus complains of."""


@dataclass(frozen=True)
class Viewer:
    """Somebody who looks at a dashboard."""

    url: str
    window: Window
    client: httpx.Client

    def choices(self, shown: Board) -> list[dict[str, str]]:
        """What the variables can stand for: All of each; and all their values by name, which come from Prometheus."""
        named = dict(usual(shown))
        for name, variable in variables(shown).items():
            if variable["type"] == "query":
                named[name] = chosen(self.values(variable, usual(shown)))
        return [usual(shown), named]

    def values(self, variable: Mapping[str, Any], chosen_so_far: Mapping[str, str]) -> list[str]:
        """The values that a variable can have."""
        asked = LABEL_VALUES.fullmatch(variable["query"]["query"])
        assert asked, variable
        found = self._get(
            f"label/{asked['label']}/values",
            {"match[]": expanded(asked["selector"], chosen_so_far), **self._range()},
        )
        return [str(value) for value in found]

    def asks(self, target: Target, values: Mapping[str, str]) -> Answer:
        """Run one query as its panel does."""
        expression = expanded(target.expr, {**values, **self.window.intervals})
        path, when = ("query", {"time": self.window.end}) if target.instant else ("query_range", self._steps())
        sent = self.client.get(f"{self.url}/api/v1/{path}", params={"query": expression, **when})
        answer = sent.json()
        if answer["status"] != "success":
            return Answer(target, 0, sent.elapsed.total_seconds(), f"{answer['error']}: {expression}")
        return Answer(target, sum(map(_says, answer["data"]["result"])), sent.elapsed.total_seconds())

    def looks_at(self, shown: Board) -> Iterator[Answer]:
        """Run every query of a dashboard with each choice; the answer with fewest series counts."""
        choices = self.choices(shown)
        for target in targets(shown):
            answers = [self.asks(target, values) for values in choices]
            yield min(answers, key=lambda answer: (not answer.said, answer.series))

    def _range(self) -> dict[str, float]:
        return {"start": self.window.end - self.window.seconds, "end": self.window.end}

    def _steps(self) -> dict[str, float]:
        return {**self._range(), "step": self.window.step}

    def _get(self, path: str, params: Mapping[str, Any]) -> Sequence[Any]:
        answer = self.client.get(f"{self.url}/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", answer
        found: Sequence[Any] = answer["data"]
        return found


def chosen(values: Sequence[str]) -> str:
    """Several values as Grafana puts them into a regular expression of PromQL."""
    escaped = [re.sub(r"[\\^$*+?.()|[\]{}/]", lambda found: f"\\\\{found[0]}", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _says(series: Mapping[str, Any]) -> bool:
    """Whether a series has a value that can be shown."""
    points = series.get("values") or [series["value"]]
    return any(value != "NaN" for _, value in points)
