"""Statements: which take the time, what runs now, what became slower, what else they take, and how far to trust it."""

from dashboards.source import activity, variables
from dashboards.source.alert_thresholds import of, rising
from dashboards.source.expressions import leading
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Panel, Query, stat, table, timeseries
from dashboards.source.statements import (
    LABELS,
    LEGEND,
    ONE_ROW,
    ONE_SERIES,
    STATEMENT,
    leaders,
    mean,
    others,
    taken,
    with_text,
)

EXEC = "pg_statements_exec_seconds_total"
CALLS = "pg_statements_calls_total"
ALL_EXEC = "sum by (instance) (rate(pg_statements_all_exec_seconds_total{<server>}[$__rate_interval]OFFSET))"
ALL_CALLS = "sum by (instance) (rate(pg_statements_all_calls_total{<server>}[$__rate_interval]OFFSET))"
WHOLE = f"(sum(rate({EXEC}{{<database>}}[$__rate_interval])) > 0)"
BEFORE, LAST_WEEK = " offset $__range", " offset 1w"

NONE = "no pg_stat_statements, or nothing was asked"
QUERY_AGE = rising(of("PostgreSQLLongQuery", "seconds"))
CROWD = rising(1, of("PostgreSQLStatementCrowdsOut", "sessions") + 1)


def dashboard() -> Dashboard:
    """Give the dashboard of statements."""
    return Dashboard(
        uid="pg-queries",
        title="PostgreSQL / Queries",
        description="Which statements take the database's time, what runs now, and what became slower than before. "
        "The exporter's page /statements has their texts.",
        variables=variables.server(variables.datname(), variables.topk()),
        rows=(_time(), _running(), _slower(), _scans(), _functions(), _taken(), _trust()),
    )


def _time() -> Row:
    return Row(
        "Which statements take the time, and since when?",
        (
            stat(
                "busy",
                "Sessions at work",
                "Sessions that execute statements, on average: the time that all statements took, a second.",
                "sum(rate(pg_statements_all_exec_seconds_total{<server>}[$__rate_interval]))",
                unit="short",
                empty=NONE,
                decimals=2,
                sparkline=True,
            ),
            stat(
                "mean-time",
                "Mean time of a call",
                "How long a statement takes on average.",
                """
                sum(rate(pg_statements_all_exec_seconds_total{<server>}[$__rate_interval]))
                  / (sum(rate(pg_statements_all_calls_total{<server>}[$__rate_interval])) > 0)
                """,
                unit="s",
                empty=NONE,
                sparkline=True,
            ),
            stat(
                "calls",
                "Calls",
                "Statements executed a second.",
                "sum(rate(pg_statements_all_calls_total{<server>}[$__rate_interval]))",
                unit="ops",
                empty=NONE,
                sparkline=True,
            ),
            stat(
                "largest-share",
                "Largest share of one statement",
                "Share of a server's statement time that one statement took in the time shown, of the worst server.",
                f"""
                max(
                  {taken(EXEC)}
                    / on (instance) group_left ()
                    (sum by (instance) (increase(pg_statements_all_exec_seconds_total{{<server>}}[$__range])) > 0)
                )
                """,
                unit="percentunit",
                empty=NONE,
                decimals=0,
                steps=rising(of("PostgreSQLStatementDominates", "share")),
                runbooks=("PostgreSQLStatementDominates",),
            ),
            stat(
                "crowd",
                "Most sessions at one statement",
                "Sessions that have been at the same statement for more than 5 seconds, and wait for no lock.",
                "max(pg_statement_running_sessions{<database>})",
                unit="short",
                empty="none runs longer",
                steps=CROWD,
                runbooks=("PostgreSQLStatementCrowdsOut",),
            ),
            stat(
                "longest-query",
                "Longest running query",
                "How long the query that has run longest has done so.",
                "max(pg_sessions_longest_query_seconds{<database>})",
                unit="s",
                empty="none runs",
                steps=QUERY_AGE,
                runbooks=("PostgreSQLLongQuery",),
            ),
            activity.by_wait((to("pg-instance", "This server"),)),
            activity.by_statement(),
            activity.by_application((to("pg-instance", "This server"),)),
            timeseries(
                "time-shares",
                "Share of statement time",
                "Statements that took most of the time in all that is shown, and all others as `other`; together they are 100 %.",
                Query(f"({leaders(EXEC)}) / on () group_left () {WHOLE}", LEGEND),
                Query(f"{others(EXEC)} / {WHOLE}", "other"),
                unit="percentunit",
                empty=NONE,
                stack="normal",
                most=1,
                legend="table",
                links=ONE_SERIES,
                runbooks=("PostgreSQLStatementDominates",),
                width=24,
            ),
            table(
                "top-statements",
                "Statements that take most time",
                "What each took in the time shown. A click on a statement leads to its dashboard; its whole text is at "
                "the exporter's /statements.",
                Column("Time", taken(EXEC), "s"),
                Column(
                    "Share",
                    f"{taken(EXEC)} / on () group_left () sum(increase({EXEC}{{<database>}}[$__range]))",
                    "percentunit",
                    bar=True,
                ),
                Column("Mean", mean(EXEC), "s"),
                Column("Calls", taken(CALLS)),
                Column("Rows a call", mean("pg_statements_rows_total")),
                Column("Read a call", f"<block> * {mean('pg_statements_shared_blocks_read_total')}", "bytes"),
                Column("Temporary files", f"<block> * {taken('pg_statements_temp_blocks_written_total')}", "bytes"),
                Column("WAL", taken("pg_statements_wal_bytes_total"), "bytes"),
                labels=LABELS,
                beside=with_text,
                label_links=ONE_ROW,
                empty=NONE,
                ranked=True,
                runbooks=("PostgreSQLStatementDominates",),
            ),
        ),
    )


def _running() -> Row:
    running = f"sum by ({STATEMENT}) (pg_statement_running_sessions{{<database>}})"
    waiting = f"sum by ({STATEMENT}) (pg_statement_lock_waiting_sessions{{<database>}})"
    client = "instance, datname, usename, application_name, state"
    return Row(
        "What runs right now, and whose is it?",
        (
            table(
                "running",
                "Statements that sessions are at",
                "Statements that sessions have been at for more than 5 seconds. Those that wait for a lock are victims of "
                "another's transaction.",
                Column("Sessions", f"{running} + {waiting}", steps=CROWD),
                Column("of these wait for a lock", waiting),
                Column(
                    "Longest",
                    f"max by ({STATEMENT}) (pg_statement_longest_running_seconds{{<database>}})",
                    "s",
                    QUERY_AGE,
                ),
                labels=LABELS,
                beside=with_text,
                label_links=ONE_ROW,
                empty="no statement runs longer than 5 seconds",
                ranked=True,
                runbooks=("PostgreSQLStatementCrowdsOut",),
                width=14,
            ),
            table(
                "longest-pids",
                "The longest query of each server, with its pid",
                "Whom to talk to, or to cancel: SELECT pg_cancel_backend(pid).",
                Column(
                    "Runs for",
                    """
                    max by (instance, pid, datname, usename, application_name, wait_event) (
                      pg_session_oldest_seconds{<database>, kind="query"}
                    )
                    """,
                    "s",
                    QUERY_AGE,
                ),
                labels={
                    "instance": "Instance",
                    "pid": "Pid",
                    "datname": "Database",
                    "usename": "User",
                    "application_name": "Application",
                    "wait_event": "Waits for",
                },
                empty="no query runs",
                ranked=True,
                width=10,
            ),
            table(
                "long-queries",
                "Longest queries by application",
                "The longest running query of each user and application. Dumps, backups and index builds take long by nature.",
                Column(
                    "Longest query",
                    f"max by ({client}) (pg_sessions_longest_query_seconds{{<database>}})",
                    "s",
                    QUERY_AGE,
                ),
                Column("Sessions", f"sum by ({client}) (pg_sessions{{<database>}})"),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "usename": "User",
                    "application_name": "Application",
                    "state": "State",
                },
                empty="no query runs",
                ranked=True,
                alerts=("PostgreSQLLongQuery",),
                width=12,
            ),
            timeseries(
                "running-past",
                "Sessions at a statement",
                "Statements that most sessions had been at for more than 5 seconds, waiting for no lock.",
                Query(
                    with_text(
                        leading(
                            f"max by ({STATEMENT}) (pg_statement_running_sessions{{<database>}})",
                            f"max by ({STATEMENT}) (max_over_time(pg_statement_running_sessions{{<database>}}[$__range] @ end()))"
                            " > 0",
                        )
                    ),
                    LEGEND,
                ),
                unit="short",
                empty="no statement ran longer than 5 seconds",
                steps=rising(of("PostgreSQLStatementCrowdsOut", "sessions")),
                links=ONE_SERIES,
                runbooks=("PostgreSQLStatementCrowdsOut",),
            ),
        ),
        collapsed=True,
    )


def _slower() -> Row:
    return Row(
        "What became slower, or is called more often?",
        (
            table(
                "slower",
                "Statements slower than before",
                "The mean of a call in the time shown, against as long a time right before it and a week ago, ranked by what "
                "the difference costs: more seconds a call, times the calls. Below 0 they became faster.",
                Column("More time than before", f"{taken(EXEC)} - {mean(EXEC, BEFORE)} * {taken(CALLS)}", "s"),
                Column("Mean", mean(EXEC), "s"),
                Column("Mean before", mean(EXEC, BEFORE), "s"),
                Column(
                    "Times before",
                    f"({mean(EXEC)}) / ({mean(EXEC, BEFORE)} > 0)",
                    "short",
                    _times("PostgreSQLStatementSlower"),
                ),
                Column(
                    "Times last week",
                    f"({mean(EXEC)}) / ({mean(EXEC, LAST_WEEK)} > 0)",
                    "short",
                    _times("PostgreSQLStatementSlowerThanLastWeek"),
                ),
                Column("Calls", taken(CALLS)),
                labels=LABELS,
                beside=with_text,
                label_links=ONE_ROW,
                empty="none, or not followed for long enough",
                ranked=True,
                runbooks=("PostgreSQLStatementSlower", "PostgreSQLStatementSlowerThanLastWeek"),
            ),
            _with_last_week(
                "busy-past",
                "Sessions at work, and last week's",
                "Time that all statements took, a second.",
                ALL_EXEC,
                "short",
            ),
            _with_last_week("calls-past", "Calls, and last week's", "Statements executed a second.", ALL_CALLS, "ops"),
            _with_last_week(
                "mean-past",
                "Mean time of a call, and last week's",
                "How long a statement takes on average.",
                f"{ALL_EXEC} / ({ALL_CALLS} > 0)",
                "s",
            ),
        ),
        collapsed=True,
    )


def _times(alert: str) -> tuple[tuple[float | None, str], ...]:
    return rising(of(alert, "factor"))


def _with_last_week(key: str, title: str, description: str, expression: str, unit: str) -> Panel:
    return timeseries(
        key,
        title,
        f"{description} Dashed, a week ago.",
        Query(expression.replace("OFFSET", ""), "{{instance}}"),
        Query(expression.replace("OFFSET", LAST_WEEK), "{{instance}} last week", "past"),
        unit=unit,
        empty=NONE,
        links=(of_series("pg-instance", "This server", instance="instance"),),
        width=8,
    )


def _scans() -> Row:
    place = "instance, datname, schemaname, relname"
    rows = "pg_table_seq_tuples_read_total"
    return Row(
        "Which tables are read in full?",
        (
            timeseries(
                "rows-in-full",
                "Rows read by scans of whole tables",
                "Rows a second that sequential scans read. A steep rise is a query that finds no index that fits: it is among "
                "the statements that read or take most.",
                Query(
                    leading(
                        f"sum by ({place}) (rate({rows}{{<database>}}[$__rate_interval]))",
                        f"sum by ({place}) (increase({rows}{{<database>}}[$__range] @ end())) > 0",
                    ),
                    "{{schemaname}}.{{relname}} in {{datname}} on {{instance}}",
                ),
                unit="short",
                empty="no table is read in full",
                steps=rising(of("PostgreSQLTableReadInFull", "rows_per_second")),
                links=(of_series("pg-storage", "Tables and indexes", instance="instance", datname="datname"),),
                alerts=("PostgreSQLTableReadInFull",),
                width=10,
            ),
            table(
                "tables-in-full",
                "Tables read in full",
                "Sequential scans in the time shown. Many rows a scan and many scans mean that an index is missing; a small "
                "table is read in full for good reason.",
                Column("Rows read", f"sum by ({place}) (increase({rows}{{<database>}}[$__range])) > 0"),
                Column("Scans", f"sum by ({place}) (increase(pg_table_seq_scans_total{{<database>}}[$__range]))"),
                Column(
                    "Rows a scan",
                    f"""
                    sum by ({place}) (increase({rows}{{<database>}}[$__range]))
                      / (sum by ({place}) (increase(pg_table_seq_scans_total{{<database>}}[$__range])) > 0)
                    """,
                ),
                Column(
                    "Scans of its indexes",
                    f"sum by ({place}) (increase(pg_table_index_scans_total{{<database>}}[$__range]))",
                ),
                labels={"instance": "Instance", "datname": "Database", "schemaname": "Schema", "relname": "Table"},
                empty="no table is read in full",
                ranked=True,
                width=14,
            ),
        ),
        collapsed=True,
    )


def _functions() -> Row:
    function = "instance, datname, schemaname, funcname, arguments"
    metric = "pg_function_self_seconds_total"
    return Row(
        "Which functions take the time?",
        (
            timeseries(
                "functions",
                "Time in functions",
                "Sessions that execute each function and its statements, on average, without other functions that it calls. "
                "Those that took most in all that is shown.",
                Query(
                    leading(
                        f"sum by ({function}) (rate({metric}{{<database>}}[$__rate_interval]))",
                        f"sum by ({function}) (increase({metric}{{<database>}}[$__range] @ end())) > 0",
                    ),
                    "{{schemaname}}.{{funcname}}({{arguments}}) in {{datname}} on {{instance}}",
                ),
                unit="short",
                empty="no function was called, or track_functions is none",
                stack="normal",
            ),
        ),
        collapsed=True,
    )


def _taken() -> Row:
    return Row(
        "What do they take beside time?",
        (
            _resource(
                "reads",
                "Read from disk or the system's cache",
                "Bytes a second that statements read because they were not in shared buffers.",
                "pg_statements_shared_blocks_read_total",
                "Bps",
                blocks=True,
            ),
            _resource(
                "read-time",
                "Time spent reading",
                "Sessions that read blocks, on average; 0 unless track_io_timing is on.",
                "pg_statements_shared_read_seconds_total",
                "short",
            ),
            timeseries(
                "temp-statements",
                "Temporary files",
                "Bytes a second written because sorts and hashes did not fit into work_mem: files of whole databases, and what "
                "the statements that wrote most wrote to them, again with each pass.",
                Query(
                    "sum by (instance, datname) (rate(pg_database_temp_bytes_total{<database>}[$__rate_interval])) > 0",
                    "all of {{datname}} on {{instance}}",
                    "past",
                ),
                Query(f"<block> * ({leaders('pg_statements_temp_blocks_written_total')}) > 0", LEGEND),
                unit="Bps",
                empty="no temporary files",
                steps=rising(of("PostgreSQLTempFilesHigh", "bytes_per_second")),
                alerts=("PostgreSQLTempFilesHigh",),
            ),
            _resource(
                "wal-statements",
                "WAL",
                "Bytes of WAL a second. Standbys and the archive have to carry them.",
                "pg_statements_wal_bytes_total",
                "Bps",
            ),
            _resource(
                "rows",
                "Rows",
                "Rows a second that statements returned or changed.",
                "pg_statements_rows_total",
                "short",
            ),
            _resource(
                "planning",
                "Time spent planning",
                "Sessions that plan statements, on average; 0 unless pg_stat_statements.track_planning is on.",
                "pg_statements_plan_seconds_total",
                "short",
            ),
        ),
        collapsed=True,
    )


def _resource(key: str, title: str, description: str, metric: str, unit: str, *, blocks: bool = False) -> Panel:
    """What the statements that take most of it take, and all others."""
    factor = "<block> * " if blocks else ""
    return timeseries(
        key,
        title,
        f"{description} The statements that took most in all that is shown, and the others.",
        Query(f"{factor}({leaders(metric)})", LEGEND),
        Query(f"{factor}({others(metric)})", "other"),
        unit=unit,
        empty=NONE,
        stack="normal",
        links=ONE_SERIES,
    )


def _trust() -> Row:
    return Row(
        "How far can these numbers be trusted?",
        (
            timeseries(
                "evictions",
                "Evictions in an hour",
                "Times that pg_stat_statements was full and threw out what is executed least. What came and went in between "
                "was not counted: raise pg_stat_statements.max, or see who sends statements that differ each time.",
                Query("sum by (instance) (increase(pg_statements_dealloc_total{<server>}[1h]))", "{{instance}}"),
                unit="short",
                empty="not counted before PostgreSQL 14",
                steps=rising(of("PostgreSQLStatementsEvicted", "evictions")),
                alerts=("PostgreSQLStatementsEvicted",),
                width=8,
            ),
            timeseries(
                "resets",
                "Resets in 15 minutes",
                "Times that somebody reset pg_stat_statements. The counters here go on as if nobody had.",
                Query(
                    "max by (instance) (changes(pg_statements_stats_reset_timestamp_seconds{<server>}[15m]))",
                    "{{instance}}",
                ),
                unit="short",
                empty="not known before PostgreSQL 14",
                steps=rising(of("PostgreSQLStatementsReset", "resets") + 1),
                decimals=0,
                alerts=("PostgreSQLStatementsReset",),
                width=8,
            ),
            timeseries(
                "unnamed",
                "Time of statements without a series",
                "Share of statement time in `other`. When it is high, no statement is to blame: many take a little each.",
                Query(
                    f"""
                    (
                      sum by (instance) (rate({EXEC}{{<database>, queryid="other"}}[$__rate_interval]))
                      or
                      0 * sum by (instance) (rate({EXEC}{{<database>}}[$__rate_interval]))
                    )
                      / (sum by (instance) (rate({EXEC}{{<database>}}[$__rate_interval])) > 0)
                    """,
                    "{{instance}}",
                ),
                unit="percentunit",
                empty=NONE,
                most=1,
                width=8,
            ),
        ),
        collapsed=True,
    )
