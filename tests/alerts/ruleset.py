"""Reads the rule files, and says which metrics an alert needs, by way of recording rules and annotations too."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import promql_parser
import yaml

ALERTS = Path(__file__).parents[2] / "alerts"

ANNOTATED = re.compile(r"\b(?:(?:pg|pgbouncer|pgvigil|node|scrape)_\w+|up\b|\w+(?::\w+)+)")
"""What looks like a metric in the template of an annotation, where it can only stand in a query."""


@dataclass(frozen=True)
class Rule:
    """One alert, or one recorded series."""

    name: str
    subject: str
    """The file it stands in, without its ending."""
    expr: str
    alerting: bool
    hold: str = ""
    """Its `for`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def selectors(self) -> list[promql_parser.VectorSelector]:
        """The vector selectors of its expression."""
        return selectors(self.expr)

    @property
    def mentioned(self) -> set[str]:
        """The metrics and recorded series of its expression and its annotations."""
        texts = (re.sub(r"\{\{.*?\}\}|.", _query, text, flags=re.DOTALL) for text in self.annotations.values())
        named = {selector.name or "" for selector in self.selectors}
        return named | {name for text in texts for name in ANNOTATED.findall(text)}


def _query(found: "re.Match[str]") -> str:
    """The template actions that query, and nothing else."""
    return f"{found[0]} " if found[0].startswith("{{") and "query" in found[0] and "urlquery" not in found[0] else ""


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """All vector selectors of an expression, those of subqueries and ranges included."""
    found: list[promql_parser.VectorSelector] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            found.append(part.vector_selector)
        elif isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@dataclass(frozen=True)
class Needs:
    """What has to be there for an alert to be evaluated."""

    metrics: frozenset[str]
    """The metrics that it, and the recording rules it uses, read."""
    rules: frozenset[str]
    """The alert and the recording rules that it uses."""
    subjects: tuple[str, ...]
    """The rule files, those that record what others use first."""


@dataclass(frozen=True)
class Rules:
    """All rules of a folder."""

    alerts: Mapping[str, Rule]
    records: Mapping[str, Rule]

    def needs(self, alert: Rule) -> Needs:
        """Follow recording rules to the metrics that the exporter has to show."""
        order: dict[str, None] = {}
        metrics: set[str] = set()
        names: set[str] = set()
        self._follow(alert, metrics, names, order)
        return Needs(frozenset(metrics), frozenset(names), tuple(order))

    def _follow(self, rule: Rule, metrics: set[str], names: set[str], order: dict[str, None]) -> None:
        for name in sorted(rule.mentioned):
            if record := self.records.get(name):
                self._follow(record, metrics, names, order)
            else:
                metrics.add(name)
        names.add(rule.name)
        order.setdefault(rule.subject)


def load(folder: Path = ALERTS / "rules") -> Rules:
    """Read every rule file of the folder."""
    rules = [rule for file in sorted(folder.glob("*.yml")) for rule in _rules(file)]
    return Rules(
        {rule.name: rule for rule in rules if rule.alerting}, {rule.name: rule for rule in rules if not rule.alerting}
    )


def _rules(file: Path) -> Iterator[Rule]:
    for group in yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)["groups"]:
        for rule in group["rules"]:
            yield Rule(
                name=rule.get("alert") or rule["record"],
                subject=file.stem,
                expr=str(rule["expr"]),
                alerting="alert" in rule,
                hold=str(rule.get("for", "")),
                labels=rule.get("labels") or {},
                annotations=rule.get("annotations") or {},
            )
