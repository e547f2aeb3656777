"""Vacuum: whether it keeps up, what keeps it from removing dead rows, and when transaction ids run out."""

from dashboards.source import endings, variables
from dashboards.source.alert_thresholds import CRITICAL, DAY, GOOD, NEUTRAL, WARNING, falling, of, rising
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Panel, Query, stat, table, timeseries

TABLE = {"instance": "Instance", "datname": "Database", "schemaname": "Schema", "relname": "Table"}
BY_TABLE = "instance, datname, schemaname, relname"
BY_HOLDER = "instance, holder, name, datname, usename, application_name, state, pid"
HERE = (to("pg-storage", "Tables and their sizes", instance="instance", datname="datname"),)

SWITCHED_OFF = Column(
    "Autovacuum",
    f"max by ({BY_TABLE}) (pg_table_autovacuum_disabled{{<database>}})",
    "none",
    mappings=((0, "on", "text"), (1, "OFF", WARNING)),
)

DUE = "pg_table_dead_tuples{<database>} > pg_table_vacuum_threshold_tuples{<database>}"
FLOOR = 1000
"""Rows that are worth a line."""


def dashboard() -> Dashboard:
    """Give the dashboard of vacuum and freezing."""
    return Dashboard(
        uid="pg-vacuum",
        title="PostgreSQL / Vacuum",
        description="Whether vacuum keeps up, what keeps it from removing dead rows, and when transaction ids run out.",
        variables=variables.server(variables.datname(), variables.topk()),
        rows=(_state(), _horizon(), _debt(), _ids(), _statistics(), _freezing()),
    )


def _state() -> Row:
    return Row(
        "Is it broken, how bad, and since when?",
        (
            stat(
                "autovacuum-runs",
                "Autovacuum",
                "Whether autovacuum and track_counts are on and the launcher runs, on all of the chosen servers.",
                """
                min(
                  pg_autovacuum_enabled{<server>} * on (job, instance) pg_autovacuum_launcher_running{<server>}
                )
                """,
                unit="none",
                empty="no primary answers",
                mappings=((1, "runs", GOOD), (0, "OFF", CRITICAL)),
                alerts=("PostgreSQLAutovacuumOff",),
            ),
            stat(
                "eta-xid",
                "Transaction ids are used up in",
                "Time until writes stop, of databases that should have been frozen long ago, at the pace of six hours.",
                "min(datname:pg_xid_seconds_left:rate6h{<database>})",
                unit="s",
                empty="frozen in time",
                steps=falling(
                    of("PostgreSQLXidWraparoundWithinMonth", "days") * DAY,
                    of("PostgreSQLXidWraparoundWithinWeek", "days") * DAY,
                ),
                runbooks=("PostgreSQLXidWraparoundWithinWeek",),
            ),
            stat(
                "eta-multixact",
                "Multixact ids are used up in",
                "Time until row locks fail, of databases that should have been frozen long ago, at the pace of six hours.",
                "min(datname:pg_multixact_seconds_left:rate6h{<database>})",
                unit="s",
                empty="frozen in time",
                steps=falling(
                    of("PostgreSQLMultixactWraparoundWithinMonth", "days") * DAY,
                    of("PostgreSQLMultixactWraparoundWithinWeek", "days") * DAY,
                ),
                runbooks=("PostgreSQLMultixactWraparoundWithinWeek",),
            ),
            stat(
                "workers-share",
                "Autovacuum workers at work",
                "Share of autovacuum_max_workers that is busy, of the busiest server. At 100 % for long, tables wait for one.",
                "max(pg_autovacuum_workers{<server>} / on (job, instance) pg_autovacuum_max_workers{<server>})",
                unit="percentunit",
                empty="no primary answers",
                steps=rising(of("PostgreSQLAutovacuumNotKeepingUp", "ratio")),
                sparkline=True,
            ),
            stat(
                "tables-due",
                "Tables due for vacuum",
                "Tables with more dead rows than bring autovacuum. It comes to each database once every autovacuum_naptime.",
                f"count({DUE})",
                unit="short",
                empty="none",
                steps=rising(of("PostgreSQLAutovacuumNotKeepingUp", "tables")),
                sparkline=True,
            ),
            stat(
                "horizon-share",
                "Oldest holder of dead rows",
                "Share of autovacuum_freeze_max_age that the oldest transaction has reached which somebody may still look back to.",
                """
                max(
                  pg_xmin_horizon_age{<server>}
                    / on (job, instance) group_left () pg_wraparound_freeze_max_age{<server>}
                )
                """,
                unit="percentunit",
                empty="nobody",
                steps=rising(of("PostgreSQLXminHorizonHeld", "ratio")),
                runbooks=("PostgreSQLXminHorizonHeld",),
            ),
            timeseries(
                "dead-rows",
                "Dead rows",
                "Dead rows that no vacuum has removed. A sawtooth is health; a steady rise means that vacuum cannot remove them.",
                Query("sum by (instance, datname) (pg_table_dead_tuples{<database>})", "{{datname}} on {{instance}}"),
                unit="short",
                empty="no primary answers",
            ),
            timeseries(
                "workers",
                "Autovacuum workers",
                "Workers at work, those of them that freeze against wraparound, and, in red, how many there may be.",
                Query("sum by (instance) (pg_autovacuum_workers{<server>})", "{{instance}}"),
                Query("sum by (instance) (pg_autovacuum_wraparound_workers{<server>}) > 0", "{{instance}} wraparound"),
                Query("max by (instance) (pg_autovacuum_max_workers{<server>})", "{{instance}} at most", "limit"),
                unit="short",
                empty="no primary answers",
                alerts=("PostgreSQLAutovacuumNotKeepingUp",),
            ),
        ),
    )


def _horizon() -> Row:
    return Row(
        "Who keeps vacuum from removing dead rows?",
        (
            table(
                "horizon-holders",
                "Holders of the horizon",
                "The oldest of each kind and database: vacuum removes nothing that died since. Ended, rolled back or "
                "dropped, it lets go.",
                Column("Transactions", f"max by ({BY_HOLDER}) (pg_xmin_horizon_age{{<server>}})"),
                Column(
                    "Of autovacuum_freeze_max_age",
                    f"""
                    max by ({BY_HOLDER}) (
                      pg_xmin_horizon_age{{<server>}}
                        / on (job, instance) group_left () pg_wraparound_freeze_max_age{{<server>}}
                    )
                    """,
                    "percentunit",
                    rising(of("PostgreSQLXminHorizonHeld", "ratio")),
                ),
                Column("Open for", f"max by ({BY_HOLDER}) (pg_xmin_horizon_seconds{{<server>}})", "s"),
                labels={
                    "instance": "Instance",
                    "holder": "Kind",
                    "name": "Name",
                    "datname": "Database",
                    "usename": "User",
                    "application_name": "Application",
                    "state": "State",
                    "pid": "Pid",
                },
                empty="nobody",
                ranked=True,
                label_links={
                    "holder": (
                        to("pg-locks", "Sessions and their locks", instance="instance"),
                        to("pg-replication", "Slots and standbys", instance="instance"),
                    )
                },
                alerts=("PostgreSQLXminHorizonHeld", "PostgreSQLPreparedTransactionOrphaned"),
                height=6,
            ),
            timeseries(
                "horizon-age",
                "Horizon by who holds it",
                "Transactions since the oldest that somebody of each kind may still look back to. A ramp is somebody who does not let go.",
                Query("max by (instance, holder) (pg_xmin_horizon_age{<server>})", "{{holder}} on {{instance}}"),
                unit="short",
                empty="nobody",
            ),
            timeseries(
                "prepared",
                "Prepared transactions",
                "Age of the oldest transaction that was prepared and neither committed nor rolled back. It survives restarts.",
                Query(
                    "max by (instance, datname) (pg_prepared_transactions_oldest_age_seconds{<database>})",
                    "{{datname}} on {{instance}}",
                ),
                unit="s",
                empty="none",
                steps=rising(of("PostgreSQLPreparedTransactionOrphaned", "seconds")),
                runbooks=("PostgreSQLPreparedTransactionOrphaned",),
            ),
        ),
    )


def _debt() -> Row:
    due = _worth(DUE.replace(" > ", " / "), f"pg_table_dead_tuples{{<database>}} > {FLOOR}")
    return Row(
        "Which tables wait for vacuum?",
        (
            table(
                "dead-rows-tables",
                "Dead rows against the table's own threshold",
                f"Tables with more than {FLOOR} dead rows; above 1 autovacuum should have come. Their storage parameters are in it.",
                Column("Times its threshold", due, "short", rising(1, of("PostgreSQLDeadTuples", "times"))),
                _of_table("Dead rows", "pg_table_dead_tuples{<database>}"),
                _of_table("Live rows", "pg_table_live_tuples{<database>}"),
                _of_table("Size", "pg_table_size_bytes{<database>}", "bytes"),
                _of_table("Last autovacuum", _ago("pg_table_last_autovacuum"), "s"),
                _of_table("Last vacuum by hand", _ago("pg_table_last_vacuum"), "s"),
                SWITCHED_OFF,
                labels=TABLE,
                empty="none",
                ranked=True,
                label_links={"relname": HERE},
                alerts=("PostgreSQLDeadTuples",),
                runbooks=("PostgreSQLAutovacuumNotKeepingUp",),
            ),
            table(
                "vacuum-progress",
                "Vacuums that run",
                "By autovacuum or by hand. Many rounds through the indexes mean that maintenance_work_mem is too small.",
                Column("Runs for", "max by (instance, datname, relname) (pg_vacuum_progress_seconds{<database>})", "s"),
                Column(
                    "Of the table read",
                    """
                    max by (instance, datname, relname, phase) (
                      pg_vacuum_progress_heap_scanned_blocks{<database>} / pg_vacuum_progress_heap_blocks{<database>}
                        * on (job, instance, datname, relname) group_left (phase)
                        (pg_vacuum_progress_phase{<database>} == 1)
                    )
                    """,
                    "percentunit",
                ),
                Column(
                    "Rounds through the indexes",
                    "max by (instance, datname, relname) (pg_vacuum_progress_index_vacuums{<database>})",
                ),
                Column(
                    "Against wraparound",
                    "max by (instance, datname, relname) (pg_vacuum_progress_wraparound{<database>})",
                    "none",
                    mappings=((1, "yes", WARNING), (0, "no", "text")),
                ),
                labels={"instance": "Instance", "datname": "Database", "relname": "Table", "phase": "Phase"},
                empty="none runs",
                runbooks=("PostgreSQLAutovacuumNotKeepingUp",),
                width=14,
            ),
            timeseries(
                "vacuums",
                "Vacuums and analyzes that ended",
                "Per hour, by autovacuum. Many vacuums while dead rows stay mean that they can remove nothing.",
                Query(
                    "sum by (instance) (increase(pg_table_autovacuums_total{<database>}[1h]))", "{{instance}} vacuums"
                ),
                Query(
                    "sum by (instance) (increase(pg_table_autoanalyzes_total{<database>}[1h]))", "{{instance}} analyzes"
                ),
                unit="short",
                empty="no primary answers",
                width=10,
            ),
            table(
                "autovacuum-time",
                "Tables that autovacuum spends its time on",
                "In the time shown, counted when each vacuum or analyze ends. Sleep for autovacuum_vacuum_cost_delay is in it.",
                Column("Vacuum", _spent("autovacuum"), "s"),
                Column("Analyze", _spent("autoanalyze"), "s"),
                Column("Vacuum by hand", _spent("vacuum"), "s"),
                Column("Analyze by hand", _spent("analyze"), "s"),
                labels=TABLE,
                empty="no primary answers, or PostgreSQL 17 and older",
                ranked=True,
                label_links={"relname": HERE},
            ),
        ),
    )


def _spent(kind: str) -> str:
    return f"max by ({BY_TABLE}) (increase(pg_table_{kind}_seconds_total{{<database>}}[$__range]))"


def _ids() -> Row:
    return Row(
        "When do transaction ids run out?",
        (
            _age("xid", "transaction", "Transaction ids", "Xid", "freeze_max_age", "failsafe_age"),
            _age(
                "mxid", "multixact", "Multixact ids", "Multixact", "multixact_freeze_max_age", "multixact_failsafe_age"
            ),
            _last("xid", "xid", "Transaction ids", "Xid", "freeze_max_age"),
            _last("mxid", "multixact", "Multixact ids", "Multixact", "multixact_freeze_max_age"),
            timeseries(
                "ids-used",
                "Ids used per second",
                "Transaction and multixact ids per second, those of subtransactions included; dashed, a week ago.",
                Query("sum by (instance) (deriv(pg_xid_consumed{<server>}[$__rate_interval]))", "{{instance}} xids"),
                Query(
                    "sum by (instance) (deriv(pg_multixact_consumed{<server>}[$__rate_interval]))",
                    "{{instance}} multixacts",
                ),
                Query(
                    "sum by (instance) (deriv(pg_xid_consumed{<server>}[$__rate_interval] offset 1w))",
                    "{{instance}} xids last week",
                    "past",
                ),
                unit="ops",
                empty="does not answer",
                links=(of_series("pg-queries", "Statements", instance="instance"),),
            ),
            timeseries(
                "members",
                "Multixact members kept",
                "Fails at 4.3 billion, whatever the age of the ids; from half of it on autovacuum freezes sooner. Not from PostgreSQL 19 on.",
                Query("max by (instance) (pg_multixact_members{<server>})", "{{instance}}"),
                unit="short",
                empty="no primary answers, or PostgreSQL 19",
                steps=rising(
                    of("PostgreSQLMultixactMembersFreezeOverdue", "members"),
                    of("PostgreSQLMultixactMembersNearlyExhausted", "members"),
                ),
                alerts=("PostgreSQLMultixactMembersFreezeOverdue", "PostgreSQLMultixactMembersNearlyExhausted"),
            ),
        ),
        collapsed=True,
    )


def _age(key: str, kind: str, title: str, alert: str, begins: str, failsafe: str) -> Panel:
    return timeseries(
        f"age-{key}",
        f"{title} in use",
        f"Age of the oldest {kind} id of each database. In red, where autovacuum freezes by force; above it, it should fall soon.",
        Query(f"max by (instance, datname) (pg_database_{key}_age{{<database>}})", "{{datname}} on {{instance}}"),
        Query(f"max by (instance) (pg_wraparound_{begins}{{<server>}})", "{{instance}} freezes by force", "limit"),
        Query(
            f"""
            max by (instance) (
              pg_wraparound_{failsafe}{{<server>}}
                < on (job, instance) 4 * max by (job, instance) (pg_database_{key}_age{{<server>}})
            )
            """,
            "{{instance}} failsafe",
            "limit",
        ),
        unit="short",
        empty="does not answer",
        alerts=(
            f"PostgreSQL{alert}FreezeOverdue",
            f"PostgreSQL{alert}FailsafeReached",
            f"PostgreSQL{alert}NearlyExhausted",
        ),
    )


def _last(key: str, used: str, title: str, alert: str, begins: str) -> Panel:
    return table(
        f"last-{key}",
        f"{title} by database",
        "How old the oldest is, and how long the rest lasts at the pace of six hours if vacuum froze nothing from now on.",
        Column("Age", f"max by (instance, datname) (pg_database_{key}_age{{<database>}})"),
        Column(
            "Of forced freezing",
            f"""
            max by (instance, datname) (
              pg_database_{key}_age{{<database>}}
                / on (job, instance) group_left () pg_wraparound_{begins}{{<server>}}
            )
            """,
            "percentunit",
            rising(of(f"PostgreSQL{alert}FreezeOverdue", "factor")),
        ),
        Column(
            "Lasts for",
            f"""
            min by (instance, datname) (
              ({endings.IDS} - pg_database_{key}_age{{<database>}})
                / on (job, instance) group_left () (instance:pg_{used}_consumed:rate6h{{<server>}} > 0)
            )
            """,
            "s",
            NEUTRAL,
        ),
        Column(
            "Not frozen in time, ends in",
            f"min by (instance, datname) (datname:pg_{used}_seconds_left:rate6h{{<database>}})",
            "s",
            falling(
                of(f"PostgreSQL{alert}WraparoundWithinMonth", "days") * DAY,
                of(f"PostgreSQL{alert}WraparoundWithinWeek", "days") * DAY,
            ),
        ),
        labels={"instance": "Instance", "datname": "Database"},
        empty="does not answer",
        ranked=True,
        alerts=(f"PostgreSQL{alert}WraparoundWithinMonth", f"PostgreSQL{alert}WraparoundWithinWeek"),
        width=12,
    )


def _statistics() -> Row:
    stale = _worth(
        "pg_table_modified_since_analyze_tuples{<database>} / pg_table_analyze_threshold_tuples{<database>}",
        f"pg_table_modified_since_analyze_tuples{{<database>}} > {FLOOR}",
    )
    grown = _worth(
        "pg_table_inserted_since_vacuum_tuples{<database>} / pg_table_insert_vacuum_threshold_tuples{<database>}",
        f"pg_table_inserted_since_vacuum_tuples{{<database>}} > {FLOOR}",
    )
    off = f"""
    max by ({BY_TABLE}) (
      pg_table_dead_tuples{{<database>}} / pg_table_vacuum_threshold_tuples{{<database>}}
        and pg_table_autovacuum_disabled{{<database>}} == 1
    )
    """
    return Row(
        "Which tables are forgotten?",
        (
            table(
                "stale-statistics",
                "Stale statistics",
                f"Tables of which more than {FLOOR} rows changed since the planner last looked; above 1 autovacuum should have looked.",
                Column("Times its threshold", stale, "short", rising(1, of("PostgreSQLStaleStatistics", "times"))),
                _of_table("Changed rows", "pg_table_modified_since_analyze_tuples{<database>}"),
                _of_table("Rows, as the planner believes", "pg_table_estimated_rows{<database>}"),
                _of_table("Last autoanalyze", _ago("pg_table_last_autoanalyze"), "s"),
                _of_table("Last analyze by hand", _ago("pg_table_last_analyze"), "s"),
                labels=TABLE,
                empty="none",
                ranked=True,
                label_links={"relname": HERE},
                alerts=("PostgreSQLStaleStatistics",),
            ),
            table(
                "partitioned-missed",
                "Partitioned tables that nobody analyzed",
                "Share of the rows that the table's own statistics do not know: autovacuum analyzes partitions only. Run ANALYZE on it.",
                Column(
                    "Missed",
                    f"""
                    max by ({BY_TABLE}) (
                      pg_partitioned_table_missed_rows{{<database>}} / (pg_partitioned_table_estimated_rows{{<database>}} > 0)
                    )
                    """,
                    "percentunit",
                    rising(of("PostgreSQLPartitionedTableNotAnalyzed", "ratio")),
                ),
                _of_table("Missed rows", "pg_partitioned_table_missed_rows{<database>}"),
                _of_table("Rows", "pg_partitioned_table_estimated_rows{<database>}"),
                labels=TABLE,
                empty="no partitioned table, or PostgreSQL 13",
                ranked=True,
                alerts=("PostgreSQLPartitionedTableNotAnalyzed",),
                width=12,
            ),
            table(
                "inserted",
                "Rows inserted since the last vacuum",
                "Tables that only grow have no dead rows, and are vacuumed for what was inserted. Not vacuumed, all is frozen at once one day.",
                Column("Times its threshold", grown, "short", rising(1, of("PostgreSQLTableNotVacuumed", "times"))),
                _of_table("Inserted rows", "pg_table_inserted_since_vacuum_tuples{<database>}"),
                _of_table("Last autovacuum", _ago("pg_table_last_autovacuum"), "s"),
                labels=TABLE,
                empty="none, or PostgreSQL 12 and older",
                ranked=True,
                label_links={"relname": HERE},
                alerts=("PostgreSQLTableNotVacuumed",),
                width=12,
            ),
            table(
                "switched-off",
                "Tables without autovacuum",
                "Somebody set autovacuum_enabled to off for them. They are still frozen by force, and nothing else.",
                Column("Times its threshold", off, "short", rising(1, of("PostgreSQLDeadTuples", "times"))),
                _of_table("Dead rows", "pg_table_dead_tuples{<database>}"),
                _of_table("Changed since analyze", "pg_table_modified_since_analyze_tuples{<database>}"),
                labels=TABLE,
                empty="none",
                ranked=True,
                label_links={"relname": HERE},
                alerts=("PostgreSQLTableAutovacuumOff",),
                width=12,
            ),
        ),
        collapsed=True,
    )


def _freezing() -> Row:
    xid = f"max by ({BY_TABLE}) (pg_table_xid_age{{<database>}} / pg_table_freeze_max_age{{<database>}})"
    mxid = f"max by ({BY_TABLE}) (pg_table_mxid_age{{<database>}} / pg_table_multixact_freeze_max_age{{<database>}})"
    overdue = rising(1, of("PostgreSQLXidFreezeOverdue", "factor"))
    return Row(
        "Which tables are to be frozen next?",
        (
            table(
                "freeze-tables",
                "Oldest transaction ids",
                "Share of the table's own age of forced freezing; above 100 % a forced vacuum runs or is due.",
                Column("Of forced freezing", xid, "percentunit", overdue),
                _of_table("Age", "pg_table_xid_age{<database>}"),
                _of_table("Size", "pg_table_total_size_bytes{<database>}", "bytes"),
                labels=TABLE,
                empty="does not answer",
                ranked=True,
                label_links={"relname": HERE},
                runbooks=("PostgreSQLXidFreezeOverdue",),
                width=12,
            ),
            table(
                "freeze-tables-multixact",
                "Oldest multixact ids",
                "Share of the table's own multixact age of forced freezing; above 100 % a forced vacuum runs or is due.",
                Column("Of forced freezing", mxid, "percentunit", overdue),
                _of_table("Age", "pg_table_mxid_age{<database>}"),
                _of_table("Size", "pg_table_total_size_bytes{<database>}", "bytes"),
                labels=TABLE,
                empty="does not answer",
                ranked=True,
                label_links={"relname": HERE},
                runbooks=("PostgreSQLMultixactFreezeOverdue",),
                width=12,
            ),
        ),
        collapsed=True,
    )


def _worth(measure: str, floor: str) -> str:
    """A measure of the tables that are worth a line."""
    return f"max by ({BY_TABLE}) ({measure} and {floor})"


def _of_table(title: str, expr: str, unit: str = "short") -> Column:
    return Column(title, f"max by ({BY_TABLE}) ({expr})", unit)


def _ago(metric: str) -> str:
    return f"time() - {metric}_timestamp_seconds{{<database>}}"
