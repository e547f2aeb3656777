"""The exporter itself: whether its data can be trusted, which collectors fail, and what it costs the server."""

from dashboards.source import variables
from dashboards.source.alert_thresholds import CRITICAL, GOOD, INFO, WARNING, of, rising
from dashboards.source.expressions import EXPORTER, fastest
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Query, stat, state_timeline, table, timeseries

FAILING = "pgvigil_collector_success{<server>} == 0"
EACH = "instance, collector, datname"
HEADINGS = {"instance": "Instance", "collector": "Collector", "datname": "Database"}
HERE = {"instance": (to("pg-instance", "This server", instance="instance"),)}


def dashboard() -> Dashboard:
    """Give the dashboard of the exporter."""
    return Dashboard(
        uid="pg-exporter",
        title="PostgreSQL / Exporter",
        description="Whether what the exporter says can be trusted, which collectors fail and why, and what it costs.",
        variables=(variables.datasource(), variables.job(), variables.exporter(), variables.topk()),
        rows=(_trust(), _failures(), _cost(), _page(), _process()),
    )


def _trust() -> Row:
    return Row(
        "Can its data be trusted?",
        (
            stat(
                "scraped",
                "Exporters that answer",
                "Targets on which there was an exporter of ours within a day, and that Prometheus can scrape.",
                Query(f"count(up{{<server>}} == 1 and {EXPORTER})", "answer"),
                Query(f"count(up{{<server>}} == 0 and {EXPORTER})", "do NOT"),
                unit="short",
                empty="none",
            ),
            stat(
                "failing",
                "Collectors that fail",
                "Collectors whose newest result is not on the page.",
                f"count({FAILING})",
                unit="short",
                empty="none",
                steps=((None, WARNING),),
            ),
            stat(
                "age",
                "Age of the newest result",
                "Age of the newest result of any collector, of the exporter where it is oldest. It grows when nothing new comes.",
                "max(min by (job, instance) (pgvigil_collector_age_seconds{<server>}))",
                unit="s",
                empty="no exporter answers",
                steps=rising(critical=of("PostgreSQLExporterStale", "seconds")),
                sparkline=True,
                alerts=("PostgreSQLExporterStale",),
            ),
            stat(
                "scrape-time",
                "Longest scrape",
                "Time that the slowest exporter took for its page.",
                "max(pgvigil_scrape_duration_seconds{<server>})",
                unit="s",
                empty="no exporter answers",
                steps=rising(of("PostgreSQLExporterScrapeSlow", "seconds")),
                sparkline=True,
            ),
            stat(
                "dropped",
                "Samples left off the page",
                "Samples beyond max_samples, which are not on the page.",
                "sum(pgvigil_collector_dropped_samples{<server>}) or 0 * sum(pgvigil_scrape_duration_seconds{<server>})",
                unit="short",
                empty="no exporter answers",
                steps=rising(1),
                alerts=("PostgreSQLExporterPageIncomplete",),
            ),
            stat(
                "held-back",
                "Collectors held back",
                "Collectors that run less often than they would, because they would cost more than cost_budget allows.",
                "count(pgvigil_collector_interval_seconds{<server>} > 0)",
                unit="short",
                empty="none",
                steps=((None, INFO),),
                alerts=("PostgreSQLExporterOverBudget",),
            ),
            state_timeline(
                "exporter-timeline",
                "Exporters that answered",
                "Whether Prometheus could scrape each exporter. A line that ends is a target that was taken away.",
                Query(
                    f"min by (instance) (up{{<server>}} and {EXPORTER})",
                    "{{instance}}",
                ),
                empty="no exporter scraped",
                mappings=((1, "answers", GOOD), (0, "NO ANSWER", CRITICAL)),
                alerts=("PostgreSQLExporterDown", "PostgreSQLExporterTargetVanished"),
                links=(of_series("pg-instance", "This server", instance="instance"),),
                height=7,
            ),
            timeseries(
                "failing-collectors",
                "Collectors that failed",
                "Collectors whose newest result was not on the page, by server.",
                Query(f"count by (instance) ({FAILING})", "{{instance}}"),
                unit="short",
                empty="none failed",
                stack="normal",
                height=7,
            ),
        ),
    )


def _failures() -> Row:
    return Row(
        "Which collectors fail, and why?",
        (
            table(
                "failures",
                "Failing collectors",
                "Collectors that fail now, how often they did within an hour, and how old what they last found is. "
                "An empty database means that it runs once a server.",
                Column("State", f"count by ({EACH}) ({FAILING})", "none", mappings=((1, "fails", CRITICAL),)),
                Column(
                    "Failures",
                    f"sum by ({EACH}) (increase(pgvigil_collector_errors_total{{<server>}}[1h]) and on (job, {EACH}) {FAILING})",
                ),
                Column(
                    "Age of the result",
                    f"max by ({EACH}) (pgvigil_collector_age_seconds{{<server>}} and on (job, {EACH}) {FAILING})",
                    "s",
                ),
                labels=HEADINGS,
                empty="none fails",
                ranked=True,
                label_links=HERE,
                alerts=("PostgreSQLExporterCollectorFailing",),
            ),
            timeseries(
                "errors",
                "Failed attempts by reason",
                "Failed attempts of collectors per second. With lock_timeout, the last good result is served while a lock is held.",
                Query(
                    "sum by (reason) (rate(pgvigil_collector_errors_total{<server>}[$__rate_interval]))", "{{reason}}"
                ),
                unit="ops",
                empty="nothing ever failed",
                stack="normal",
            ),
            table(
                "permissions",
                "Privileges that are missing",
                "Collectors that were refused within an hour, and how often. `pgvigil check` says which grant is missing.",
                Column(
                    "Refusals",
                    f"""
                    topk($topk, sum by ({EACH}) (
                      increase(pgvigil_collector_errors_total{{<server>, reason="permission"}}[1h]) > 0
                    ))
                    """,
                    "short",
                    rising(of("PostgreSQLExporterLacksPrivilege", "errors")),
                ),
                labels=HEADINGS,
                empty="none is missing",
                label_links=HERE,
                alerts=("PostgreSQLExporterLacksPrivilege",),
                width=12,
            ),
        ),
    )


def _cost() -> Row:
    return Row(
        "What does it cost the server?",
        (
            timeseries(
                "query-time",
                "Time in its queries",
                "Seconds a second that its queries take, by collector, the dearest ones: an upper bound of what they cost. "
                "At 0.01 it is one hundredth of one core.",
                Query(
                    fastest("pgvigil_collector_seconds_total{<server>}", "collector"),
                    "{{collector}}",
                ),
                unit="percentunit",
                empty="no exporter answers",
                stack="normal",
                points=240,
                width=8,
            ),
            timeseries(
                "server-time",
                "Time as the server counts it",
                "Seconds a second of its statements by pg_stat_statements, by collector, the dearest ones.",
                Query(
                    fastest("pgvigil_collector_server_seconds_total{<server>}", "collector"),
                    "{{collector}}",
                ),
                unit="percentunit",
                empty="pg_stat_statements is not there",
                stack="normal",
                points=240,
                width=8,
            ),
            timeseries(
                "server-blocks",
                "Blocks it reads",
                "Bytes per second that its statements read from shared buffers or disk, by collector, those that read most.",
                Query(
                    f"<block> * ({fastest('pgvigil_collector_server_blocks_total{<server>}', 'collector')})",
                    "{{collector}}",
                ),
                unit="Bps",
                empty="pg_stat_statements is not there",
                stack="normal",
                points=240,
                width=8,
            ),
            table(
                "dearest",
                "Dearest collectors",
                "What a run took last, how often it may run, and the rows it gave. A collector that is held back has an interval.",
                Column("Last run", f"max by ({EACH}) (pgvigil_collector_duration_seconds{{<server>}})", "s"),
                Column(
                    "Interval",
                    f"max by ({EACH}) (pgvigil_collector_interval_seconds{{<server>}}) > 0",
                    "s",
                    ((None, WARNING),),
                ),
                labels=HEADINGS,
                empty="no exporter answers",
                ranked=True,
                label_links=HERE,
                width=16,
            ),
            timeseries(
                "connections",
                "Its connections",
                "Connections to PostgreSQL that the exporter has; never more than max_connections_per_target for a server.",
                Query("max by (instance) (pgvigil_connections{<server>})", "{{instance}}"),
                unit="short",
                empty="no exporter answers",
                width=8,
            ),
        ),
    )


def _page() -> Row:
    return Row(
        "How large is the page, and what was left off?",
        (
            timeseries(
                "duration",
                "Time of a scrape",
                "Time until the page was put together, by server.",
                Query("max by (instance) (pgvigil_scrape_duration_seconds{<server>})", "{{instance}}"),
                unit="s",
                empty="no exporter answers",
                steps=rising(of("PostgreSQLExporterScrapeSlow", "seconds")),
                alerts=("PostgreSQLExporterScrapeSlow",),
                width=8,
            ),
            timeseries(
                "samples",
                "Samples of a page",
                "What Prometheus stores for each scrape.",
                Query(
                    f"max by (instance) (scrape_samples_scraped{{<server>}} and {EXPORTER})",
                    "{{instance}}",
                ),
                unit="short",
                empty="no exporter answers",
                width=8,
            ),
            timeseries(
                "rejected",
                "Rows left off",
                "Rows per second that were left off because their labels stood there already, or a value was no number.",
                Query(
                    "sum by (collector, reason) (rate(pgvigil_collector_rejected_rows_total{<server>}[$__rate_interval]))",
                    "{{collector}} {{reason}}",
                ),
                unit="ops",
                empty="none",
                width=8,
            ),
            table(
                "truncated",
                "Rows cut off by limits",
                "Rows that a collector's limit left out, and the share of the total that they carried, of the metric where it is largest.",
                Column("Rows", f"max by ({EACH}) (pgvigil_collector_truncated_rows{{<server>}}) > 0"),
                Column("Share", f"max by ({EACH}) (pgvigil_collector_truncated_ratio{{<server>}}) > 0", "percentunit"),
                labels=HEADINGS,
                empty="nothing is cut off",
                ranked=True,
                label_links=HERE,
                width=12,
            ),
            table(
                "rows",
                "Rows by collector",
                "Which collectors the page is made of.",
                Column("Rows", f"topk($topk, max by ({EACH}) (pgvigil_collector_rows{{<server>}}))"),
                labels=HEADINGS,
                empty="no exporter answers",
                label_links=HERE,
                width=12,
            ),
        ),
        collapsed=True,
    )


def _process() -> Row:
    ours = "and on (job, instance) pgvigil_build_info{<server>}"
    return Row(
        "What does its process take?",
        (
            timeseries(
                "cpu",
                "CPU",
                "Cores that the exporter's process keeps busy.",
                Query(
                    f"max by (instance) (rate(process_cpu_seconds_total{{<server>}}[$__rate_interval]) {ours})",
                    "{{instance}}",
                ),
                unit="percentunit",
                empty="no exporter answers",
                width=8,
            ),
            timeseries(
                "memory",
                "Memory",
                "Resident memory of the exporter's process.",
                Query(f"max by (instance) (process_resident_memory_bytes{{<server>}} {ours})", "{{instance}}"),
                unit="bytes",
                empty="no exporter answers",
                width=8,
            ),
            timeseries(
                "incidents",
                "Incidents recorded",
                "What the exporter recorded at /incidents within an hour: lock waits, connections, down, late.",
                Query(
                    "sum by (instance, kind) (increase(pgvigil_incidents_total{<server>}[1h]))",
                    "{{kind}} on {{instance}}",
                ),
                unit="short",
                empty="none recorded",
                width=8,
            ),
            timeseries(
                "history",
                "History written",
                "1 where the history of sessions and incidents was written the last time. At 0 a restart forgets it.",
                Query("min by (instance) (pgvigil_history_success{<server>})", "{{instance}}"),
                unit="short",
                empty="no history is kept",
                width=6,
            ),
            timeseries(
                "history-size",
                "Size of the history",
                "Bytes of the history files, at most 50 MB for each target.",
                Query("max by (instance) (pgvigil_history_bytes{<server>})", "{{instance}}"),
                unit="bytes",
                empty="no history is kept",
                width=6,
            ),
            timeseries(
                "refused",
                "Clients refused",
                "Requests and connections that were refused, by reason: missing or wrong credentials, the rate, pages asked"
                " for from elsewhere, TLS that failed.",
                Query("sum by (reason) (rate(pgvigil_http_refused_total{<server>}[$__rate_interval]))", "{{reason}}"),
                unit="reqps",
                empty="none refused",
                width=6,
            ),
            timeseries(
                "web-config",
                "Configuration read",
                "1 where configuration, targets and collectors, and certificates, users and tokens could be used the last"
                " time. At 0 the earlier ones stay.",
                Query("min by (instance) (pgvigil_web_config_success{<server>})", "{{instance}}, web"),
                Query("min by (instance) (pgvigil_config_success{<server>})", "{{instance}}"),
                alerts=("PostgreSQLExporterConfigurationRefused",),
                unit="short",
                empty="older exporters",
                width=6,
            ),
            timeseries(
                "http-clients",
                "Connections of clients",
                "HTTP connections that are open, and how many there may be; beyond it the one that waits longest for its client"
                " is closed.",
                Query("max by (instance) (pgvigil_http_connections{<server>})", "{{instance}}"),
                Query("max by (instance) (pgvigil_http_connections_max{<server>})", "{{instance}}, at most"),
                unit="short",
                empty="older exporters",
                width=6,
            ),
            timeseries(
                "http-dropped",
                "Clients dropped",
                "Connections that were closed, by reason: a request or an answer took too long, too many of them, or too much"
                " that was not read.",
                Query("sum by (reason) (rate(pgvigil_http_dropped_total{<server>}[$__rate_interval]))", "{{reason}}"),
                unit="ops",
                empty="older exporters",
                width=6,
            ),
            timeseries(
                "http-unread",
                "Answers not read yet",
                "Bytes that clients have been sent and have not read.",
                Query("max by (instance) (pgvigil_http_unread_bytes{<server>})", "{{instance}}"),
                unit="bytes",
                empty="older exporters",
                width=6,
            ),
            table(
                "builds",
                "Versions",
                "The exporter's version, and when its process was started.",
                Column(
                    "Started",
                    """
                    max by (instance, version) (
                      1000 * pgvigil_build_info{<server>} * on (job, instance) group_left () process_start_time_seconds{<server>}
                    )
                    """,
                    "dateTimeFromNow",
                ),
                labels={"instance": "Instance", "version": "Version"},
                empty="no exporter answers",
                label_links=HERE,
            ),
        ),
        collapsed=True,
    )
