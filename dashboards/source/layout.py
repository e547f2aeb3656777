"""A dashboard: rows of panels, each put in its place, and what stands around them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard as model

from dashboards.source import annotations, links
from dashboards.source.panels import Panel, identifier

COLUMNS = 24
"""How wide Grafana's grid is."""
SCHEMA = 39
"""The schema of Grafana 10.4, which later ones bring up to date as they load it."""


@dataclass(frozen=True)
class Row:
    """Panels that answer one question, which is the row's title; what is detail is collapsed."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


@dataclass(frozen=True)
class Dashboard:
    """All that makes a dashboard ours."""

    uid: str
    title: str
    description: str
    variables: Sequence[model.VariableModel]
    rows: Sequence[Row]
    since: str = "now-3h"
    refresh: str = "1m"

    @property
    def panels(self) -> list[Panel]:
        """Its panels, those of collapsed rows included."""
        return [panel for row in self.rows for panel in row.panels]

    def built(self) -> model.Dashboard:
        """Give the dashboard as it stands in the JSON."""
        return model.Dashboard(
            uid=self.uid,
            title=self.title,
            description=self.description,
            tags=[links.TAG, "pgvigil"],
            timezone="browser",
            editable=False,
            graph_tooltip=model.DashboardCursorSync.CROSSHAIR,
            time=model.DashboardDashboardTime(from_val=self.since, to="now"),
            timepicker=model.TimePickerConfig(),
            refresh=self.refresh,
            schema_version=SCHEMA,
            templating=model.DashboardDashboardTemplating(list_val=list(self.variables)),
            annotations=annotations.marks(),
            links=links.header(),
            panels=list(_laid_out(self.rows)),
        )


def _laid_out(rows: Sequence[Row]) -> Iterator[model.Panel | model.RowPanel]:
    y = 0
    for row in rows:
        placed, end = _placed(row.panels, y + 1)
        yield model.RowPanel(
            collapsed=row.collapsed,
            title=row.title,
            grid_pos=model.GridPos(h=1, w=COLUMNS, x=0, y=y),
            id_val=identifier(f"row {row.title}"),
            panels=placed if row.collapsed else [],
        )
        if row.collapsed:
            y += 1
        else:
            yield from placed
            y = end


def _placed(panels: Sequence[Panel], top: int) -> tuple[list[model.Panel], int]:
    """Place the panels from left to right, in as many lines as they need."""
    placed, x, y, tallest = [], 0, top, 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        placed.append(panel.at(x, y))
        x, tallest = x + panel.width, max(tallest, panel.height)
    return placed, y + tallest
