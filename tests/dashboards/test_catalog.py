"""Dashboards watch what there is: the exporter's metrics and labels; and alerts land on the panels that show why."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import promql_parser as promql
import pytest
from alerts.labels import Known, Labels
from alerts.ruleset import Rule, load, selectors
from dashboards.boards import FOLDER, Target, board, boards, expanded, panels, targets, uids, usual, variables
from dashboards.lint import LABEL_VALUES

RULES = load()
KNOWN = Known(RULES.records)

LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")
LINKED = re.compile(r"\$\{__(data\.fields|field\.labels)\.(\w+)\}")
DASHBOARD = re.compile(r'"/d/(?P<uid>[\w-]+)[^"]*"')
LANDS = re.compile(r"/d/(?P<uid>[\w-]+)(?:.*[?&]viewPanel=(?P<panel>\d+))?")


def _labels(target: Target) -> Labels:
    return KNOWN.of(promql.parse(expanded(target.expr, usual(target.board)))) or frozenset()


@pytest.mark.parametrize("uid", uids())
def test_metrics_and_labels_are_those_of_the_exporter(uid: str) -> None:
    """A LabelError says which metric or label there is not, or what cannot match."""
    for target in targets(board(uid)):
        assert set(LEGEND.findall(target.legend)) <= _labels(target), target.place


@pytest.mark.parametrize("uid", uids())
def test_variables_and_annotations_use_what_there_is(uid: str) -> None:
    shown = board(uid)
    for variable in variables(shown).values():
        if variable["type"] == "query":
            found = LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert found
            assert found["label"] in (KNOWN.of(promql.parse(expanded(found["selector"], usual(shown)))) or ()), variable
    for annotation in shown["annotations"]["list"]:
        labels = KNOWN.of(promql.parse(expanded(annotation["expr"], usual(shown)))) or frozenset()
        assert {*LEGEND.findall(annotation["titleFormat"]), *annotation["tagKeys"].split(",")} <= labels, annotation


def _renamed(panel: Mapping[str, Any]) -> dict[str, str]:
    found = [each["options"]["renameByName"] for each in panel["transformations"] if each["id"] == "organize"]
    return {name: title for name, title in found[0].items() if not name.startswith("Value")}


@pytest.mark.parametrize("uid", uids())
def test_the_columns_of_a_table_meet_in_its_rows(uid: str) -> None:
    """Rows are merged by the labels that all queries give; one that only some give is shown beside them."""
    for panel in panels(board(uid)):
        if panel["type"] == "table":
            given = [_labels(target) for target in targets(board(uid)) if target.panel["id"] == panel["id"]]
            assert frozenset.union(*given) == _renamed(panel).keys(), panel["title"]
            assert frozenset.intersection(*given), panel["title"]


@pytest.mark.parametrize("uid", uids())
def test_links_carry_labels_that_are_there(uid: str) -> None:
    shown = board(uid)
    for panel in panels(shown):
        there = [_labels(target) for target in targets(shown) if target.panel["id"] == panel["id"]]
        for kind, label in LINKED.findall(str(panel.get("fieldConfig"))):
            assert any(label in labels for labels in there), f"{panel['title']}: {label}"
            assert (kind == "data.fields") == (panel["type"] == "table"), f"{panel['title']}: {label}"


def _read(metrics: Iterator[str]) -> set[str]:
    """Metrics, with those that recording rules make of others beside what they are made of."""
    found = set(metrics)
    records = [RULES.records[name] for name in found & RULES.records.keys()]
    return found | {name for record in records for name in _read(each.name or "" for each in record.selectors)}


def _landing(alert: Rule) -> re.Match[str]:
    found = LANDS.search(alert.annotations["dashboard_url"])
    assert found, alert.name
    return found


ON_OURS = [alert for alert in RULES.alerts.values() if _landing(alert)["uid"] in uids()]


def test_an_alert_lands_on_the_panel_that_shows_why_it_fires(subtests: pytest.Subtests) -> None:
    for alert in ON_OURS:
        with subtests.test(alert.name):
            link = _landing(alert)
            shown = board(link["uid"])
            [panel] = [each for each in panels(shown) if str(each["id"]) == link["panel"]]
            there = [target for target in targets(shown) if target.panel["id"] == panel["id"]]
            asked = [expanded(target.expr, usual(shown)) for target in there]
            metrics = _read(selector.name or "" for expression in asked for selector in selectors(expression))

            assert alert.annotations["runbook_url"] in [each["url"] for each in panel["links"]]
            assert "ALERTS" in metrics or metrics & _read(selector.name or "" for selector in alert.selectors)


def test_every_alert_lands_on_a_dashboard() -> None:
    assert {_landing(alert)["uid"] for alert in RULES.alerts.values()} <= set(uids())


@pytest.mark.parametrize("uid", uids())
def test_links_lead_to_dashboards_and_variables_that_there_are(uid: str) -> None:
    for link in DASHBOARD.finditer((FOLDER / f"{uid}.json").read_text("utf-8")):
        assert link["uid"] in uids(), link[0]
        assert set(re.findall(r"var-(\w+)=", link[0])) <= variables(board(link["uid"])).keys(), link[0]


def test_a_panel_links_runbooks_that_there_are() -> None:
    urls = {alert.annotations["runbook_url"] for alert in RULES.alerts.values()}

    assert boards()
    for shown in boards():
        for panel in panels(shown):
            assert {each["url"] for each in panel.get("links", ())} <= urls, panel["title"]
