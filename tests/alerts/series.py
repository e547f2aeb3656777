"""The series of the golden pages, as Prometheus has them after a scrape, and the selectors that pick from them."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import promql_parser
from alerts.golden import FOLDER

TARGET = {"job": "postgresql", "instance": "db1:9187"}
"""The labels that Prometheus gives to all that it scrapes."""

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """One series of a page, with its value as it stands there."""

    name: str
    labels: Labels
    value: str

    def __str__(self) -> str:
        return f"{self.name}{{{', '.join(f'{key}={_quoted(value)}' for key, value in self.labels.items())}}}"


def matches(selector: promql_parser.VectorSelector, labels: Labels) -> bool:
    """Tell whether a series with these labels is picked."""
    return all(_holds(matcher, labels.get(matcher.name, "")) for matcher in selector.matchers.matchers)


def _holds(matcher: promql_parser.Matcher, had: str) -> bool:
    if matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe):
        return bool(re.fullmatch(matcher.value, had)) is bool(matcher.op == promql_parser.MatchOp.Re)
    return (had == matcher.value) is bool(matcher.op == promql_parser.MatchOp.Equal)


LINE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*")')


@cache
def series_of(page: str, instance: str = TARGET["instance"]) -> tuple[Series, ...]:
    """The series of a golden page, as Prometheus has them after a scrape of that instance."""
    file = FOLDER / f"{page}.prom"
    if not file.is_file():
        raise ValueError(f"page {page}: there is none in tests/alerts/golden")
    target = TARGET | {"instance": instance}
    lines = (line for line in file.read_text("utf-8").splitlines() if not line.startswith("#"))
    found = (match for line in lines if (match := LINE.fullmatch(line)))
    return tuple(Series(one["name"], labels_of(one["labels"] or "") | target, one["value"]) for one in found)


def labels_of(text: str) -> dict[str, str]:
    """Read labels as Prometheus and Go write them. An empty one is no label."""
    pairs = ((key, str(ast.literal_eval(value))) for key, value in LABEL.findall(text))
    return {key: value for key, value in pairs if value}


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
