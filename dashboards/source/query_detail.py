"""One statement: how slow it is and since when, what it waits for, what a call does, who runs it, and who is at it now."""

from collections.abc import Sequence

from dashboards.source import variables
from dashboards.source.alert_thresholds import of, rising
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Panel, Query, stat, table, timeseries
from dashboards.source.statements import LABELS, with_text

WHO = "instance, datname, usename"
LEGEND = "{{usename}} in {{datname}} on {{instance}}"

EXEC = "pg_statements_exec_seconds_total"
CALLS = "pg_statements_calls_total"
SAMPLED = "pg_statement_sampled_seconds_total"
EVENT = "wait_event_type, wait_event"
LAST_WEEK = " offset 1w"

NEVER = "not called in the time shown, or without a series of its own"
UNSEEN = "not seen running, or without a series of its own"
IDLE = "nobody is at it"
SERVER = (of_series("pg-instance", "This server", instance="instance"),)


def dashboard() -> Dashboard:
    """Give the dashboard of a statement."""
    return Dashboard(
        uid="pg-query-detail",
        title="PostgreSQL / Query detail",
        description="One statement: how slow it is and since when, what it waits for, what a call does, who runs it, and who "
        "is at it now. With several chosen they are added up.",
        variables=variables.server(variables.datname(), variables.queryid(), variables.topk()),
        rows=(_slow(), _waits(), _now(), _call(), _runners()),
    )


def _slow() -> Row:
    return Row(
        "How slow is it, since when, and how much of the server does it take?",
        (
            stat(
                "detail-mean",
                "Mean time of a call",
                "How long a call took on average, just now.",
                f"{_sum(EXEC)} / ({_sum(CALLS)} > 0)",
                unit="s",
                empty=NEVER,
                sparkline=True,
            ),
            stat(
                "detail-slower",
                "Times last week",
                "The mean time of a call in the time shown, against the same time a week ago.",
                f"""
                ({_took(EXEC)} / ({_took(CALLS)} > 0))
                  / ({_took(EXEC, LAST_WEEK)} / ({_took(CALLS, LAST_WEEK)} > 0) > 0)
                """,
                unit="short",
                empty="no data of a week ago",
                decimals=1,
                steps=rising(of("PostgreSQLStatementSlowerThanLastWeek", "factor")),
                runbooks=("PostgreSQLStatementSlowerThanLastWeek",),
            ),
            stat(
                "detail-calls",
                "Calls",
                "Calls a second, just now.",
                _sum(CALLS),
                unit="ops",
                empty=NEVER,
                sparkline=True,
            ),
            stat(
                "detail-share",
                "Share of statement time",
                "Share of all statement time of the chosen servers that it took in the time shown.",
                f"{_took(EXEC)} / (sum(increase(pg_statements_all_exec_seconds_total{{<server>}}[$__range])) > 0)",
                unit="percentunit",
                empty=NEVER,
                decimals=1,
                steps=rising(of("PostgreSQLStatementDominates", "share")),
                runbooks=("PostgreSQLStatementDominates",),
            ),
            stat(
                "detail-sessions",
                "Sessions at it now",
                "Sessions that have been at it for more than 5 seconds and wait for no lock.",
                "sum(pg_statement_running_sessions{<statement>})",
                unit="short",
                empty=IDLE,
                steps=rising(1, of("PostgreSQLStatementCrowdsOut", "sessions") + 1),
                runbooks=("PostgreSQLStatementCrowdsOut",),
            ),
            stat(
                "detail-waiting",
                "Sessions that wait for a lock",
                "Sessions that have been at it for more than 5 seconds and wait for a lock: it is a victim, not the cause.",
                "sum(pg_statement_lock_waiting_sessions{<statement>})",
                unit="short",
                empty=IDLE,
                steps=rising(1),
                links=(to("pg-locks", "Who blocks whom"),),
            ),
            timeseries(
                "detail-mean-past",
                "Mean time of a call, and last week's",
                "A step up is a changed plan, stale statistics or more rows; a ramp is a table that grows. Dashed, a week ago.",
                Query(_mean(EXEC), LEGEND),
                Query(_mean(EXEC, LAST_WEEK), f"{LEGEND} last week", "past"),
                unit="s",
                empty=NEVER,
                links=SERVER,
                alerts=("PostgreSQLStatementSlower", "PostgreSQLStatementSlowerThanLastWeek"),
                height=7,
            ),
            timeseries(
                "detail-share-past",
                "Share of its server's statement time",
                "Share of all statement time of its server.",
                Query(
                    f"""
                    {_pace(EXEC)}
                      / on (instance) group_left ()
                      (sum by (instance) (rate(pg_statements_all_exec_seconds_total{{<server>}}[$__rate_interval])) > 0)
                    """,
                    LEGEND,
                ),
                unit="percentunit",
                empty=NEVER,
                most=1,
                steps=rising(of("PostgreSQLStatementDominates", "share")),
                links=SERVER,
                alerts=("PostgreSQLStatementDominates",),
                height=7,
            ),
            timeseries(
                "detail-calls-past",
                "Calls, and last week's",
                "Calls a second; dashed, a week ago. More calls at the same mean are a matter of the application.",
                Query(_pace(CALLS), LEGEND),
                Query(_pace(CALLS, LAST_WEEK), f"{LEGEND} last week", "past"),
                unit="ops",
                empty=NEVER,
                links=SERVER,
                alerts=("PostgreSQLStatementCalledPerRow",),
                height=7,
            ),
            timeseries(
                "detail-time-past",
                "Sessions at work on it, and last week's",
                "Sessions that execute it, on average: calls a second, times the mean of a call; dashed, a week ago.",
                Query(_pace(EXEC), LEGEND),
                Query(_pace(EXEC, LAST_WEEK), f"{LEGEND} last week", "past"),
                unit="short",
                empty=NEVER,
                links=SERVER,
                height=7,
            ),
        ),
    )


def _waits() -> Row:
    return Row(
        "What does it wait for, and what did it wait for last week?",
        (
            _waiting(
                "detail-waits",
                "Average active sessions on it by wait event",
                "Sessions that execute it, on average, by wait event type and wait event, sampled between scrapes. CPU is every "
                "session without a wait event.",
                "",
                alerts=("PostgreSQLStatementWaitsForLocks", "PostgreSQLStatementWaitsForIo"),
            ),
            _waiting(
                "detail-waits-last-week",
                "Average active sessions on it last week",
                "Average active sessions by wait event type and wait event, a week before the time range shown.",
                LAST_WEEK,
            ),
            table(
                "detail-wait-events",
                "Wait events, and last week's",
                "Time that sessions spent in each wait event of the statement, and its share of the statement's time, in the time "
                "range shown and a week before it. A wait event that is new or has grown is the reason for the change.",
                Column("Time", _waited(), "s"),
                Column("Share", f"{_waited()} / on () group_left () ({_took(SAMPLED)} > 0)", "percentunit", bar=True),
                Column("Time last week", _waited(LAST_WEEK), "s"),
                Column(
                    "Share last week",
                    f"{_waited(LAST_WEEK)} / on () group_left () ({_took(SAMPLED, LAST_WEEK)} > 0)",
                    "percentunit",
                    bar=True,
                ),
                labels={"wait_event_type": "Wait event type", "wait_event": "Wait event"},
                empty=UNSEEN,
            ),
        ),
    )


def _waiting(key: str, title: str, description: str, at: str, alerts: Sequence[str] = ()) -> Panel:
    return timeseries(
        key,
        title,
        description,
        Query(
            f"sum by ({EVENT}) (rate({SAMPLED}{{<statement>}}[$__rate_interval]{at}))",
            "{{wait_event_type}} {{wait_event}}",
        ),
        unit="short",
        empty=UNSEEN,
        stack="normal",
        links=(to("pg-locks", "Who blocks whom"),),
        alerts=alerts,
    )


def _now() -> Row:
    return Row(
        "Who is at it now, and for how long?",
        (
            timeseries(
                "detail-running",
                "Sessions at it for more than 5 seconds",
                "Seen while they run: pg_stat_statements counts a statement when it ends, and never one that is cancelled.",
                Query(f"sum by ({WHO}) (pg_statement_running_sessions{{<statement>}})", LEGEND),
                Query(
                    f"sum by ({WHO}) (pg_statement_lock_waiting_sessions{{<statement>}}) > 0",
                    f"{LEGEND} wait for a lock",
                    "past",
                ),
                unit="short",
                empty="nobody was at it for as long",
                steps=rising(of("PostgreSQLStatementCrowdsOut", "sessions")),
                links=(of_series("pg-locks", "Who blocks whom", instance="instance"),),
                alerts=("PostgreSQLStatementCrowdsOut",),
            ),
            timeseries(
                "detail-longest",
                "Longest at it",
                "How long the session that has been at it longest has been so.",
                Query(f"max by ({WHO}) (pg_statement_longest_running_seconds{{<statement>}})", LEGEND),
                unit="s",
                empty="nobody was at it for as long",
                steps=rising(of("PostgreSQLLongQuery", "seconds")),
                runbooks=("PostgreSQLLongQuery",),
            ),
        ),
    )


def _call() -> Row:
    return Row(
        "What does a call do, and where does its time go?",
        (
            timeseries(
                "detail-parts",
                "Where the time of a call goes",
                "Mean seconds of a call: planned, read, written, on temporary files, and the rest, which is work on the CPU and "
                "waiting. The parts are 0 without track_io_timing, planning without pg_stat_statements.track_planning.",
                Query(_part(_sum("pg_statements_plan_seconds_total")), "planning"),
                Query(_part(_sum("pg_statements_shared_read_seconds_total")), "reading"),
                Query(_part(_sum("pg_statements_shared_write_seconds_total")), "writing"),
                Query(_part(TEMPORARY), "temporary files"),
                Query(
                    _part(
                        f"""
                        clamp_min(
                          {_sum(EXEC)} - {_sum("pg_statements_shared_read_seconds_total")}
                          - {_sum("pg_statements_shared_write_seconds_total")} - ({TEMPORARY} or vector(0)),
                          0
                        )
                        """
                    ),
                    "CPU and waiting",
                ),
                unit="s",
                empty=NEVER,
                stack="normal",
            ),
            timeseries(
                "detail-rows",
                "Rows a call",
                "Rows that a call returns or changes. When the time rises and these do not, more is read to find as much.",
                Query(_mean("pg_statements_rows_total"), LEGEND),
                unit="short",
                empty=NEVER,
            ),
            timeseries(
                "detail-blocks",
                "Read a call",
                "Bytes that a call reads: found in shared buffers, and not. A jump is a plan that turned into a scan.",
                Query(f"<block> * {_mean('pg_statements_shared_blocks_hit_total')}", f"{LEGEND} found"),
                Query(f"<block> * {_mean('pg_statements_shared_blocks_read_total')}", f"{LEGEND} read"),
                unit="bytes",
                empty=NEVER,
                width=8,
            ),
            timeseries(
                "detail-temp",
                "Temporary files a call",
                "Bytes that a call writes to temporary files because sorts and hashes do not fit into work_mem.",
                Query(f"<block> * {_mean('pg_statements_temp_blocks_written_total')}", LEGEND),
                unit="bytes",
                empty=NEVER,
                runbooks=("PostgreSQLTempFilesHigh",),
                width=8,
            ),
            timeseries(
                "detail-wal",
                "WAL a call",
                "Bytes of WAL that a call writes; more right after a checkpoint, when pages go to WAL whole.",
                Query(_mean("pg_statements_wal_bytes_total"), LEGEND),
                unit="bytes",
                empty=NEVER,
                width=8,
            ),
            timeseries(
                "detail-jit",
                "Compiled just in time, a call",
                "Seconds of a call that go to just-in-time compilation. Near its mean time, jit costs more than it gives.",
                Query(_mean("pg_statements_jit_seconds_total"), LEGEND),
                unit="s",
                empty="not counted before PostgreSQL 15",
            ),
            timeseries(
                "detail-parallel",
                "Parallel workers a call",
                "Workers that a call gets, and in dashes those that its plan asked for. Fewer than asked for, it runs longer.",
                Query(_mean("pg_statements_parallel_workers_launched_total"), LEGEND),
                Query(_mean("pg_statements_parallel_workers_planned_total"), f"{LEGEND} planned", "past"),
                unit="short",
                empty="not counted before PostgreSQL 18",
            ),
        ),
        collapsed=True,
    )


def _runners() -> Row:
    return Row(
        "Who runs it, and what is its text?",
        (
            table(
                "detail-runners",
                "Who runs it",
                "What the chosen statements took in the time shown, by server, database and user.",
                Column("Time", _all(EXEC), "s"),
                Column("Calls", _all(CALLS)),
                Column("Mean", f"{_all(EXEC)} / ({_all(CALLS)} > 0)", "s"),
                Column("Rows a call", f"{_all('pg_statements_rows_total')} / ({_all(CALLS)} > 0)"),
                Column(
                    "Found in shared buffers",
                    f"""
                    {_all("pg_statements_shared_blocks_hit_total")}
                      / (
                        {_all("pg_statements_shared_blocks_hit_total")} + {_all("pg_statements_shared_blocks_read_total")}
                        > 0
                      )
                    """,
                    "percentunit",
                ),
                labels=LABELS,
                beside=with_text,
                empty=NEVER,
                ranked=True,
            ),
            _text(),
        ),
        collapsed=True,
    )


def _text() -> Panel:
    return table(
        "detail-text",
        "Its text",
        "The text, literals replaced, and shortened to statement_text_length; the exporter's /statements has all of it.",
        Column("Listed", "max by (query, instance, datname, usename, queryid) (pg_statement_info{<statement>})"),
        labels=LABELS,
        empty="no text is known: statement_text_length is 0, or the statement has no series of its own",
        height=4,
    )


def _sum(metric: str) -> str:
    return f"sum(rate({metric}{{<statement>}}[$__rate_interval]))"


def _took(metric: str, at: str = "") -> str:
    return f"sum(increase({metric}{{<statement>}}[$__range]{at}))"


def _waited(at: str = "") -> str:
    return f"sum by ({EVENT}) (increase({SAMPLED}{{<statement>}}[$__range]{at}))"


def _pace(metric: str, at: str = "") -> str:
    return f"sum by ({WHO}) (rate({metric}{{<statement>}}[$__rate_interval]{at}))"


def _mean(metric: str, at: str = "") -> str:
    return f"{_pace(metric, at)} / ({_pace(CALLS, at)} > 0)"


def _part(seconds: str) -> str:
    return f"({seconds}) / ({_sum(CALLS)} > 0)"


def _all(metric: str) -> str:
    return f"sum by ({WHO}, queryid) (increase({metric}{{<statement>}}[$__range]))"


TEMPORARY = f"({_sum('pg_statements_temp_read_seconds_total')} + {_sum('pg_statements_temp_write_seconds_total')})"
