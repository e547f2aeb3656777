"""The vocabulary of the dashboards: what a panel shows, and how each kind of panel looks.

A dashboard is a module beside this one with a function `dashboard()` that returns a `Dashboard` (layout.py): a uid, a
title, variables, and rows of panels, left to right; the layout follows from their widths. instance.py is the example.

- The first argument of a panel is its key. Its id comes from that, so it stays the same, whatever the title becomes.
- Expressions are PromQL with a scope in each selector: `pg_up{<server>}` for the chosen job and instance,
  `pg_database_size_bytes{<database>, ...}` for the chosen databases too (expressions.py).
  rate() is over `$__rate_interval`.
- `empty` says what it means when the panel has nothing to show, as the person who looks at it reads it.
- `alerts` are those whose dashboard_url lands on the panel: generate.py writes that into alerts/rules. Their runbooks
  are linked from the panel; `runbooks` links those of other alerts, too.
- `steps` are where the colour changes, as alerts have it (alert_thresholds.py):
  `rising(warning=of("PostgreSQLConnectionsNearlyUsed", "ratio"))`.
- `links` lead from a series or a cell to its dashboard (links.py): `of_series` in graphs and stats, `to` in tables.
- A ranking is a `table` that is `ranked`, all of its columns aggregated by the same labels; in a graph, `leading`
  (expressions.py) keeps to the series that lead over the whole time shown.

`uv run python dashboards/source/generate.py` writes the JSON; tests/dashboards says what is wrong with it.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import ascii_uppercase
from typing import Literal

from grafana_foundation_sdk.models import bargauge as bargauges
from grafana_foundation_sdk.models import common, prometheus, statetimeline
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import stat as stats
from grafana_foundation_sdk.models import table as tables
from grafana_foundation_sdk.models import text as texts
from grafana_foundation_sdk.models import timeseries as graphs

from dashboards.source.alert_thresholds import NEUTRAL, Steps
from dashboards.source.expressions import full, leading
from dashboards.source.links import runbook
from dashboards.source.variables import SOURCE

Mappings = Sequence[tuple[float, str, str]]
"""A value, what stands for it, and its colour."""
Links = Sequence[model.DashboardLink]


def identifier(key: str) -> int:
    """Give the id that a panel keeps as long as it keeps its key."""
    return zlib.crc32(key.encode()) % 1_000_000


@dataclass(frozen=True)
class Query:
    """One query, and how its series are called and drawn."""

    expr: str
    legend: str = ""
    style: Literal["", "past", "limit"] = ""
    """`past` is dashed and pale, as last week beside this one; `limit` is a red line."""


@dataclass(frozen=True)
class Column:
    """One column of numbers in a table."""

    title: str
    expr: str
    unit: str = "short"
    steps: Steps = NEUTRAL
    mappings: Mappings = ()
    links: Links = ()
    bar: bool = False
    """Drawn as a bar from 0 to 1."""


@dataclass(frozen=True)
class Panel:
    """A panel, but for where it stands."""

    key: str
    title: str
    description: str
    kind: str
    options: object
    width: int
    height: int
    queries: Sequence[Query] = ()
    instant: bool = True
    points: int | None = None
    """How many points a line has at most; as many as the panel is wide when not said."""
    format: prometheus.PromQueryFormat = prometheus.PromQueryFormat.TIME_SERIES
    defaults: model.FieldConfig = field(default_factory=model.FieldConfig)
    overrides: Sequence[model.DashboardFieldConfigSourceOverrides] = ()
    transformations: Sequence[model.DataTransformerConfig] = ()
    alerts: Sequence[str] = ()
    runbooks: Sequence[str] = ()

    @property
    def id(self) -> int:
        """The id in the JSON, and in links."""
        return identifier(self.key)

    def at(self, x: int, y: int) -> model.Panel:
        """Give the panel as it stands in the JSON."""
        return model.Panel(
            type_val=self.kind,
            id_val=self.id,
            title=self.title,
            description=self.description,
            datasource=SOURCE if self.queries else None,
            targets=[self._target(*each) for each in zip(ascii_uppercase, self.queries, strict=False)] or None,
            grid_pos=model.GridPos(h=self.height, w=self.width, x=x, y=y),
            links=[runbook(alert) for alert in (*self.alerts, *self.runbooks)],
            transformations=list(self.transformations) or None,
            max_data_points=self.points,
            options=self.options,
            field_config=model.FieldConfigSource(defaults=self.defaults, overrides=list(self.overrides)),
        )

    def _target(self, ref: str, query: Query) -> prometheus.Dataquery:
        return prometheus.Dataquery(
            ref_id=ref,
            expr=full(query.expr),
            legend_format=query.legend or "__auto",
            instant=self.instant,
            range_val=not self.instant,
            format_val=self.format,
            editor_mode=prometheus.QueryEditorMode.CODE,
            datasource=SOURCE,
        )


def stat(
    key: str,
    title: str,
    description: str,
    *queries: Query | str,
    unit: str,
    empty: str,
    steps: Steps = NEUTRAL,
    mappings: Mappings = (),
    decimals: int | None = None,
    sparkline: bool = False,
    text: Literal["auto", "value", "name", "value_and_name"] = "auto",
    alerts: Sequence[str] = (),
    runbooks: Sequence[str] = (),
    links: Links = (),
    width: int = 4,
    height: int = 4,
) -> Panel:
    """One number, or one for each series; with a `sparkline` its way there, and else as it is now."""
    options = stats.Options(
        graph_mode=common.BigValueGraphMode.AREA if sparkline else common.BigValueGraphMode.NONE,
        color_mode=common.BigValueColorMode.VALUE,
        text_mode=common.BigValueTextMode(text),
        reduce_options=common.ReduceDataOptions(calcs=["lastNotNull"]),
    )
    defaults = _defaults(unit, empty, steps, mappings, links, decimals=decimals)
    return Panel(
        key, title, description, "stat", _without("percentChangeColorMode", options), width, height, _queries(queries), not sparkline, SPARKLINE if sparkline else None,
        defaults=defaults, alerts=alerts, runbooks=runbooks,
    )  # fmt: skip


def timeseries(
    key: str,
    title: str,
    description: str,
    *queries: Query | str,
    unit: str,
    empty: str,
    stack: Literal["", "normal", "percent"] = "",
    steps: Steps = (),
    least: float | None = 0,
    most: float | None = None,
    decimals: int | None = None,
    legend: Literal["list", "table", "none"] = "list",
    points: int | None = None,
    alerts: Sequence[str] = (),
    runbooks: Sequence[str] = (),
    links: Links = (),
    width: int = 12,
    height: int = 8,
) -> Panel:
    """Lines over time; `stack` makes areas of them, `steps` dashed lines where an alert begins.

    `points` is for lines that are made of thousands of series, which a day of a fleet would take seconds for.
    """
    custom = graphs.FieldConfig(
        line_width=1,
        fill_opacity=60 if stack else 8,
        show_points=common.VisibilityMode.AUTO,
        stacking=common.StackingConfig(mode=common.StackingMode(stack or "none"), group="A"),
        thresholds_style=common.GraphThresholdsStyleConfig(
            mode=common.GraphThresholdsStyleMode.DASHED if steps else common.GraphThresholdsStyleMode.OFF
        ),
    )
    defaults = _defaults(unit, empty, steps or NEUTRAL, (), links, decimals=decimals, least=least, most=most)
    defaults.custom = custom
    defaults.color = model.FieldColor(mode=model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME)
    asked, options = _queries(queries), graphs.Options(legend=_legend(legend), tooltip=_tooltip())
    return Panel(
        key, title, description, "timeseries", options, width, height, asked, instant=False, points=points,
        defaults=defaults, overrides=_styled(asked), alerts=alerts, runbooks=runbooks,
    )  # fmt: skip


def state_timeline(
    key: str,
    title: str,
    description: str,
    *queries: Query | str,
    empty: str,
    mappings: Mappings,
    alerts: Sequence[str] = (),
    runbooks: Sequence[str] = (),
    links: Links = (),
    width: int = 12,
    height: int = 6,
) -> Panel:
    """Which of a few states each series was in, and when."""
    options = statetimeline.Options(
        show_value=common.VisibilityMode.AUTO,
        merge_values=True,
        per_page=None,
        legend=_legend("none"),
        tooltip=_tooltip(),
    )
    defaults = _defaults("none", empty, NEUTRAL, mappings, links)
    defaults.custom = statetimeline.FieldConfig(line_width=0, fill_opacity=70)
    return Panel(
        key, title, description, "state-timeline", options, width, height, _queries(queries), instant=False,
        defaults=defaults, alerts=alerts, runbooks=runbooks,
    )  # fmt: skip


def bar_gauge(
    key: str,
    title: str,
    description: str,
    *queries: Query | str,
    unit: str,
    empty: str,
    steps: Steps = NEUTRAL,
    most: float | None = None,
    alerts: Sequence[str] = (),
    runbooks: Sequence[str] = (),
    links: Links = (),
    width: int = 8,
    height: int = 8,
) -> Panel:
    """One bar for each series, as it is now: for shares of what there is."""
    options = bargauges.Options(
        display_mode=common.BarGaugeDisplayMode.BASIC,
        orientation=common.VizOrientation.HORIZONTAL,
        reduce_options=common.ReduceDataOptions(calcs=["lastNotNull"]),
    )
    defaults = _defaults(unit, empty, steps, (), links, least=0, most=most)
    return Panel(
        key, title, description, "bargauge", _without("legend", options), width, height, _queries(queries),
        defaults=defaults, alerts=alerts, runbooks=runbooks,
    )  # fmt: skip


def table(
    key: str,
    title: str,
    description: str,
    *columns: Column,
    labels: Mapping[str, str],
    empty: str,
    sort: str = "",
    rising: bool = False,
    ranked: bool = False,
    label_links: Mapping[str, Links] = {},
    beside: Callable[[str], str] | None = None,
    alerts: Sequence[str] = (),
    runbooks: Sequence[str] = (),
    width: int = 24,
    height: int = 8,
) -> Panel:
    """A row for each set of labels: the labels under their headings, then the columns, as it is now.

    The rows are sorted by the column headed `sort`, or the first, the largest on top unless `rising`. Rows meet by the
    labels that all columns are aggregated by; a label that only one of them has is shown beside them. With `ranked`,
    whose columns have the same labels throughout, only the first `$topk` rows by the first column are there. `beside`
    adds labels to the first column that are shown as well.
    """
    if ranked:
        columns = _ranked(*columns)
    if beside:
        columns = (replace(columns[0], expr=beside(columns[0].expr)), *columns[1:])
    options = tables.Options(
        sort_by=[common.TableSortByFieldState(display_name=sort or columns[0].title, desc=not rising)],
        cell_height=common.TableCellHeight.SM,
    )
    defaults = model.FieldConfig(no_value=empty, custom={"align": "auto", "filterable": True})
    titles = {**labels} | {f"Value #{ref}": column.title for ref, column in zip(ascii_uppercase, columns, strict=False)}
    if len(columns) == 1:
        titles |= {"Value": columns[0].title}
    return Panel(
        key, title, description, "table", _without("footer", options), width, height,
        [Query(column.expr) for column in columns],
        format=prometheus.PromQueryFormat.TABLE,
        defaults=defaults,
        overrides=[
            *(_override(labels[label], links=list(links)) for label, links in label_links.items()),
            *(_columned(column) for column in columns),
        ],
        transformations=_transformed(titles),
        alerts=alerts, runbooks=runbooks,
    )  # fmt: skip


def text(key: str, title: str, content: str, *, width: int = 24, height: int = 4) -> Panel:
    """Say something in Markdown."""
    return Panel(
        key, title, "", "text", texts.Options(mode=texts.TextMode.MARKDOWN, content=content), width, height
    )  # fmt: skip


def _without(name: str, options: stats.Options | bargauges.Options | tables.Options) -> dict[str, object]:
    """The options without one that not every Grafana from 10.4 to 13 has."""
    return {key: value for key, value in options.to_json().items() if key != name}


def _queries(queries: Sequence[Query | str]) -> list[Query]:
    return [Query(query) if isinstance(query, str) else query for query in queries]


def _defaults(
    unit: str,
    empty: str,
    steps: Steps,
    mappings: Mappings,
    links: Links,
    *,
    decimals: int | None = None,
    least: float | None = None,
    most: float | None = None,
) -> model.FieldConfig:
    return model.FieldConfig(
        unit=unit,
        decimals=decimals,
        min_val=least,
        max_val=most,
        no_value=empty,
        thresholds=_thresholds(steps),
        color=model.FieldColor(mode=model.FieldColorModeId.THRESHOLDS),
        mappings=_mapped(mappings),
        links=list(links) or None,
    )


def _thresholds(steps: Steps) -> model.ThresholdsConfig:
    return model.ThresholdsConfig(steps=[model.Threshold(value=value, color=colour) for value, colour in steps])


def _mapped(mappings: Mappings) -> list[model.ValueMapping] | None:
    if not mappings:
        return None
    results = {
        f"{value:g}": model.ValueMappingResult(text=said, color=colour, index=index)
        for index, (value, said, colour) in enumerate(mappings)
    }
    return [model.ValueMap(options=results)]


def _legend(kind: Literal["list", "table", "none"]) -> common.VizLegendOptions:
    return common.VizLegendOptions(
        display_mode=common.LegendDisplayMode("table" if kind == "table" else "list"),
        placement=common.LegendPlacement.RIGHT if kind == "table" else common.LegendPlacement.BOTTOM,
        show_legend=kind != "none",
        calcs=["lastNotNull", "max"] if kind == "table" else [],
        sort_by="Max" if kind == "table" else None,
        sort_desc=True if kind == "table" else None,
    )


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING)


SPARKLINE = 100
"""Points of the line behind a number."""

STYLES: Mapping[str, Mapping[str, object]] = {
    "past": {
        "custom.lineStyle": {"fill": "dash", "dash": [6, 6]},
        "custom.fillOpacity": 0,
        "custom.stacking": {"group": "past", "mode": "none"},
    },
    "limit": {
        "color": {"mode": "fixed", "fixedColor": "red"},
        "custom.fillOpacity": 0,
        "custom.lineWidth": 2,
        "custom.stacking": {"group": "limit", "mode": "none"},
    },
}


def _styled(queries: Sequence[Query]) -> list[model.DashboardFieldConfigSourceOverrides]:
    return [
        model.DashboardFieldConfigSourceOverrides(
            matcher=model.MatcherConfig("byFrameRefID", ref), properties=_properties(STYLES[query.style])
        )
        for ref, query in zip(ascii_uppercase, queries, strict=False)
        if query.style
    ]


def _ranked(first: Column, *others: Column) -> tuple[Column, ...]:
    """The columns with the rows that the first ranks highest; without that in each, the others would bring all theirs."""
    kept = [replace(other, expr=leading(other.expr, first.expr)) for other in others]
    return (replace(first, expr=f"topk($topk, {first.expr})"), *kept)


def _columned(column: Column) -> model.DashboardFieldConfigSourceOverrides:
    said: dict[str, object] = {"unit": column.unit}
    if column.mappings:
        said["mappings"] = _mapped(column.mappings)
    if column.steps != NEUTRAL:
        said["thresholds"] = _thresholds(column.steps)
        said["color"] = model.FieldColor(mode=model.FieldColorModeId.THRESHOLDS)
    if column.bar:
        said |= {"min": 0, "max": 1, "custom.cellOptions": {"type": "gauge", "mode": "basic"}}
    elif column.steps != NEUTRAL or column.mappings:
        said["custom.cellOptions"] = {"type": "color-text"}
    return _override(column.title, **said, **({"links": list(column.links)} if column.links else {}))


def _override(title: str, **properties: object) -> model.DashboardFieldConfigSourceOverrides:
    return model.DashboardFieldConfigSourceOverrides(
        matcher=model.MatcherConfig("byName", title), properties=_properties(properties)
    )


def _properties(said: Mapping[str, object]) -> list[model.DynamicConfigValue]:
    return [model.DynamicConfigValue(id_val=name, value=value) for name, value in said.items()]


def _transformed(titles: Mapping[str, str]) -> list[model.DataTransformerConfig]:
    """The queries' rows as one, with the wanted columns only, in order and under their headings."""
    return [
        model.DataTransformerConfig(id_val="merge", options={}),
        model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(titles)}}),
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {},
                "indexByName": {name: index for index, name in enumerate(titles)},
                "renameByName": dict(titles),
            },
        ),
    ]
