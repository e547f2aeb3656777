"""All servers: which are in trouble, since when, what runs out first, and who works hardest."""

from functools import partial

from dashboards.source import endings, variables
from dashboards.source.alert_thresholds import CRITICAL, DAY, GOOD, HOUR, INFO, WARNING, falling, of, rising
from dashboards.source.expressions import EXPORTER, fastest, leading
from dashboards.source.instance import USED
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Query, stat, state_timeline, table, timeseries
from dashboards.source.statements import LABELS, with_text

ETAS = (
    ("connection slots", endings.CONNECTIONS),
    ("transaction ids", endings.XIDS),
    ("multixact ids", endings.MULTIXACTS),
    ("WAL for a slot", endings.SLOT),
    ("numbers of a sequence", endings.sequence("server")),
)
"""What runs out, and in how many seconds."""
RISKS = " or ".join(f'label_replace(min by (instance) ({eta}), "risk", "{what}", "", "")' for what, eta in ETAS)

SHARE = """
    statement:pg_statements_exec_seconds:rate5m{<server>}
      / on (job, instance) group_left () (instance:pg_statements_exec_seconds:rate5m{<server>} > 0)
"""
HERE = (to("pg-instance", "This server", instance="instance"),)


def dashboard() -> Dashboard:
    """Give the dashboard of all servers."""
    return Dashboard(
        uid="pg-fleet",
        title="PostgreSQL / Fleet",
        description="Which of all servers are in trouble, since when, and what runs out first.",
        variables=variables.server(variables.topk()),
        rows=(_trouble(), _since(), _ends(), _work()),
    )


def _trouble() -> Row:
    return Row(
        "Which servers are in trouble, and how bad is it?",
        (
            stat(
                "servers-up",
                "Servers that answer",
                "Servers that answered the exporter's last query.",
                'count(pg_up{<server>, target=""} == 1)',
                unit="short",
                empty="none",
                steps=((None, GOOD),),
            ),
            stat(
                "servers-down",
                "Servers that do not answer",
                "Servers that did not answer the exporter's last query. The table below says which.",
                'count(pg_up{<server>, target=""} == 0)',
                unit="short",
                empty="none",
                steps=((None, CRITICAL),),
                runbooks=("PostgreSQLDown",),
            ),
            stat(
                "exporters-down",
                "Exporters that do not answer",
                "Exporters seen within a day that Prometheus cannot scrape: nobody watches their servers.",
                f"count(up{{<server>}} == 0 and {EXPORTER})",
                unit="short",
                empty="none",
                steps=((None, CRITICAL),),
                links=(to("pg-exporter", "The exporters"),),
                runbooks=("PostgreSQLExporterDown",),
            ),
            stat(
                "alerts-critical",
                "Critical alerts",
                "Critical alerts that fire now.",
                'count(ALERTS{<server>, alertstate="firing", severity="critical", alertname=~"(PostgreSQL|PgBouncer).+"})',
                unit="short",
                empty="none",
                steps=((None, CRITICAL),),
                links=(to("pg-alerts", "Firing alerts"),),
            ),
            stat(
                "alerts-warning",
                "Warnings",
                "Alerts of severity warning that fire now.",
                'count(ALERTS{<server>, alertstate="firing", severity="warning", alertname=~"(PostgreSQL|PgBouncer).+"})',
                unit="short",
                empty="none",
                steps=((None, WARNING),),
                links=(to("pg-alerts", "Firing alerts"),),
            ),
            stat(
                "primaries",
                "Primaries and standbys",
                "How many of the servers take writes, and how many follow another.",
                Query("count(pg_replication_is_replica{<server>} == 0)", "primaries"),
                Query("count(pg_replication_is_replica{<server>} == 1)", "standbys"),
                unit="short",
                empty="none answers",
                links=(to("pg-replication", "Replication"),),
            ),
            table(
                "servers",
                "Servers",
                "One line a server, those with the most alerts first. Time left is that of what runs out first there.",
                Column(
                    "Up",
                    'min by (instance) (pg_up{<server>, target=""})',
                    "none",
                    mappings=((1, "up", GOOD), (0, "DOWN", CRITICAL)),
                ),
                Column(
                    "Alerts",
                    'count by (instance) (ALERTS{<server>, alertstate="firing", severity=~"critical|warning", alertname=~"(PostgreSQL|PgBouncer).+"})',
                    steps=((None, WARNING),),
                    links=(to("pg-alerts", "Its alerts", instance="instance"),),
                ),
                Column(
                    "Role",
                    "max by (instance) (pg_replication_is_replica{<server>})",
                    "none",
                    mappings=((0, "primary", INFO), (1, "standby", "text")),
                ),
                Column(
                    "Started",
                    """
                    max by (instance, short_version) (
                      1000 * pg_server_info{<server>} * on (job, instance) group_left () pg_postmaster_start_time_seconds{<server>}
                    )
                    """,
                    "dateTimeFromNow",
                ),
                Column(
                    "Connections",
                    f"max by (instance) ({USED})",
                    "percentunit",
                    rising(of("PostgreSQLConnectionsNearlyUsed", "ratio"), of("PostgreSQLConnectionsAtLimit", "ratio")),
                ),
                Column(
                    "Lock wait",
                    "max by (instance) (pg_lock_longest_wait_seconds{<server>})",
                    "s",
                    rising(critical=of("PostgreSQLLockWait", "wait_seconds")),
                    links=(to("pg-locks", "Who blocks whom", instance="instance"),),
                ),
                Column(
                    "Lag",
                    "max by (instance) (pg_replication_lag_seconds{<server>})",
                    "s",
                    rising(of("PostgreSQLReplicaLagging", "seconds"), of("PostgreSQLReplicaStale", "seconds")),
                    links=(to("pg-replication", "Replication", instance="instance"),),
                ),
                Column(
                    "Top statement",
                    f"max by (instance) ({SHARE})",
                    "percentunit",
                    rising(of("PostgreSQLStatementDominates", "share")),
                    links=(to("pg-queries", "Its statements", instance="instance"),),
                ),
                Column(
                    "Time left",
                    f"min by (instance) ({RISKS})",
                    "s",
                    falling(DAY, HOUR),
                ),
                labels={"instance": "Instance", "short_version": "Version"},
                empty="no server answers",
                sort="Alerts",
                label_links={"instance": HERE},
                height=11,
            ),
        ),
    )


def _since() -> Row:
    return Row(
        "Since when?",
        (
            state_timeline(
                "roles",
                "Roles, and who did not answer",
                "Whether each server was a primary, a standby or down. A change of colour is a failover, an outage or its end.",
                Query(
                    """
                    max by (instance) (
                      2 * (pg_up{<server>, target=""} == bool 0) > 0
                      or on (job, instance) pg_replication_is_replica{<server>}
                    )
                    """,
                    "{{instance}}",
                ),
                empty="no exporter scraped",
                mappings=((0, "primary", INFO), (1, "standby", "super-light-blue"), (2, "down", CRITICAL)),
                runbooks=("PostgreSQLDown", "PostgreSQLRoleChanged"),
                links=(of_series("pg-instance", "This server", instance="instance"),),
                height=9,
            ),
            timeseries(
                "alerts-by-instance",
                "Alerts that fired",
                "Critical and warning alerts by server.",
                Query(
                    'sum by (instance) (ALERTS{<server>, alertstate="firing", severity=~"critical|warning", alertname=~"(PostgreSQL|PgBouncer).+"})',
                    "{{instance}}",
                ),
                unit="short",
                empty="none",
                stack="normal",
                links=(of_series("pg-alerts", "Its alerts", instance="instance"),),
                height=9,
            ),
        ),
    )


def _ends() -> Row:
    return Row(
        "What runs out first?",
        (
            table(
                "first-to-end",
                "Time left",
                "What will be used up where, the next first: at the pace of the last half hour for connections, of six hours for the rest.",
                Column(
                    "Time left",
                    f"bottomk($topk, {RISKS})",
                    "s",
                    falling(7 * DAY, DAY),
                ),
                labels={"instance": "Instance", "risk": "What"},
                empty="nothing runs out",
                rising=True,
                label_links={"instance": HERE},
                width=12,
            ),
            timeseries(
                "connections-share",
                "Connections used",
                "Share of the slots of ordinary roles that are taken, of the fullest servers.",
                Query(
                    leading(f"max by (instance) ({USED})", f"max by (instance) ({USED})".replace("}", "} @ end()")),
                    "{{instance}}",
                ),
                unit="percentunit",
                empty="no server answers",
                steps=rising(
                    of("PostgreSQLConnectionsNearlyUsed", "ratio"), of("PostgreSQLConnectionsAtLimit", "ratio")
                ),
                links=(of_series("pg-instance", "This server", instance="instance"),),
            ),
        ),
    )


def _work() -> Row:
    return Row(
        "Who works hardest?",
        (
            timeseries(
                "transactions",
                "Transactions",
                "Transactions per second, of the busiest servers.",
                Query(
                    leading(
                        """
                        sum by (instance) (
                          rate(pg_database_commits_total{<server>}[$__rate_interval])
                          + rate(pg_database_rollbacks_total{<server>}[$__rate_interval])
                        )
                        """,
                        "sum by (instance) (increase(pg_database_commits_total{<server>}[$__range] @ end()))",
                    ),
                    "{{instance}}",
                ),
                unit="ops",
                empty="no server answers",
                links=(of_series("pg-instance", "This server", instance="instance"),),
                width=8,
            ),
            timeseries(
                "active-sessions",
                "Active sessions",
                "Sessions at work on average. Above the number of a server's cores, they queue.",
                Query(
                    fastest('pg_session_sampled_seconds_total{<server>, state="active"}', "instance"),
                    "{{instance}}",
                ),
                unit="short",
                empty="nobody is active",
                links=(of_series("pg-instance", "This server", instance="instance"),),
                width=8,
            ),
            timeseries(
                "wal",
                "WAL written or replayed",
                "Bytes of WAL per second, of those who write most.",
                Query(
                    leading(
                        "sum by (instance) (deriv(pg_wal_position_bytes{<server>}[$__rate_interval]))",
                        "sum by (instance) (delta(pg_wal_position_bytes{<server>}[$__range] @ end()))",
                    ),
                    "{{instance}}",
                ),
                unit="Bps",
                empty="no server answers",
                links=(of_series("pg-wal-io", "WAL and I/O", instance="instance"),),
                width=8,
            ),
            table(
                "statements",
                "Statements that take most of a server's time",
                "Share of all execution time of the last five minutes.",
                Column(
                    "Share",
                    f"topk($topk, sum by (instance, datname, usename, queryid) ({SHARE}))",
                    "percentunit",
                    rising(of("PostgreSQLStatementDominates", "share")),
                ),
                labels=LABELS,
                beside=partial(with_text, scope="server"),
                empty="no statement runs, or pg_stat_statements is not there",
                label_links={
                    "instance": HERE,
                    "queryid": (
                        to(
                            "pg-query-detail",
                            "This statement",
                            instance="instance",
                            datname="datname",
                            queryid="queryid",
                        ),
                    ),
                },
                runbooks=("PostgreSQLStatementDominates",),
                width=24,
            ),
        ),
        collapsed=True,
    )
