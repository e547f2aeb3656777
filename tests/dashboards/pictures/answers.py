"""Asks Prometheus what the panels of a dashboard ask, and gives it as the page in page.html draws it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from dashboards.boards import Board, expanded, usual

Json = dict[str, Any]
SCRAPED = 15.0
"""Seconds between the scrapes of the recording."""
POINTS = 240
LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Moment:
    """The time that is looked at."""

    url: str
    """The Prometheus to ask."""
    end: float
    seconds: float

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return max(SCRAPED, self.seconds / POINTS)

    @property
    def times(self) -> list[float]:
        """The points, as Prometheus gives them."""
        number = int(self.seconds / self.step) + 1
        return [self.end - self.seconds + self.step * index for index in range(number)]

    def values(self, board: Board) -> Mapping[str, str]:
        """What stands for each variable, those of Grafana itself included."""
        rate = max(self.step + SCRAPED, 4 * SCRAPED)
        own = {"__rate_interval": rate, "__interval": self.step, "__range": self.seconds}
        return usual(board) | {name: f"{value:.0f}s" for name, value in own.items()}

    def instant(self, expr: str) -> list[Json]:
        """Ask for what is now."""
        return self._asked("query", {"query": expr, "time": self.end})

    def over_time(self, expr: str) -> list[Json]:
        """Ask for what was."""
        start = self.end - self.seconds
        return self._asked("query_range", {"query": expr, "start": start, "end": self.end, "step": self.step})

    def _asked(self, how: str, parameters: Mapping[str, Any]) -> list[Json]:
        answer = httpx.post(f"{self.url}/api/v1/{how}", data=dict(parameters), timeout=60).json()
        assert answer["status"] == "success", (answer, parameters)
        found: list[Json] = answer["data"]["result"]
        return found


def page(board: Board, moment: Moment, chosen: Mapping[str, str]) -> Json:
    """Give all that is drawn of a dashboard, where something was chosen in some of its variables."""
    values = {**moment.values(board), **chosen}
    return {
        "title": board["title"],
        "variables": [_variable(each, chosen) for each in board["templating"]["list"]],
        "now": moment.end,
        "times": moment.times,
        "marks": list(_marks(board, moment, values)),
        "panels": [_panel(panel, moment, values) for panel in board["panels"]],
    }


def _variable(variable: Json, chosen: Mapping[str, str]) -> tuple[str, str]:
    return variable["label"], chosen.get(variable["name"], str(variable["current"]["text"]))


def _marks(board: Board, moment: Moment, values: Mapping[str, str]) -> Iterator[Json]:
    for annotation in board["annotations"]["list"]:
        if annotation["enable"]:
            for series in moment.over_time(expanded(annotation["expr"], values)):
                times = [float(at) for at, _ in series["values"]]
                begun = [at for at, before in zip(times, [0.0, *times], strict=False) if at - before > 2 * moment.step]
                yield from ({"at": at, "color": annotation["iconColor"]} for at in begun)


def _panel(panel: Json, moment: Moment, values: Mapping[str, str]) -> Json:
    shown = {key: panel.get(key) for key in ("type", "title", "gridPos", "options", "fieldConfig", "collapsed")}
    if panel["type"] == "table":
        return shown | _rows(panel, moment, values)
    return shown | {"series": [one for target in panel.get("targets", ()) for one in _series(target, moment, values)]}


def _series(target: Json, moment: Moment, values: Mapping[str, str]) -> Iterator[Json]:
    expr = expanded(target["expr"], values)
    answer = moment.instant(expr) if target["instant"] else moment.over_time(expr)
    for series in answer:
        points = series.get("values") or [series["value"]]
        yield {
            "ref": target["refId"],
            "name": named(target["legendFormat"], series["metric"]),
            "points": {f"{float(at):.0f}": float(value) for at, value in points},
            "last": float(points[-1][1]),
        }


def named(legend: str, labels: Mapping[str, str]) -> str:
    """Give what a series is called in the legend."""
    if legend == "__auto":
        return next(iter(labels.values())) if len(labels) == 1 else ", ".join(f"{k}={v}" for k, v in labels.items())
    return LEGEND.sub(lambda found: labels.get(found[1], ""), legend)


def _rows(panel: Json, moment: Moment, values: Mapping[str, str]) -> Json:
    """The rows of a table as Grafana's transformations merge and organize them."""
    frames = [_frame(target, moment, values) for target in panel["targets"]]
    [organized] = [each["options"] for each in panel["transformations"] if each["id"] == "organize"]
    names = organized["renameByName"]
    given = {name for frame in frames for row in frame for name in row}
    order = [name for name in sorted(names, key=organized["indexByName"].__getitem__) if name in given]
    if len(frames) == 1:
        order = [name for name in order if name != "Value"]
    rows = [[row.get(name) for name in order] for row in merged(frames)]
    columns = [names[name] for name in order]
    for sort in panel["options"].get("sortBy") or ():
        if sort["displayName"] in columns:
            rows = _sorted(rows, columns.index(sort["displayName"]), descending=sort["desc"])
    return {"columns": columns, "rows": rows}


def _frame(target: Json, moment: Moment, values: Mapping[str, str]) -> list[Json]:
    answer = moment.instant(expanded(target["expr"], values))
    return [{**series["metric"], f"Value #{target['refId']}": float(series["value"][1])} for series in answer]


def merged(frames: Sequence[list[Json]]) -> list[Json]:
    """Rows that do not differ in what they share with each other become one."""
    told = [frame for frame in frames if frame]
    shared = set.intersection(*({name for row in frame for name in row} for frame in told)) if told else set()
    rows: dict[tuple[Any, ...], Json] = {}
    for row in (row for frame in told for row in frame):
        key = tuple(row.get(name) for name in sorted(shared))
        while key in rows and any(rows[key].get(name, value) != value for name, value in row.items()):
            key = (*key, None)  # another row with the same key
        rows[key] = rows.get(key, {}) | row
    return list(rows.values())


def _sorted(rows: list[list[Any]], column: int, *, descending: bool) -> list[list[Any]]:
    there = [row for row in rows if row[column] is not None]
    return sorted(there, key=lambda row: row[column], reverse=descending) + [row for row in rows if row[column] is None]
