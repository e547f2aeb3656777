"""The events that are marked in the graphs of every dashboard."""

from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard as model

from dashboards.source.expressions import full
from dashboards.source.variables import SOURCE


@dataclass(frozen=True)
class Event:
    """Something that happened, wherever its expression has a value."""

    name: str
    expr: str
    title: str
    """What the mark says; labels stand in double braces."""
    tags: str = "instance"
    colour: str = "blue"
    shown: bool = True


EVENTS = (
    Event(
        "Restarts",
        "changes(pg_postmaster_start_time_seconds{<server>}[$__rate_interval]) > 0",
        "Restarted",
        colour="red",
    ),
    Event(
        "Role changes",
        "changes(pg_replication_is_replica{<server>}[$__rate_interval]) > 0",
        "Role changed",
        colour="purple",
    ),
    Event(
        "Settings changes",
        "changes(pg_settings_checksum{<server>}[$__rate_interval]) > 0",
        "Settings changed",
        colour="yellow",
    ),
    Event(
        "Index builds",
        'max by (job, instance, datname, relname) (pg_progress_seconds{<server>, command=~"CREATE INDEX.*|REINDEX.*"}) > 0',
        "Index build on {{relname}}",
        tags="instance,datname",
        colour="super-light-blue",
    ),
    Event(
        "Firing alerts",
        'ALERTS{<server>, alertstate="firing", alertname=~"PostgreSQL.+", severity=~"critical|warning"}',
        "{{alertname}}",
        tags="instance,severity",
        colour="orange",
        shown=False,
    ),
)


class PrometheusAnnotation(model.AnnotationQuery):
    """An annotation with the keys that Grafana's Prometheus data source reads beside those of the schema."""

    def __init__(self, event: Event) -> None:
        super().__init__(
            name=event.name, datasource=SOURCE, enable=event.shown, icon_color=event.colour, expr=full(event.expr)
        )
        self.event = event

    def to_json(self) -> dict[str, object]:
        """Give what the dashboard's JSON holds."""
        return super().to_json() | {"titleFormat": self.event.title, "tagKeys": self.event.tags}


def marks() -> model.AnnotationContainer:
    """Give all annotations of a dashboard."""
    return model.AnnotationContainer(list_val=[PrometheusAnnotation(event) for event in EVENTS])
