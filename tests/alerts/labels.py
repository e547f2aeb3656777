"""Works out which labels an expression's series have, by the catalog, and what in it cannot be right."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import promql_parser as promql
from alerts.ruleset import Rule
from pages import catalog

from exporter.commands.rules import TAKEN
from exporter.exposition.self_metrics import OWN
from exporter.scrape.statement_texts import METRICS as TEXTS
from exporter.watch.wait_sampler import METRICS as SAMPLED

Labels = frozenset[str]

SCRAPED = frozenset({"job", "instance"})
"""The labels that every series has once it was scraped."""

FILE_SYSTEM = frozenset({"device", "fstype", "mountpoint"})

PROMETHEUS: Mapping[str, Labels] = {
    "up": frozenset(),
    "scrape_duration_seconds": frozenset(),
    "scrape_samples_scraped": frozenset(),
    "scrape_timeout_seconds": frozenset(),  # with the feature extra-scrape-metrics only
    "node_filesystem_avail_bytes": FILE_SYSTEM,
    "node_filesystem_size_bytes": FILE_SYSTEM,
    "node_filesystem_readonly": FILE_SYSTEM,
    "ALERTS": TAKEN | {"alertstate"},
    "ALERTS_FOR_STATE": TAKEN,
    "process_cpu_seconds_total": frozenset(),  # on the exporter's own page, not on those of its several targets
    "process_resident_memory_bytes": frozenset(),
    "process_start_time_seconds": frozenset(),
}
"""What is used beside our own: Prometheus' own series, and file systems as node_exporter has them."""

SOMETIMES: Mapping[str, Labels] = {
    **{name: frozenset({"target"}) for name in ("pg_up", "pg_up_reason", "pgbouncer_up", "pgbouncer_up_reason")},
    "pg_server_info": frozenset({"clone"}),
}
"""Labels that a metric has in some places only.

The page of an exporter with several targets says which are up. A user gives a target the label `clone` in Prometheus.
"""

SCALARS = {"time", "scalar", "pi"}
PICKING = {"topk", "bottomk"}
"""Aggregations that give some of the series as they are."""
RELABELLING = {"label_replace", "label_join"}


class LabelError(Exception):
    """An expression that uses a metric or label that does not exist, or that cannot match."""


@cache
def exported() -> Mapping[str, Labels]:
    """Every metric the exporter has, with its labels before Prometheus adds its own."""
    found = {metric.name: frozenset(metric.labels) for metric in (*OWN, *SAMPLED, *TEXTS)}
    for collector in catalog():
        for metric in collector.metrics:
            found[metric.name] = frozenset(collector.labels_of(metric))
            if total := metric.in_total():
                found[total.name] = frozenset()
    return found


@dataclass(frozen=True)
class Known:
    """The metrics there are, and what recording rules make of them."""

    records: Mapping[str, Rule] = field(default_factory=dict)

    def of_metric(self, name: str) -> Labels:
        """The labels of a metric or of a recorded series."""
        if record := self.records.get(name):
            labels = self.of(promql.parse(record.expr))
            return (labels or frozenset()) | frozenset(record.labels)
        for source in (exported(), PROMETHEUS):
            if name in source:
                return source[name] | SCRAPED
        raise LabelError(f"{name}: no such metric")

    def of(self, expr: promql.Expr) -> Labels | None:
        """The labels that the series of an expression may have; None for a scalar or a string."""
        match expr:
            case promql.VectorSelector():
                return self._selected(expr)
            case promql.MatrixSelector():
                return self._selected(expr.vector_selector)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self.of(expr.expr)
            case promql.AggregateExpr():
                return self._aggregated(expr)
            case promql.Call():
                return self._called(expr)
            case promql.BinaryExpr():
                return self._combined(expr)
            case _:
                return None

    def _selected(self, selector: promql.VectorSelector) -> Labels:
        if not selector.name:
            raise LabelError(f"{selector}: names no metric")
        labels = self.of_metric(selector.name)
        matched = {matcher.name for matcher in selector.matchers.matchers}
        _exist(matched - SOMETIMES.get(selector.name, frozenset()), labels, selector.name)
        return labels

    def _aggregated(self, expr: promql.AggregateExpr) -> Labels:
        inner = self.of(expr.expr) or frozenset()
        if str(expr.op) in PICKING:
            return inner
        if expr.modifier is None:
            return frozenset()
        named = frozenset(expr.modifier.labels)
        _exist(named, inner, expr.prettify())
        return named if expr.modifier.type == promql.AggModifierType.By else inner - named

    def _called(self, call: promql.Call) -> Labels | None:
        name = call.func.name
        if name in SCALARS:
            return None
        if name in {"vector", "absent"}:
            return frozenset()
        inner = [labels for arg in call.args if (labels := self.of(arg)) is not None]
        labels = inner[0] if inner else frozenset()
        return labels | {call.args[1].val} if name in RELABELLING else labels

    def _combined(self, expr: promql.BinaryExpr) -> Labels | None:
        left, right = self.of(expr.lhs), self.of(expr.rhs)
        if left is None or right is None:
            return right if left is None else left
        modifier, text = expr.modifier, expr.prettify()
        matched = _matched(left, right, modifier.matching if modifier else None, text)
        operator = str(expr.op)
        if operator in {"and", "unless"}:
            return left
        if operator == "or":
            return left | right
        return _joined(left, right, matched, modifier, text)


def _matched(left: Labels, right: Labels, matching: promql.LabelModifier | None, text: str) -> Labels:
    """The labels that series of the two sides are matched by."""
    if matching is None:
        if left != right:
            raise LabelError(f"no on() or ignoring(), but {sorted(left)} and {sorted(right)} differ: {text}")
        return left
    named = frozenset(matching.labels)
    if matching.type == promql.LabelModifierType.Include:
        _exist(named, left, f"on() of {text}")
        _exist(named, right, f"on() of {text}")
        return named
    if left - named != right - named:
        raise LabelError(f"{sorted((left - named) ^ (right - named))}: not on both sides, and not ignored: {text}")
    return left - named


def _joined(left: Labels, right: Labels, matched: Labels, modifier: promql.BinModifier | None, text: str) -> Labels:
    """The labels of what arithmetic or a comparison gives."""
    if modifier is None or modifier.card == promql.VectorMatchCardinality.OneToOne:
        return matched
    many, one = (left, right) if modifier.card == promql.VectorMatchCardinality.ManyToOne else (right, left)
    added = frozenset(modifier.group_labels or ())
    _exist(added, one, f"group_left() or group_right() of {text}")
    return many | added


def _exist(named: "set[str] | Labels", labels: Labels, place: str) -> None:
    if missing := named - labels:
        raise LabelError(f"{', '.join(sorted(missing))}: no such label there; there are {sorted(labels)}: {place}")


def comparisons(expr: promql.Expr) -> Iterator[promql.BinaryExpr]:
    """All comparisons of an expression."""
    found: list[promql.BinaryExpr] = []

    def visit(part: promql.Expr) -> None:
        if isinstance(part, promql.BinaryExpr) and str(part.op) in {"==", "!=", "<", ">", "<=", ">="}:
            found.append(part)

    promql.walk(expr, visit)
    yield from found
