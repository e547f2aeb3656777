"""Writes into each alert's dashboard_url the panel on which it lands."""

import re
from collections.abc import Mapping, Sequence

from dashboards.source.layout import Dashboard
from exporter.alert_rules import ALERT

_LINK = re.compile(
    r"^(?P<link> {10}dashboard_url: \S+/d/(?P<uid>[\w-]+).*?)(?P<panel>[?&]viewPanel=\d+)?$", re.MULTILINE
)


def landings(dashboards: Sequence[Dashboard]) -> dict[str, tuple[str, int]]:
    """Give dashboard and panel of each alert that has one."""
    return {
        alert: (dashboard.uid, panel.id)
        for dashboard in dashboards
        for panel in dashboard.panels
        for alert in panel.alerts
    }


def landed(rules: str, where: Mapping[str, tuple[str, int]]) -> str:
    """Give the text of a rule file whose alerts land on their panels."""
    return ALERT.sub(lambda alert: _LINK.sub(lambda link: _linked(link, where.get(alert["name"])), alert[0]), rules)


def _linked(link: re.Match[str], where: tuple[str, int] | None) -> str:
    if where is None or where[0] != link["uid"]:
        return link["link"]
    return f"{link['link']}{'&' if '?' in link['link'] else '?'}viewPanel={where[1]}"
