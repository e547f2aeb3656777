"""The dashboards keep the rules; exceptions stand in dashboards/.lint, each with its reason."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from dashboards.boards import FOLDER, Board, board, panels, uids
from dashboards.lint import RULES

EXCLUSIONS: dict[str, Any] = (yaml.safe_load((FOLDER / ".lint").read_text("utf-8")) or {}).get("exclusions") or {}


def _excluded(rule: str, uid: str, panel: str) -> bool:
    entries = EXCLUSIONS.get(rule, {}).get("entries", ())
    return any(one["dashboard"] == uid and one.get("panel", panel) == panel for one in entries)


def test_every_dashboard_keeps_every_rule() -> None:
    found = [
        f"{uid}: {rule}: {panel}: {wrong}"
        for uid in uids()
        for rule in RULES
        for panel, wrong in RULES[rule](board(uid))
        if not _excluded(rule, uid, panel)
    ]

    assert found == []


def test_every_exclusion_has_a_reason_and_is_needed() -> None:
    assert EXCLUSIONS.keys() <= RULES.keys()
    for rule, exclusion in EXCLUSIONS.items():
        assert exclusion["reason"].endswith(".")
        for entry in exclusion["entries"]:
            found = [panel for panel, _ in RULES[rule](board(entry["dashboard"]))]
            assert entry.get("panel", found[0]) in found, f"{rule}: {entry}"


def _variable(name: str, **changes: Any) -> Callable[[Board], None]:
    def change(shown: Board) -> None:
        [found] = [each for each in shown["templating"]["list"] if each["name"] == name]
        found.update(changes)

    return change


def _panel(kind: str, change: Callable[[Any], None]) -> Callable[[Board], None]:
    return lambda shown: change(next(panel for panel in panels(shown) if panel["type"] == kind))


def _expr(expression: str) -> Callable[[Board], None]:
    return _panel("timeseries", lambda panel: panel["targets"][0].update(expr=expression))


def _row(shown: Board, **changes: Any) -> None:
    shown["panels"][0].update(changes)


NARROW = 'job=~"$job", instance=~"$instance"'

BROKEN: list[tuple[str, Callable[[Board], None]]] = [
    ("template-datasource-rule", _variable("datasource", label="Source")),
    ("template-job-rule", _variable("job", multi=False)),
    ("template-job-rule", _variable("job", allValue=".*")),
    ("template-instance-rule", _variable("instance", label="instance")),
    ("template-label-promql-rule", _variable("job", query={"query": "label_values(pg_up{, job)"})),
    ("template-on-time-change-reload-rule", _variable("instance", refresh=1)),
    ("panel-datasource-rule", _panel("timeseries", lambda one: one.update(datasource={"uid": "prometheus"}))),
    ("panel-datasource-rule", _panel("stat", lambda one: one["targets"][0].update(datasource={"uid": "prometheus"}))),
    ("panel-title-description-rule", _panel("stat", lambda one: one.update(title=""))),
    ("panel-title-description-rule", _panel("table", lambda one: one.pop("description"))),
    ("panel-units-rule", _panel("timeseries", lambda one: one["fieldConfig"]["defaults"].pop("unit"))),
    ("panel-units-rule", _panel("timeseries", lambda one: one["fieldConfig"]["defaults"].update(unit="suffix:/s"))),
    ("panel-units-rule", _panel("timeseries", lambda one: one["fieldConfig"]["defaults"].update(unit="", mappings=[]))),
    ("panel-units-rule", _panel("table", lambda one: one["fieldConfig"].update(overrides=[]))),
    ("panel-no-targets-rule", _panel("stat", lambda one: one.update(targets=[]))),
    ("target-promql-rule", _expr("sum(rate(pg_up[5m])")),
    ("target-promql-rule", _expr(f"topk($many, pg_up{{{NARROW}}})")),
    ("target-rate-interval-rule", _expr(f"rate(pg_database_commits_total{{{NARROW}}}[5m])")),
    ("target-job-rule", _expr('pg_up{instance=~"$instance"}')),
    ("target-job-rule", _expr('pg_up{job="$job", instance=~"$instance"}')),
    ("target-instance-rule", _expr('sum(max_over_time(pg_up{job=~"$job"}[1h]))')),
    ("target-counter-agg-rule", _expr(f"sum(pg_database_commits_total{{{NARROW}}})")),
    ("target-counter-agg-rule", _expr(f"max_over_time(pg_database_commits_total{{{NARROW}}}[1h])")),
    ("uneditable-dashboard-rule", lambda shown: shown.update(editable=True)),
    ("stable-ids-rule", _panel("stat", lambda one: one.update(id=0))),
    ("stable-ids-rule", _panel("stat", lambda one: one["targets"][0].update(refId=""))),
    ("stable-ids-rule", lambda shown: shown["panels"][1].update(id=shown["panels"][2]["id"])),
    ("stable-ids-rule", lambda shown: shown["panels"][0].update(id=shown["panels"][2]["id"])),
    ("panel-empty-rule", _panel("table", lambda one: one["fieldConfig"]["defaults"].pop("noValue"))),
    ("known-kinds-rule", _panel("stat", lambda one: one.update(type="grafana-piechart-panel"))),
    ("rows-ask-rule", lambda shown: _row(shown, title="Overview")),
    ("rows-ask-rule", lambda shown: _row(shown, collapsed=True)),
    ("above-the-fold-rule", lambda shown: shown["panels"].extend([shown["panels"][1]] * 13)),
    ("above-the-fold-rule", _panel("stat", lambda one: one["gridPos"].update(x=23))),
    ("links-rule", lambda shown: shown.update(links=[])),
    ("links-rule", lambda shown: shown.update(tags=[])),
    (
        "links-rule",
        _panel("stat", lambda one: one["fieldConfig"]["defaults"].update(links=[{"title": "", "url": "/d/x"}])),
    ),
]


@pytest.mark.parametrize(("rule", "breaking"), BROKEN, ids=[rule for rule, _ in BROKEN])
def test_a_rule_finds_what_breaks_it(rule: str, breaking: Callable[[Board], None]) -> None:
    shown = board("pg-instance")
    before = list(RULES[rule](shown))
    breaking(shown)

    assert len(list(RULES[rule](shown))) > len(before)


def test_every_rule_is_seen_to_find_something() -> None:
    assert {rule for rule, _ in BROKEN} == RULES.keys()
