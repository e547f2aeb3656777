"""Alone in drawing average active sessions: by wait event type, by statement and by application."""

from collections.abc import Sequence

from dashboards.source.expressions import leading
from dashboards.source.panels import Links, Panel, Query, timeseries
from dashboards.source.statements import LEGEND, ONE_SERIES, leaders, others

ON_STATEMENTS = "pg_statement_sampled_seconds_total"
BY_APPLICATION = "pg_application_sampled_seconds_total{<server>}"

NOBODY = "no session is active"


def by_wait(links: Links = ()) -> Panel:
    """Draw the active sessions by wait event type, CPU included."""
    return timeseries(
        "wait-events",
        "Average active sessions by wait event type",
        "Client sessions that execute a statement, on average, sampled between scrapes. CPU is every session without a wait "
        "event. Much Lock or IO means waiting; more CPU than the machine has cores means a queue for them.",
        Query(
            """
            label_replace(
              sum by (wait_event_type) (
                rate(pg_session_sampled_seconds_total{<database>, state="active"}[$__rate_interval])
              ),
              "wait_event_type", "CPU", "wait_event_type", ""
            )
            """,
            "{{wait_event_type}}",
        ),
        unit="short",
        empty=NOBODY,
        stack="normal",
        legend="table",
        links=links,
        width=24,
    )


def by_statement() -> Panel:
    """Draw the active sessions by statement."""
    return timeseries(
        "active-statements",
        "Average active sessions by statement",
        "Statements on which sessions spent most time in the time range shown, waits included, and all others as `other`. "
        "Statements are seen while they run, also those that are cancelled.",
        Query(leaders(ON_STATEMENTS), LEGEND),
        Query(f"{others(ON_STATEMENTS)} or 0 * sum(rate({ON_STATEMENTS}{{<database>}}[$__rate_interval]))", "other"),
        unit="short",
        empty=f"{NOBODY}, or PostgreSQL 13",
        stack="normal",
        links=ONE_SERIES,
    )


def by_application(links: Links = (), alerts: Sequence[str] = ()) -> Panel:
    """Draw the active sessions by application."""
    taken = f"sum by (application_name) (increase({BY_APPLICATION}[$__range] @ end()))"
    pace = f"sum by (application_name) (rate({BY_APPLICATION}[$__rate_interval]))"
    return timeseries(
        "active-applications",
        "Average active sessions by application",
        "Applications whose sessions were active most in the time range shown, by application_name, in all databases. A jump of "
        "one application is a deploy, a job or a retry storm.",
        Query(
            f'label_replace({leading(pace, taken)}, "application_name", "(unnamed)", "application_name", "")',
            "{{application_name}}",
        ),
        unit="short",
        empty=NOBODY,
        stack="normal",
        links=links,
        alerts=alerts,
    )
