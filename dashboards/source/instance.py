"""One server: whether it is up, what it does and how well, what its sessions do, and what runs out."""

from dashboards.source import activity, endings, variables
from dashboards.source.alert_thresholds import (
    CRITICAL,
    DAY,
    GOOD,
    HOUR,
    INFO,
    MINUTE,
    NEUTRAL,
    WARNING,
    falling,
    of,
    rising,
)
from dashboards.source.expressions import HOSTS
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Query, bar_gauge, stat, state_timeline, table, timeseries

USED = "pg_connections_used{<server>} / (pg_connections_used{<server>} + pg_connections_available{<server>})"
COMMITS = "rate(pg_database_commits_total{<database>}[$__rate_interval])"
ROLLBACKS = "rate(pg_database_rollbacks_total{<database>}[$__rate_interval])"
MEAN = """
    sum by (instance) (rate(pg_statements_all_exec_seconds_total{<server>}[$__rate_interval]OFFSET))
      / sum by (instance) (rate(pg_statements_all_calls_total{<server>}[$__rate_interval]OFFSET))
"""
NO_RISE = "not filling up"


def dashboard() -> Dashboard:
    """Give the dashboard of a server."""
    return Dashboard(
        uid="pg-instance",
        title="PostgreSQL / Instance",
        description="Whether a server is up, what it does and how well, what its sessions do, and what runs out when.",
        variables=variables.server(variables.datname(), variables.topk()),
        rows=(_state(), _work(), _sessions(), _ends(), _resources(), _limits(), _settings()),
    )


def _state() -> Row:
    return Row(
        "Is it broken, how bad, and since when?",
        (
            stat(
                "up",
                "Answers",
                "Whether every chosen server answered the exporter's last query.",
                'min(pg_up{<server>, target=""})',
                unit="none",
                empty="no exporter scraped",
                mappings=((1, "yes", GOOD), (0, "NO", CRITICAL)),
                width=4,
            ),
            stat(
                "reason",
                "Why it does not answer",
                "What keeps the exporter from asking: refused, unreachable, authentication, too many connections, hung, ...",
                Query('max by (reason) (pg_up_reason{<server>, target=""} == 1)', "{{reason}}"),
                unit="none",
                empty="it answers",
                text="name",
                steps=((None, CRITICAL),),
                width=4,
            ),
            stat(
                "firing",
                "Alerts that fire",
                "Critical and warning alerts on the chosen servers that fire now.",
                Query('count(ALERTS{<server>, alertstate="firing", severity="critical"})', "critical"),
                Query('count(ALERTS{<server>, alertstate="firing", severity="warning"})', "warning"),
                unit="short",
                empty="none",
                steps=((None, WARNING),),
                links=(to("pg-alerts", "Firing alerts"),),
                width=3,
            ),
            stat(
                "uptime",
                "Up since",
                "How long ago the server was started, of several the one started last.",
                "min(time() - pg_postmaster_start_time_seconds{<server>})",
                unit="s",
                empty="does not answer",
                steps=((None, WARNING), (15 * MINUTE, GOOD)),
                alerts=("PostgreSQLRestarted",),
                width=3,
            ),
            stat(
                "connections-share",
                "Connections used",
                "Share of the connection slots of ordinary roles that are taken, of the fullest server. At 100 % logins fail.",
                f"max({USED})",
                unit="percentunit",
                empty="does not answer",
                steps=rising(
                    of("PostgreSQLConnectionsNearlyUsed", "ratio"), of("PostgreSQLConnectionsAtLimit", "ratio")
                ),
                runbooks=("PostgreSQLConnectionsAtLimit",),
                sparkline=True,
                width=3,
            ),
            stat(
                "lock-wait",
                "Longest lock wait",
                "How long the session that has waited longest for a lock has waited so far.",
                "max(pg_lock_longest_wait_seconds{<server>})",
                unit="s",
                empty="does not answer",
                steps=rising(critical=of("PostgreSQLLockWait", "wait_seconds")),
                links=(to("pg-locks", "Who blocks whom"),),
                runbooks=("PostgreSQLLockWait",),
                sparkline=True,
                width=3,
            ),
            stat(
                "oldest-transaction",
                "Oldest transaction",
                "Age of the oldest open transaction. While it is open, vacuum cannot remove what died since.",
                'max(pg_session_oldest_seconds{<server>, kind="transaction"})',
                unit="s",
                empty="none open",
                steps=rising(of("PostgreSQLLongTransaction", "seconds")),
                links=(to("pg-locks", "Sessions and their locks"),),
                runbooks=("PostgreSQLLongTransaction",),
                width=4,
            ),
            activity.by_wait(),
            activity.by_statement(),
            activity.by_application(alerts=("PostgreSQLApplicationCrowdsOut",)),
            state_timeline(
                "up-timeline",
                "Up and down",
                "When each server answered, and let in new sessions. A gap means that Prometheus could not scrape its exporter.",
                Query('min by (instance) (pg_up{<server>, target=""})', "{{instance}}"),
                Query("min by (instance) (pg_login_success{<server>})", "{{instance}} logins"),
                empty="no exporter scraped",
                mappings=((1, "up", GOOD), (0, "down", CRITICAL)),
                alerts=(
                    "PostgreSQLDown",
                    "PostgreSQLCrashLoop",
                    "PostgreSQLLoginsFail",
                    "PostgreSQLExporterLoginFails",
                ),
                width=12,
                height=5,
            ),
            timeseries(
                "waiting-sessions",
                "Sessions that wait for a lock",
                "Sessions that wait for a heavyweight lock. Steadily above 0, a queue stands behind somebody.",
                Query("sum by (instance) (pg_lock_waiters{<server>})", "{{instance}}"),
                unit="short",
                empty="does not answer",
                links=(of_series("pg-locks", "Who blocks whom", instance="instance"),),
                width=12,
                height=5,
            ),
        ),
    )


def _work() -> Row:
    return Row(
        "How much does it do, and how well?",
        (
            timeseries(
                "transactions",
                "Transactions",
                "Transactions per second, committed and rolled back, of the chosen databases; dashed, a week ago.",
                Query(f"sum by (instance) ({COMMITS} + {ROLLBACKS})", "{{instance}}"),
                Query(
                    "sum by (instance) (rate(pg_database_commits_total{<database>}[$__rate_interval] offset 1w))",
                    "{{instance}} last week",
                    "past",
                ),
                unit="ops",
                empty="does not answer",
                width=8,
            ),
            timeseries(
                "rollbacks-share",
                "Transactions rolled back",
                "Share of each database's transactions that fail. A rise means that clients get errors.",
                Query(
                    f"sum by (instance, datname) ({ROLLBACKS}) / (sum by (instance, datname) ({COMMITS} + {ROLLBACKS}) > 0)",
                    "{{datname}} on {{instance}}",
                ),
                unit="percentunit",
                empty="no transactions",
                most=1,
                steps=rising(of("PostgreSQLRollbacksHigh", "ratio")),
                alerts=("PostgreSQLRollbacksHigh",),
                width=8,
            ),
            timeseries(
                "statement-time",
                "Mean time of a statement",
                "Time in execution over calls, of all statements; dashed, a week ago. Needs pg_stat_statements.",
                Query(MEAN.replace("OFFSET", ""), "{{instance}}"),
                Query(MEAN.replace("OFFSET", " offset 1w"), "{{instance}} last week", "past"),
                unit="s",
                empty="pg_stat_statements is not there",
                links=(of_series("pg-queries", "Statements", instance="instance"),),
                width=8,
            ),
            timeseries(
                "errors",
                "Errors",
                "Deadlocks, queries cancelled for replay, and sessions that ended by an error or were lost or killed, per second.",
                Query("sum(rate(pg_database_deadlocks_total{<database>}[$__rate_interval]))", "deadlocks"),
                Query("sum(rate(pg_database_conflicts_total{<database>}[$__rate_interval]))", "cancelled for replay"),
                Query("sum(rate(pg_database_sessions_fatal_total{<database>}[$__rate_interval]))", "ended by an error"),
                Query("sum(rate(pg_database_sessions_abandoned_total{<database>}[$__rate_interval]))", "lost"),
                Query("sum(rate(pg_database_sessions_killed_total{<database>}[$__rate_interval]))", "killed"),
                unit="ops",
                empty="does not answer",
                runbooks=("PostgreSQLDeadlocks",),
                width=8,
            ),
            timeseries(
                "rows",
                "Rows read and written",
                "Rows per second: read by scans, fetched by way of an index, inserted, updated, deleted.",
                Query("sum(rate(pg_database_tuples_returned_total{<database>}[$__rate_interval]))", "read"),
                Query("sum(rate(pg_database_tuples_fetched_total{<database>}[$__rate_interval]))", "fetched by index"),
                Query("sum(rate(pg_database_tuples_inserted_total{<database>}[$__rate_interval]))", "inserted"),
                Query("sum(rate(pg_database_tuples_updated_total{<database>}[$__rate_interval]))", "updated"),
                Query("sum(rate(pg_database_tuples_deleted_total{<database>}[$__rate_interval]))", "deleted"),
                unit="ops",
                empty="does not answer",
                width=8,
            ),
            timeseries(
                "new-sessions",
                "New sessions",
                "Sessions begun per second (from PostgreSQL 14 on). Many mean that clients connect for each request.",
                Query(
                    "sum by (instance, datname) (rate(pg_database_sessions_total{<database>}[$__rate_interval]))",
                    "{{datname}} on {{instance}}",
                ),
                unit="ops",
                empty="PostgreSQL 13 does not count them",
                width=8,
            ),
        ),
    )


def _sessions() -> Row:
    return Row(
        "What do its sessions do?",
        (
            timeseries(
                "connections",
                "Connections, and where they lead",
                "Connections used, the slots of ordinary roles in red, and, dashed, where the last half hour leads in an hour.",
                Query("sum by (instance) (pg_connections_used{<server>})", "{{instance}}"),
                Query(
                    "sum by (instance) (predict_linear(pg_connections_used{<server>}[30m], 3600))",
                    "{{instance}} in an hour",
                    "past",
                ),
                Query(
                    "sum by (instance) (pg_connections_used{<server>} + pg_connections_available{<server>})",
                    "{{instance}} slots",
                    "limit",
                ),
                unit="short",
                empty="does not answer",
                alerts=(
                    "PostgreSQLConnectionsAtLimit",
                    "PostgreSQLConnectionsNearlyUsed",
                    "PostgreSQLConnectionsRunningOut",
                ),
            ),
            timeseries(
                "states",
                "Sessions by state",
                "Client sessions by state. Idle in transaction means locks held while the client does something else.",
                Query("sum by (state) (pg_sessions{<database>})", "{{state}}"),
                unit="short",
                empty="nobody is connected",
                stack="normal",
            ),
            table(
                "holders",
                "Who holds the connections",
                "Client sessions by user, application, database and state, the most first, and their oldest transaction.",
                Column(
                    "Sessions",
                    "sum by (instance, datname, usename, application_name, state) (pg_sessions{<database>})",
                ),
                Column(
                    "Oldest transaction",
                    """
                    max by (instance, datname, usename, application_name, state) (
                      pg_sessions_oldest_transaction_seconds{<database>}
                    )
                    """,
                    "s",
                    rising(of("PostgreSQLIdleInTransaction", "seconds"), of("PostgreSQLLongTransaction", "seconds")),
                ),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "usename": "User",
                    "application_name": "Application",
                    "state": "State",
                },
                empty="nobody is connected",
                ranked=True,
            ),
        ),
    )


def _ends() -> Row:
    return Row(
        "What runs out, and when?",
        (
            stat(
                "eta-connections",
                "Connection slots",
                "Time until all connection slots are taken at the pace of the last half hour.",
                f"min({endings.CONNECTIONS})",
                unit="s",
                empty=NO_RISE,
                steps=falling(of("PostgreSQLConnectionsRunningOut", "horizon_seconds"), MINUTE),
                runbooks=("PostgreSQLConnectionsRunningOut",),
            ),
            stat(
                "eta-xid",
                "Transaction ids",
                "Time until writes stop for want of transaction ids, if vacuum froze nothing, at the pace of six hours.",
                f"min({endings.XIDS})",
                unit="s",
                empty="none used",
                steps=falling(
                    of("PostgreSQLXidWraparoundWithinMonth", "days") * DAY,
                    of("PostgreSQLXidWraparoundWithinWeek", "days") * DAY,
                ),
                links=(to("pg-vacuum", "Vacuum and freezing"),),
                runbooks=("PostgreSQLXidWraparoundWithinWeek",),
            ),
            stat(
                "eta-multixact",
                "Multixact ids",
                "Time until row locks fail for want of multixact ids, if vacuum froze nothing, at the pace of six hours.",
                f"min({endings.MULTIXACTS})",
                unit="s",
                empty="none used",
                steps=falling(
                    of("PostgreSQLMultixactWraparoundWithinMonth", "days") * DAY,
                    of("PostgreSQLMultixactWraparoundWithinWeek", "days") * DAY,
                ),
                links=(to("pg-vacuum", "Vacuum and freezing"),),
                runbooks=("PostgreSQLMultixactWraparoundWithinWeek",),
            ),
            stat(
                "eta-slot",
                "WAL for a slot",
                "Time until a slot whose consumer does not keep up needs more than max_slot_wal_keep_size, at the pace of half an hour.",
                f"min({endings.SLOT})",
                unit="s",
                empty="none in sight",
                steps=falling(DAY, of("PostgreSQLReplicationSlotSoonLost", "hours") * HOUR),
                links=(to("pg-replication", "Replication slots"),),
                runbooks=("PostgreSQLReplicationSlotSoonLost",),
            ),
            stat(
                "eta-sequence",
                "Numbers of a sequence",
                "Time until a sequence, or the column it fills, has no number left, at the pace of six hours.",
                f"min({endings.sequence('database')})",
                unit="s",
                empty="none in use",
                steps=falling(
                    of("PostgreSQLSequenceEndsWithinWeeks", "days") * DAY,
                    of("PostgreSQLSequenceEndsWithinDays", "days") * DAY,
                ),
                links=(to("pg-storage", "Sequences"),),
                runbooks=("PostgreSQLSequenceEndsWithinDays",),
            ),
            stat(
                "eta-disk",
                "Disk",
                "Time until a file system that node_exporter sees beside the server is full, at the pace of three hours.",
                f"""
                min(
                  instance_host_mountpoint:node_filesystem_avail_bytes:max
                    / (-deriv(instance_host_mountpoint:node_filesystem_avail_bytes:max[3h]) > 0)
                  and on (host) {HOSTS}
                )
                """,
                unit="s",
                empty="not filling up, or no node_exporter",
                steps=falling(
                    of("PostgreSQLDiskFullWithinDays", "days") * DAY, of("PostgreSQLDiskFullSoon", "hours") * HOUR
                ),
                links=(to("pg-storage", "Storage"),),
                runbooks=("PostgreSQLDiskFullSoon",),
            ),
        ),
    )


def _resources() -> Row:
    return Row(
        "Where do memory, disk and WAL go?",
        (
            timeseries(
                "cache-hits",
                "Blocks found in shared buffers",
                "Share of the blocks asked for that were in shared buffers. A fall means that a plan turned into a scan, "
                "or that what is worked on no longer fits; how much is read matters more than the share.",
                Query(
                    """
                    sum by (instance, datname) (rate(pg_database_blocks_hit_total{<database>}[$__rate_interval]))
                      / (
                        sum by (instance, datname) (rate(pg_database_blocks_hit_total{<database>}[$__rate_interval]))
                        + sum by (instance, datname) (rate(pg_database_blocks_read_total{<database>}[$__rate_interval]))
                        > 0
                      )
                    """,
                    "{{datname}} on {{instance}}",
                ),
                unit="percentunit",
                empty="nothing is read",
                least=None,
                most=1,
                width=8,
            ),
            timeseries(
                "blocks-read",
                "Read from disk or the system's cache",
                "Bytes per second that were not in shared buffers; dashed, a week ago.",
                Query(
                    "<block> * sum by (instance) (rate(pg_database_blocks_read_total{<database>}[$__rate_interval]))",
                    "{{instance}}",
                ),
                Query(
                    "<block> * sum by (instance) (rate(pg_database_blocks_read_total{<database>}[$__rate_interval] offset 1w))",
                    "{{instance}} last week",
                    "past",
                ),
                unit="Bps",
                empty="does not answer",
                width=8,
            ),
            timeseries(
                "io",
                "Reads and writes by who does them",
                "Bytes per second by kind of process (from PostgreSQL 16 on).",
                Query(
                    "sum by (backend_type) (rate(pg_io_read_bytes_total{<server>}[$__rate_interval])) > 0",
                    "{{backend_type}} reads",
                ),
                Query(
                    "sum by (backend_type) (rate(pg_io_write_bytes_total{<server>}[$__rate_interval])) > 0",
                    "{{backend_type}} writes",
                ),
                unit="Bps",
                empty="PostgreSQL 15 and older do not count them",
                links=(to("pg-wal-io", "WAL and I/O"),),
                width=8,
            ),
            timeseries(
                "temp",
                "Temporary files",
                "Bytes per second written because sorts and hashes did not fit into work_mem.",
                Query(
                    "sum by (instance, datname) (rate(pg_database_temp_bytes_total{<database>}[$__rate_interval]))",
                    "{{datname}} on {{instance}}",
                ),
                unit="Bps",
                empty="does not answer",
                steps=rising(of("PostgreSQLTempFilesHigh", "bytes_per_second")),
                runbooks=("PostgreSQLTempFilesHigh",),
                width=8,
            ),
            timeseries(
                "wal",
                "WAL written or replayed",
                "Bytes of WAL per second; dashed, a week ago.",
                Query("sum by (instance) (deriv(pg_wal_position_bytes{<server>}[$__rate_interval]))", "{{instance}}"),
                Query(
                    "sum by (instance) (deriv(pg_wal_position_bytes{<server>}[$__rate_interval] offset 1w))",
                    "{{instance}} last week",
                    "past",
                ),
                unit="Bps",
                empty="does not answer",
                links=(of_series("pg-wal-io", "WAL and I/O", instance="instance"),),
                width=8,
            ),
            timeseries(
                "checkpoints",
                "Checkpoints",
                "Checkpoints in the last hour: by time, as they should be, and because of much WAL or by command.",
                Query(
                    "sum by (instance) (increase(pg_checkpointer_timed_total{<server>}[1h]))", "{{instance}} by time"
                ),
                Query(
                    "sum by (instance) (increase(pg_checkpointer_requested_total{<server>}[1h]))",
                    "{{instance}} requested",
                ),
                unit="short",
                empty="does not answer",
                runbooks=("PostgreSQLCheckpointsTooFrequent",),
                width=8,
            ),
        ),
        collapsed=True,
    )


def _limits() -> Row:
    return Row(
        "Whose own limits are near?",
        (
            bar_gauge(
                "role-connections",
                "Connections of roles with a limit",
                "Share of the role's own CONNECTION LIMIT that is used. At 100 % its logins fail.",
                Query(
                    """
                    topk($topk,
                      pg_roles_connections{<server>}
                        / on (job, instance, rolname) (pg_roles_connection_limit{<server>} > 0)
                    )
                    """,
                    "{{rolname}} on {{instance}}",
                ),
                unit="percentunit",
                empty="no role has a limit",
                most=1,
                steps=rising(of("PostgreSQLRoleConnectionsNearlyUsed", "ratio")),
                alerts=("PostgreSQLRoleConnectionsNearlyUsed",),
            ),
            bar_gauge(
                "database-connections",
                "Connections of databases with a limit",
                "Share of the database's own CONNECTION LIMIT that is used. At 100 % logins to it fail.",
                Query(
                    """
                    topk($topk,
                      pg_database_connections{<database>}
                        / on (job, instance, datname) (pg_database_connection_limit{<database>} > 0)
                    )
                    """,
                    "{{datname}} on {{instance}}",
                ),
                unit="percentunit",
                empty="no database has a limit",
                most=1,
                steps=rising(of("PostgreSQLDatabaseConnectionsNearlyUsed", "ratio")),
                alerts=("PostgreSQLDatabaseConnectionsNearlyUsed",),
            ),
            table(
                "passwords",
                "Passwords that expire",
                "Roles whose password expires (VALID UNTIL), the next one first; below 0 it has expired.",
                Column(
                    "Expires in",
                    "bottomk($topk, max by (instance, rolname) (pg_roles_valid_until_timestamp_seconds{<server>}) - time())",
                    "s",
                    falling(of("PostgreSQLPasswordExpires", "days") * DAY, 0),
                ),
                labels={"instance": "Instance", "rolname": "Role"},
                empty="no password expires",
                rising=True,
                alerts=("PostgreSQLPasswordExpires",),
                width=8,
            ),
            table(
                "certificates",
                "Certificates that expire",
                "Servers by the end of the certificate that they show to new connections; below 0 it has expired. Those whose"
                " certificate the exporter checks (sslmode verify-ca or verify-full).",
                Column(
                    "Expires in",
                    "bottomk($topk, max by (instance) (pg_server_certificate_not_after_timestamp_seconds{<server>}) - time())",
                    "s",
                    falling(of("PostgreSQLServerCertificateExpires", "days") * DAY, 0),
                ),
                labels={"instance": "Instance"},
                empty="no certificate is checked",
                rising=True,
                alerts=("PostgreSQLServerCertificateExpires",),
                width=8,
            ),
        ),
        collapsed=True,
    )


def _settings() -> Row:
    on_off = ((1, "on", GOOD), (0, "OFF", CRITICAL))
    return Row(
        "How is it set up?",
        (
            stat(
                "fsync",
                "fsync",
                "Whether writes are forced to disk. When off, a crash of the machine destroys the data.",
                "min(pg_settings_fsync{<server>})",
                unit="none",
                empty="does not answer",
                mappings=on_off,
                alerts=("PostgreSQLFsyncOff",),
                width=3,
            ),
            stat(
                "full-page-writes",
                "full_page_writes",
                "Whether pages are written to WAL whole after a checkpoint. When off, a crash of the machine may destroy them.",
                "min(pg_settings_full_page_writes{<server>})",
                unit="none",
                empty="does not answer",
                mappings=on_off,
                alerts=("PostgreSQLFullPageWritesOff",),
                width=3,
            ),
            stat(
                "checksums",
                "Data checksums",
                "Whether damage on disk is noticed.",
                "min(pg_settings_data_checksums{<server>})",
                unit="none",
                empty="does not answer",
                mappings=((1, "on", GOOD), (0, "off", WARNING)),
                width=3,
            ),
            stat(
                "role",
                "Role",
                "Whether the chosen servers are primaries or standbys.",
                Query("count(pg_replication_is_replica{<server>} == 0)", "primary"),
                Query("count(pg_replication_is_replica{<server>} == 1)", "standby"),
                unit="short",
                empty="does not answer",
                text="value_and_name",
                links=(to("pg-replication", "Replication"),),
                width=3,
            ),
            stat(
                "settings-changes",
                "Changes of settings",
                "How often settings changed in the time shown, those of databases and roles included.",
                "sum(changes(pg_settings_checksum{<server>}[$__range]))",
                unit="short",
                empty="does not answer",
                steps=((None, "text"), (1, INFO)),
                alerts=("PostgreSQLSettingsChanged",),
                width=3,
            ),
            table(
                "pending-restart",
                "Settings that wait for a restart",
                "Changed in the configuration files, and in effect only after the next restart.",
                Column("Pending", "max by (instance, name) (pg_setting_pending_restart{<server>})", "none"),
                labels={"instance": "Instance", "name": "Setting"},
                empty="none",
                alerts=("PostgreSQLRestartPending",),
                width=9,
                height=6,
            ),
            table(
                "versions",
                "Versions",
                "Version, name of the cluster, and the identifier that a primary shares with its standbys.",
                Column(
                    "Timeline",
                    """
                    max by (instance, short_version, cluster_name, system_identifier) (
                      pg_server_info{<server>} * on (job, instance) group_left () pg_server_timeline{<server>}
                    )
                    """,
                    "none",
                ),
                Column(
                    "Started",
                    """
                    max by (instance, short_version, cluster_name, system_identifier) (
                      1000 * pg_server_info{<server>} * on (job, instance) group_left () pg_postmaster_start_time_seconds{<server>}
                    )
                    """,
                    "dateTimeFromNow",
                ),
                labels={
                    "instance": "Instance",
                    "short_version": "Version",
                    "cluster_name": "Cluster",
                    "system_identifier": "System identifier",
                },
                empty="does not answer",
                width=12,
                height=6,
            ),
            table(
                "memory-settings",
                "Settings of memory",
                "What each server may take for its caches, and each sort, hash or vacuum for itself.",
                *(
                    Column(title, f"max by (instance) (pg_settings_{name}_bytes{{<server>}})", "bytes", NEUTRAL)
                    for title, name in (
                        ("shared_buffers", "shared_buffers"),
                        ("effective_cache_size", "effective_cache_size"),
                        ("work_mem", "work_mem"),
                        ("maintenance_work_mem", "maintenance_work_mem"),
                        ("max_wal_size", "max_wal_size"),
                    )
                ),
                labels={"instance": "Instance"},
                empty="does not answer",
                width=12,
                height=6,
            ),
        ),
        collapsed=True,
    )
