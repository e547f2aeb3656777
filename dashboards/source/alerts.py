"""All alerts: which fire now and on what, when they did, and which cost the most attention."""

from dashboards.source import variables
from dashboards.source.alert_thresholds import CRITICAL, GOOD, INFO, WARNING
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, outside, to
from dashboards.source.panels import Column, Query, stat, state_timeline, table, timeseries
from exporter.commands.rules import RUNBOOKS

OURS = '<server>, alertname=~"(PostgreSQL|PgBouncer).+"'
FIRING = f'ALERTS{{{OURS}, alertstate="firing", severity=~"$severity"}}'
PENDING = f'ALERTS{{{OURS}, alertstate="pending", severity=~"$severity"}}'
SINCE = f'ALERTS_FOR_STATE{{{OURS}, severity=~"$severity"}}'

WHAT = "alertname, severity, instance, datname, relname, slot_name, queryid"
HEADINGS = {
    "severity": "Severity",
    "alertname": "Alert",
    "instance": "Instance",
    "datname": "Database",
    "relname": "Table",
    "slot_name": "Slot",
    "queryid": "Statement",
}
LINKS = {
    "alertname": (outside("Runbook", f"{RUNBOOKS}/${{__data.fields.alertname}}.md"),),
    "instance": (to("pg-instance", "This server", instance="instance"),),
}


def dashboard() -> Dashboard:
    """Give the dashboard of alerts."""
    return Dashboard(
        uid="pg-alerts",
        title="PostgreSQL / Alerts",
        description="Which alerts fire now and on what, when they did, and which cost the most attention.",
        variables=variables.server(
            variables.query(
                "severity",
                "Severity",
                'label_values(ALERTS{alertname=~"(PostgreSQL|PgBouncer).+"}, severity)',
                "How bad it is.",
            ),
            variables.topk(),
        ),
        rows=(_now(), _when(), _cost()),
        since="now-24h",
    )


def _now() -> Row:
    severities = (("critical", CRITICAL), ("warning", WARNING), ("info", INFO))
    return Row(
        "What fires now, and since when?",
        (
            *(
                stat(
                    severity,
                    f"Severity {severity}",
                    f"Alerts of severity {severity} that fire now on the chosen servers.",
                    f'count(ALERTS{{{OURS}, alertstate="firing", severity="{severity}"}})',
                    unit="short",
                    empty="none",
                    steps=((None, colour),),
                    width=5,
                )
                for severity, colour in severities
            ),
            stat(
                "pending",
                "About to fire",
                "Alerts whose condition holds, but not yet for as long as it has to.",
                f"count({PENDING})",
                unit="short",
                empty="none",
                width=4,
            ),
            stat(
                "watchdog",
                "The rules are evaluated",
                "PostgreSQLWatchdog always fires. When it does not, no alert reaches anybody. It belongs to no server.",
                'max(ALERTS{alertname="PostgreSQLWatchdog", alertstate="firing"})',
                unit="none",
                empty="NO: load alerts/rules",
                mappings=((1, "yes", GOOD),),
                alerts=("PostgreSQLWatchdog",),
                width=5,
            ),
            table(
                "firing",
                "Firing",
                "Alerts that fire, the newest first, with what they are about. Click an alert for its runbook.",
                Column(
                    "Since",
                    f"max by ({WHAT}) (1000 * {SINCE} and ignoring (alertstate) {FIRING})",
                    "dateTimeFromNow",
                ),
                labels=HEADINGS,
                empty="nothing fires",
                label_links=LINKS,
                alerts=(
                    "PgBouncerDown",
                    "PgBouncerClientsWait",
                    "PgBouncerPoolNearlyFull",
                    "PgBouncerClientsNearlyAtLimit",
                ),
                height=10,
            ),
        ),
    )


def _when() -> Row:
    return Row(
        "When did they fire?",
        (
            state_timeline(
                "timeline",
                "Alerts over time",
                "When each alert fired, on whichever of the chosen servers.",
                Query(f"max by (alertname) ({FIRING})", "{{alertname}}"),
                empty="nothing fired",
                mappings=((1, "firing", WARNING),),
                height=10,
            ),
            timeseries(
                "by-instance",
                "Alerts by server",
                "How many alerts fired on each server.",
                Query(f"sum by (instance) ({FIRING})", "{{instance}}"),
                unit="short",
                empty="nothing fired",
                stack="normal",
                links=(of_series("pg-instance", "This server", instance="instance"),),
                height=10,
            ),
        ),
    )


def _cost() -> Row:
    return Row(
        "Which cost the most attention in the time shown?",
        (
            table(
                "longest",
                "Time in alert",
                "How long each alert fired in the time shown, all of its culprits together, to the minute.",
                Column(
                    "Time",
                    f"topk($topk, 60 * sum by (alertname, severity) (sum_over_time({FIRING}[$__range:1m])))",
                    "s",
                ),
                labels={"alertname": "Alert", "severity": "Severity"},
                empty="nothing fired",
                label_links={"alertname": LINKS["alertname"]},
                width=8,
                height=10,
            ),
            table(
                "flappiest",
                "How often it began",
                "How often each alert began to fire in the time shown. One that comes and goes needs another threshold or `for`.",
                Column(
                    "Times",
                    f"""
                    topk($topk, sum by (alertname, instance) (
                      count_over_time(({FIRING} unless {FIRING} offset 1m)[$__range:1m])
                    ))
                    """,
                ),
                labels={"alertname": "Alert", "instance": "Instance"},
                empty="nothing fired",
                label_links=LINKS,
                width=8,
                height=10,
            ),
            timeseries(
                "by-severity",
                "Alerts by severity",
                "How many alerts fired at each moment.",
                Query(f"sum by (severity) ({FIRING})", "{{severity}}"),
                unit="short",
                empty="nothing fired",
                stack="normal",
                width=8,
                height=10,
            ),
        ),
    )
