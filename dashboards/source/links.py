"""Alone in writing links: between dashboards, from what a panel shows to its dashboard, and to runbooks."""

from grafana_foundation_sdk.models import dashboard as model

from exporter.commands.rules import RUNBOOKS

TAG = "postgresql"
"""What all our dashboards are tagged with, and what the list of them at the top goes by."""

CARRIED = ("datasource", "job", "instance")
"""The variables that all dashboards have."""


def header() -> list[model.DashboardLink]:
    """Give the links at the top of every dashboard."""
    dashboards = model.DashboardLink(
        title="PostgreSQL dashboards",
        type_val=model.DashboardLinkType.DASHBOARDS,
        icon="external link",
        tags=[TAG],
        as_dropdown=True,
        include_vars=True,
        keep_time=True,
    )
    runbooks = model.DashboardLink(
        title="Runbooks", type_val=model.DashboardLinkType.LINK, icon="doc", url=RUNBOOKS, target_blank=True
    )
    return [dashboards, runbooks]


def runbook(alert: str) -> model.DashboardLink:
    """Link an alert's runbook."""
    return outside(f"Runbook: {alert}", f"{RUNBOOKS}/{alert}.md")


def outside(title: str, url: str) -> model.DashboardLink:
    """Link a page that is no dashboard."""
    return model.DashboardLink(title=title, type_val=model.DashboardLinkType.LINK, url=url, target_blank=True)


def to(uid: str, title: str, **variables: str) -> model.DashboardLink:
    """Link a dashboard from a table, or without a label: `instance="instance"` takes the value of the row's label."""
    own = [f"var-{name}=${{__data.fields.{label}}}" for name, label in variables.items()]
    return _link(uid, title, own, variables)


def of_series(uid: str, title: str, **variables: str) -> model.DashboardLink:
    """Link a dashboard from a series: `instance="instance"` takes the value of the series' label."""
    own = [f"var-{name}=${{__field.labels.{label}}}" for name, label in variables.items()]
    return _link(uid, title, own, variables)


def _link(uid: str, title: str, own: list[str], given: dict[str, str]) -> model.DashboardLink:
    carried = [f"${{{name}:queryparam}}" for name in CARRIED if name not in given]
    url = f"/d/{uid}?" + "&".join(["${__url_time_range}", *carried, *own])
    return model.DashboardLink(title=title, type_val=model.DashboardLinkType.LINK, url=url)
