"""The rules for dashboards: those of Grafana's dashboard-linter, and our own. Each gives what is wrong, and where."""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import promql_parser as promql
from dashboards.boards import INTERVALS, Board, Target, expanded, panels, targets, usual, variables
from grafana_foundation_sdk.models import units

Complaints = Iterator[tuple[str, str]]
"""The title of the panel it is about, or nothing, and what is wrong."""

UNITS = frozenset(value for name, value in vars(units).items() if name[0].isupper() and isinstance(value, str))
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
QUERIED = frozenset({"stat", "timeseries", "table", "state-timeline", "bargauge"})
SAID = QUERIED | {"text"}
FOLD = 18
"""Rows of Grafana's grid that a laptop shows without scrolling."""
ABOVE_FOLD = 12
RATES = {"rate", "irate"}
COUNTING = RATES | {"increase"}


def template_datasource(board: Board) -> Complaints:
    """The data source is chosen by a variable."""
    found = variables(board).get("datasource")
    if not found or (found["type"], found["query"], found["label"]) != ("datasource", "prometheus", "Data source"):
        yield "", "has no variable `datasource`, labelled Data source, for Prometheus"


def template_job(board: Board) -> Complaints:
    """Jobs can be chosen, several of them."""
    yield from _choice(board, "job", "Job")


def template_instance(board: Board) -> Complaints:
    """Instances can be chosen, several of them."""
    yield from _choice(board, "instance", "Instance")


def _choice(board: Board, name: str, label: str) -> Complaints:
    found = variables(board).get(name, {})
    wanted = {
        "type": "query",
        "label": label,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "datasource": SOURCE,
    }
    for key, value in wanted.items():
        if found.get(key) != value:
            yield "", f"variable {name}: {key} is {found.get(key)!r}, not {value!r}"


def template_label_promql(board: Board) -> Complaints:
    """A variable asks Prometheus a question that it understands."""
    for name, variable in _asking(board):
        inner = LABEL_VALUES.fullmatch(variable["query"]["query"])
        if not inner or not _parsed(expanded(inner["selector"], usual(board))):
            yield "", f"variable {name}: no label_values() of a valid selector"


LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")


def template_on_time_change_reload(board: Board) -> Complaints:
    """The values of a variable are those of the time that is looked at."""
    for name, variable in _asking(board):
        if variable.get("refresh") != 2:
            yield "", f"variable {name}: is not read anew when the time range changes"


def _asking(board: Board) -> list[tuple[str, Any]]:
    return [(name, variable) for name, variable in variables(board).items() if variable["type"] == "query"]


def panel_datasource(board: Board) -> Complaints:
    """Every panel and every query goes to the data source that was chosen."""
    for panel in panels(board):
        asked = [panel, *panel.get("targets", ())] if panel.get("targets") else []
        if any(each.get("datasource") != SOURCE for each in asked):
            yield panel["title"], "does not use ${datasource}"


def panel_title_description(board: Board) -> Complaints:
    """A panel says what it shows, and what that means."""
    for panel in panels(board):
        if not panel.get("title") or (panel["type"] != "text" and not panel.get("description", "").endswith(".")):
            yield panel.get("title", ""), "lacks a title, or a description of whole sentences"


def panel_units(board: Board) -> Complaints:
    """A number has a unit, unless it stands for a word."""
    for panel in panels(board):
        if panel["type"] == "table":
            for title, properties in _columns(panel).items():
                if properties.get("unit") not in UNITS:
                    yield panel["title"], f"column {title}: unit is {properties.get('unit')!r}"
        elif panel["type"] in QUERIED:
            defaults = panel["fieldConfig"]["defaults"]
            words = defaults.get("mappings") or panel["options"].get("textMode") == "name"
            if defaults.get("unit") not in UNITS or (defaults["unit"] == "none" and not words):
                yield panel["title"], f"unit is {defaults.get('unit')!r}"


def _columns(panel: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The columns of numbers of a table, with what is said of each."""
    [renamed] = [each["options"]["renameByName"] for each in panel["transformations"] if each["id"] == "organize"]
    said = {
        each["matcher"]["options"]: {one["id"]: one["value"] for one in each["properties"]}
        for each in panel["fieldConfig"]["overrides"]
    }
    return {title: said.get(title, {}) for name, title in renamed.items() if name.startswith("Value")}


def panel_no_targets(board: Board) -> Complaints:
    """A panel that shows data asks for some."""
    for panel in panels(board):
        if panel["type"] in QUERIED and not panel.get("targets"):
            yield panel["title"], "asks nothing"


def target_promql(board: Board) -> Complaints:
    """An expression is one that Prometheus understands."""
    for target in targets(board):
        if not _parsed(expanded(target.expr, usual(board))):
            yield target.panel["title"], f"{target.ref}: is no PromQL: {target.expr}"


def target_rate_interval(board: Board) -> Complaints:
    """A rate spans enough scrapes, however long the time shown is."""
    wanted = promql.parse_duration(INTERVALS["__rate_interval"])
    for target, expr in _expressions(board):
        if any(name in RATES and span not in (None, wanted) for name, span in _spans(expr)):
            yield target.panel["title"], f"{target.ref}: rate() not over $__rate_interval"


def _spans(expr: promql.Expr) -> Iterator[tuple[str, timedelta | None]]:
    for part in _parts(expr):
        if isinstance(part, promql.Call):
            yield (
                part.func.name,
                next((each.range for each in part.args if isinstance(each, promql.MatrixSelector)), None),
            )


def target_job(board: Board) -> Complaints:
    """Every selector takes the chosen jobs."""
    yield from _narrowed(board, "job")


def target_instance(board: Board) -> Complaints:
    """Every selector takes the chosen instances."""
    yield from _narrowed(board, "instance")


def _narrowed(board: Board, name: str) -> Complaints:
    chosen = {**usual(board), name: "CHOSEN"}
    for target, expr in _expressions(board, chosen):
        for selector in _selectors(expr):
            matchers = [(each.name, each.op, each.value) for each in selector.matchers.matchers]
            if (name, promql.MatchOp.Re, "CHOSEN") not in matchers:
                yield target.panel["title"], f'{target.ref}: {selector.name} without {name}=~"${name}"'


def target_counter_agg(board: Board) -> Complaints:
    """A counter is only looked at by how fast it rises."""
    for target, expr in _expressions(board):
        for selector in _selectors(expr, past=COUNTING):
            if (selector.name or "").endswith("_total"):
                yield target.panel["title"], f"{target.ref}: {selector.name} is a counter"


def uneditable_dashboard(board: Board) -> Complaints:
    """Nobody changes what the next update would overwrite."""
    if board.get("editable") is not False:
        yield "", "can be edited"


def stable_ids(board: Board) -> Complaints:
    """Ids are there, and each is there once; queries are called A, B, ..."""
    ids = [
        each["id"] for each in (*board["panels"], *panels(board)) if each["type"] != "row" or each in board["panels"]
    ]
    found = {each["id"]: each["title"] for each in panels(board)}
    rows = [each["id"] for each in board["panels"] if each["type"] == "row"]
    if len(found) + len(set(rows)) != len(list(panels(board))) + len(rows) or set(rows) & found.keys() or 0 in ids:
        yield "", "panels share an id, or have none"
    for panel in panels(board):
        refs = [target["refId"] for target in panel.get("targets", ())]
        if refs != [chr(ord("A") + index) for index in range(len(refs))]:
            yield panel["title"], f"queries are called {refs}"
    if board.get("id") is not None or not 8 <= len(board["uid"]) <= 40:
        yield "", "has a database id, or a uid that is too short or too long"


def panel_empty(board: Board) -> Complaints:
    """A panel without data says what that means."""
    for panel in panels(board):
        if panel["type"] in QUERIED and not panel["fieldConfig"]["defaults"].get("noValue"):
            yield panel["title"], "does not say what it means when it is empty"


def known_kinds(board: Board) -> Complaints:
    """Panels are of kinds that come with Grafana, and that these rules know."""
    for panel in panels(board):
        if panel["type"] not in SAID:
            yield panel["title"], f"is a {panel['type']}"


def rows_ask(board: Board) -> Complaints:
    """All panels stand in rows, and a row is one question."""
    if board["panels"][0]["type"] != "row":
        yield "", "has panels above the first row"
    for row in board["panels"]:
        if row["type"] == "row" and not row["title"].endswith("?"):
            yield row["title"], "is a row that asks no question"
    if board["panels"][0].get("collapsed"):
        yield board["panels"][0]["title"], "is the first row, and collapsed"


def above_the_fold(board: Board) -> Complaints:
    """What is seen first is not too much, and fits the grid without overlaps."""
    shown = [each for each in board["panels"] if each["type"] != "row"]
    first = [each for each in shown if each["gridPos"]["y"] < FOLD]
    if len(first) > ABOVE_FOLD:
        yield "", f"shows {len(first)} panels before one scrolls: {[each['title'] for each in first]}"
    for panel in panels(board):
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            yield panel["title"], "is wider than the grid"


def links(board: Board) -> Complaints:
    """The other dashboards are a click away, with time range and variables, and none is tied to a server's address."""
    if not any(each["type"] == "dashboards" and each["keepTime"] and each["includeVars"] for each in board["links"]):
        yield "", "has no list of the other dashboards"
    if "postgresql" not in board["tags"]:
        yield "", "is not in the list of the other dashboards"
    for panel in panels(board):
        for link in _data_links(panel):
            if link["url"].startswith("/d/") and not {"${__url_time_range}", "${datasource:queryparam}"} <= set(
                re.split("[?&]", link["url"])
            ):
                yield panel["title"], f"link {link['title']}: loses time range or data source"
            elif not link["url"].startswith(("/d/", "https://")):
                yield panel["title"], f"link {link['title']}: {link['url']}"


def _data_links(panel: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    config = panel.get("fieldConfig", {})
    yield from config.get("defaults", {}).get("links") or ()
    for override in config.get("overrides", ()):
        for one in override["properties"]:
            if one["id"] == "links":
                yield from one["value"]


RULES: Mapping[str, Callable[[Board], Complaints]] = {
    f"{rule.__name__.replace('_', '-')}-rule": rule
    for rule in (
        template_datasource,
        template_job,
        template_instance,
        template_label_promql,
        template_on_time_change_reload,
        panel_datasource,
        panel_title_description,
        panel_units,
        panel_no_targets,
        target_promql,
        target_rate_interval,
        target_job,
        target_instance,
        target_counter_agg,
        uneditable_dashboard,
        stable_ids,
        panel_empty,
        known_kinds,
        rows_ask,
        above_the_fold,
        links,
    )
}
"""The rules as dashboard-linter calls them, those on Loki left out; the last seven are ours."""


def _parsed(expression: str) -> promql.Expr | None:
    try:
        return promql.parse(expression)
    except ValueError:
        return None


def _expressions(board: Board, values: Mapping[str, str] | None = None) -> Iterator[tuple[Target, promql.Expr]]:
    for target in targets(board):
        if expr := _parsed(expanded(target.expr, values or usual(board))):
            yield target, expr


def _children(expr: promql.Expr) -> list[promql.Expr]:
    match expr:
        case promql.Call():
            return list(expr.args)
        case promql.BinaryExpr():
            return [expr.lhs, expr.rhs]
        case promql.AggregateExpr():
            return [expr.expr, *([expr.param] if expr.param else [])]
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return [expr.expr]
        case _:
            return []


def _parts(expr: promql.Expr, past: frozenset[str] | set[str] = frozenset()) -> Iterator[promql.Expr]:
    """All parts of an expression, but for what stands in calls of these functions."""
    if isinstance(expr, promql.Call) and expr.func.name in past:
        return
    yield expr
    for child in _children(expr):
        yield from _parts(child, past)


def _selectors(expr: promql.Expr, past: set[str] | frozenset[str] = frozenset()) -> Iterator[promql.VectorSelector]:
    for part in _parts(expr, past):
        if isinstance(part, promql.MatrixSelector):
            yield part.vector_selector
        elif isinstance(part, promql.VectorSelector):
            yield part
