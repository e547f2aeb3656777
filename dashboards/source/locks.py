"""Locks: who blocks whom, what they queue for, whose transactions stay open, and what waiting costs."""

from dashboards.source import variables
from dashboards.source.alert_thresholds import CRITICAL, GOOD, MINUTE, WARNING, of, rising
from dashboards.source.expressions import leading
from dashboards.source.layout import Dashboard, Row
from dashboards.source.links import of_series, to
from dashboards.source.panels import Column, Query, stat, state_timeline, table, timeseries
from dashboards.source.statements import LABELS, with_text

NOBODY = "nobody waits"
BUILDS = 'command=~"CREATE INDEX.*|REINDEX.*"'

ROOT = "instance, datname, pid, gid, usename, application_name, state, locktype, relation, held_mode, mode"
ROOT_LABELS = {
    "instance": "Instance",
    "datname": "Database",
    "pid": "Pid",
    "gid": "Prepared transaction",
    "usename": "User",
    "application_name": "Application",
    "state": "State",
    "locktype": "Lock on",
    "relation": "Relation",
    "held_mode": "Holds",
    "mode": "First in the queue wants",
}
PAST = "instance, datname, pid, gid, usename, application_name, relation"
PAST_LABELS = {label: title for label, title in ROOT_LABELS.items() if label in PAST.split(", ")}

SESSIONS = rising(of("PostgreSQLLockQueue", "sessions"), of("PostgreSQLLockQueue", "sessions") + 1)
WAITED = rising(critical=of("PostgreSQLLockWait", "wait_seconds"))
IDLE = rising(of("PostgreSQLIdleInTransaction", "seconds"))
OPEN = rising(of("PostgreSQLLongTransaction", "seconds"))


def dashboard() -> Dashboard:
    """Give the dashboard of locks."""
    return Dashboard(
        uid="pg-locks",
        title="PostgreSQL / Locks",
        description="Who blocks whom, what they queue for, whose transactions stay open, and what waiting costs.",
        variables=variables.server(variables.datname(), variables.topk()),
        rows=(_blocked(), _queues(), _transactions(), _builds(), _cost(), _lock_table()),
        since="now-1h",
        refresh="30s",
    )


def _of_root(metric: str) -> str:
    """Give a metric of the roots with the statement of each as one more label, where it is known."""
    found = f"max by ({ROOT}) ({metric}{{<database>}})"
    statements = f"max by ({ROOT}, query) (pg_lock_blocker_statement_info{{<database>}})"
    return f"({found}) * on ({ROOT}) group_left (query) {statements} or on ({ROOT}) ({found})"


def _blocked() -> Row:
    return Row(
        "Who blocks whom, how badly, and since when?",
        (
            stat(
                "waiters",
                "Sessions that wait",
                "Sessions that wait for a lock now, on all chosen servers.",
                "sum(pg_lock_waiters{<server>})",
                unit="short",
                empty="does not answer",
                steps=rising(1, of("PostgreSQLLockQueue", "sessions") + 1),
                sparkline=True,
            ),
            stat(
                "longest-wait",
                "Longest wait now",
                "How long the session that has waited longest for a lock has waited so far.",
                "max(pg_lock_longest_wait_seconds{<server>})",
                unit="s",
                empty="does not answer",
                steps=WAITED,
                sparkline=True,
                runbooks=("PostgreSQLLockWait",),
            ),
            stat(
                "longest-wait-shown",
                "Longest wait in the time shown",
                "The longest wait for a lock that anybody saw, those included that came and went between two scrapes.",
                """
                max(
                  max_over_time(pg_lock_longest_wait_seconds{<server>}[$__range])
                  or
                  max_over_time(pg_lock_wait_longest_recent_seconds{<server>}[$__range])
                )
                """,
                unit="s",
                empty="does not answer",
                steps=rising(of("PostgreSQLLockWaitBetweenScrapes", "wait_seconds")),
                runbooks=("PostgreSQLLockWaitBetweenScrapes",),
            ),
            stat(
                "behind-exclusive",
                "Behind ACCESS EXCLUSIVE",
                "Sessions whose queue begins with an ACCESS EXCLUSIVE lock, held or wanted: even readers of the table wait.",
                """
                sum(
                  pg_lock_blocker_blocked_sessions{<database>, mode="AccessExclusiveLock"}
                  or
                  pg_lock_blocker_blocked_sessions{<database>, held_mode="AccessExclusiveLock"}
                )
                """,
                unit="short",
                empty="none",
                steps=rising(1, of("PostgreSQLLockQueueBehindAccessExclusive", "sessions") + 1),
                runbooks=("PostgreSQLLockQueueBehindAccessExclusive",),
            ),
            stat(
                "idle-longest",
                "Longest idle in transaction",
                "How long the session that has idled longest in an open transaction has done so. It keeps its locks.",
                'max(pg_session_oldest_seconds{<database>, kind="idle in transaction"})',
                unit="s",
                empty="none",
                steps=IDLE,
                runbooks=("PostgreSQLIdleInTransaction",),
            ),
            stat(
                "deadlocks-shown",
                "Deadlocks in the time shown",
                "Each one cancelled a transaction; the server log names both statements.",
                "sum(increase(pg_database_deadlocks_total{<database>}[$__range]))",
                unit="short",
                empty="does not answer",
                decimals=0,
                steps=rising(1),
                runbooks=("PostgreSQLDeadlocks",),
            ),
            table(
                "roots",
                "Who blocks whom now",
                "Each session, or prepared transaction, that others wait for and that itself waits for no lock. Ending its "
                "transaction frees all that wait behind it, directly or through others. Who blocked before is below.",
                Column(
                    "Waiting",
                    _of_root("pg_lock_blocker_blocked_sessions"),
                    steps=SESSIONS,
                ),
                Column(
                    "Longest wait",
                    _of_root("pg_lock_blocker_longest_wait_seconds"),
                    "s",
                    WAITED,
                ),
                Column(
                    "In transaction",
                    _of_root("pg_lock_blocker_transaction_seconds"),
                    "s",
                ),
                labels=ROOT_LABELS | {"query": "Statement, the latest of an idle session"},
                empty=f"{NOBODY} now",
                ranked=True,
                alerts=(
                    "PostgreSQLLockQueueBehindAccessExclusive",
                    "PostgreSQLLockQueue",
                    "PostgreSQLBlockedByIdleTransaction",
                    "PostgreSQLBlockedByPreparedTransaction",
                    "PostgreSQLLockWait",
                ),
                height=7,
            ),
            timeseries(
                "waiting",
                "Sessions that wait, by table",
                "Sessions that wait for a table, or in line for a row of it. The others wait for the transaction that changed "
                "their row, or for old transactions to end, as index builds do.",
                Query(
                    "sum by (instance, datname, relation) (pg_lock_queue_waiters{<database>})",
                    "{{relation}} in {{datname}} on {{instance}}",
                ),
                Query(
                    """
                    (
                      sum by (instance) (pg_lock_waiters{<server>})
                      - (
                        sum by (instance) (pg_lock_queue_waiters{<server>})
                        or
                        0 * sum by (instance) (pg_lock_waiters{<server>})
                      )
                    ) > 0
                    """,
                    "others on {{instance}}",
                ),
                unit="short",
                empty="nobody waited",
                stack="normal",
                height=7,
            ),
            timeseries(
                "wait-seconds",
                "Longest wait",
                "How long the longest wait on each server has lasted so far, and the longest that was seen within a minute, "
                "which may have come and gone between two scrapes.",
                Query("max by (instance) (pg_lock_longest_wait_seconds{<server>})", "{{instance}}"),
                Query(
                    "max by (instance) (pg_lock_wait_longest_recent_seconds{<server>})",
                    "{{instance}} within a minute",
                    "past",
                ),
                unit="s",
                empty="does not answer",
                steps=WAITED,
                alerts=("PostgreSQLLockWaitBetweenScrapes",),
                height=7,
            ),
        ),
    )


def _queues() -> Row:
    return Row(
        "What do they queue for, and who blocked before?",
        (
            table(
                "queues",
                "Queues by table and mode",
                "Sessions that wait for each table and the mode they want. An AccessExclusiveLock among them makes all "
                "behind it wait, readers included.",
                Column("Waiting", "max by (instance, datname, relation, mode) (pg_lock_queue_waiters{<database>})"),
                Column(
                    "Longest wait",
                    "max by (instance, datname, relation, mode) (pg_lock_queue_longest_wait_seconds{<database>})",
                    "s",
                    WAITED,
                ),
                labels={"instance": "Instance", "datname": "Database", "relation": "Relation", "mode": "Wanted mode"},
                empty="nobody waits for a table now",
                ranked=True,
                width=12,
            ),
            table(
                "victims",
                "Statements that wait",
                "Statements whose sessions have waited for a lock for more than 5 seconds, mostly victims of another's "
                "transaction.",
                Column(
                    "Sessions",
                    "max by (instance, datname, usename, queryid) (pg_statement_lock_waiting_sessions{<database>}) > 0",
                ),
                Column(
                    "At it for",
                    "max by (instance, datname, usename, queryid) (pg_statement_longest_running_seconds{<database>})",
                    "s",
                ),
                labels=LABELS,
                beside=with_text,
                label_links={
                    "queryid": (
                        to(
                            "pg-query-detail",
                            "This statement",
                            instance="instance",
                            datname="datname",
                            queryid="queryid",
                        ),
                    )
                },
                empty="no statement waits now",
                ranked=True,
                width=12,
            ),
            table(
                "past-roots",
                "Who blocked others in the time shown",
                "Each session, or prepared transaction, that was at the root of a queue, the time that all sessions "
                "together waited behind it, and when it was seen so last. The exporter's /incidents tells more.",
                Column(
                    "Waited in all",
                    _past("15 * sum_over_time(pg_lock_blocker_blocked_sessions{<database>}[$__range:15s])"),
                    "s",
                ),
                Column(
                    "Longest wait",
                    _past("max_over_time(pg_lock_blocker_longest_wait_seconds{<database>}[$__range])"),
                    "s",
                    WAITED,
                ),
                Column(
                    "Waiting at most",
                    _past("max_over_time(pg_lock_blocker_blocked_sessions{<database>}[$__range])"),
                    steps=SESSIONS,
                ),
                Column(
                    "In transaction",
                    _past("max_over_time(pg_lock_blocker_transaction_seconds{<database>}[$__range])"),
                    "s",
                ),
                Column(
                    "Last seen",
                    _past(
                        "1000 * max_over_time(timestamp(pg_lock_blocker_blocked_sessions{<database>})[$__range:15s])"
                    ),
                    "dateTimeFromNow",
                ),
                labels=PAST_LABELS,
                empty="nobody waited",
                sort="Last seen",
                ranked=True,
            ),
            state_timeline(
                "exclusive",
                "ACCESS EXCLUSIVE locks on tables",
                "When somebody held an ACCESS EXCLUSIVE lock on a table of the database, or waited for one. Both bar even "
                "those who only read.",
                Query(
                    """
                    max by (instance, datname) (
                      1 * (pg_lock_sessions{<database>, locktype="relation", mode="AccessExclusiveLock", granted="true"} > bool 0)
                      or
                      2 * (pg_lock_sessions{<database>, locktype="relation", mode="AccessExclusiveLock", granted="false"} > bool 0)
                    )
                    """,
                    "{{datname}} on {{instance}}",
                ),
                empty="nobody held or wanted one",
                mappings=((0, "none", GOOD), (1, "held", WARNING), (2, "waited for", CRITICAL)),
                width=24,
                height=5,
            ),
        ),
    )


def _past(expression: str) -> str:
    return f"max by ({PAST}) ({expression})"


def _transactions() -> Row:
    holder = "instance, datname, usename, application_name, state"
    return Row(
        "Whose transactions stay open?",
        (
            table(
                "oldest",
                "The oldest of each kind, with its pid",
                "Of each server the oldest transaction, the one idle longest, and the longest running query: whom to talk to, "
                "or to end.",
                Column(
                    "Age",
                    """
                    max by (instance, kind, pid, datname, usename, application_name, state, wait_event) (
                      pg_session_oldest_seconds{<database>}
                    )
                    """,
                    "s",
                    IDLE,
                ),
                labels={
                    "instance": "Instance",
                    "kind": "Kind",
                    "pid": "Pid",
                    "datname": "Database",
                    "usename": "User",
                    "application_name": "Application",
                    "state": "State",
                    "wait_event": "Waits for",
                },
                empty="no transaction is open",
                ranked=True,
                alerts=("PostgreSQLIdleInTransaction",),
            ),
            table(
                "horizon",
                "Transactions that hold back vacuum",
                "The oldest transaction of each database: vacuum cannot remove what died since it began.",
                Column(
                    "Open for",
                    """
                    max by (instance, datname, pid, usename, application_name, state) (
                      pg_xmin_horizon_seconds{<database>, holder="backend"}
                    )
                    """,
                    "s",
                    OPEN,
                ),
                Column(
                    "Transactions since",
                    """
                    max by (instance, datname, pid, usename, application_name, state) (
                      pg_xmin_horizon_age{<database>, holder="backend"}
                    )
                    """,
                ),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "pid": "Pid",
                    "usename": "User",
                    "application_name": "Application",
                    "state": "State",
                },
                empty="no transaction is open",
                label_links={"instance": (to("pg-vacuum", "Who holds back vacuum", instance="instance"),)},
                ranked=True,
                alerts=("PostgreSQLLongTransaction",),
                width=14,
            ),
            table(
                "prepared",
                "Prepared transactions",
                "Transactions that wait for the second phase of their commit. They keep their locks, across restarts too.",
                Column(
                    "Oldest",
                    "max by (instance, datname) (pg_prepared_transactions_oldest_age_seconds{<database>})",
                    "s",
                    rising(MINUTE),
                ),
                Column("Transactions", "max by (instance, datname) (pg_prepared_transactions{<database>}) > 0"),
                labels={"instance": "Instance", "datname": "Database"},
                empty="none",
                ranked=True,
                runbooks=("PostgreSQLBlockedByPreparedTransaction",),
                width=10,
            ),
            timeseries(
                "idle",
                "Idle in transaction, by application",
                "How long the session of each user and application that has idled longest in a transaction has done so.",
                Query(
                    leading(
                        """
                        max by (instance, datname, usename, application_name) (
                          pg_sessions_longest_in_state_seconds{<database>, state=~"idle in transaction.*"}
                        )
                        """,
                        """
                        max by (instance, datname, usename, application_name) (
                          max_over_time(
                            pg_sessions_longest_in_state_seconds{<database>, state=~"idle in transaction.*"}[$__range] @ end()
                          )
                        )
                        """,
                    ),
                    "{{application_name}} of {{usename}} in {{datname}} on {{instance}}",
                ),
                unit="s",
                empty="nobody idled in a transaction",
                steps=IDLE,
                runbooks=("PostgreSQLIdleInTransaction",),
            ),
            table(
                "idlers",
                "Who idles in transactions now",
                "Sessions that idle in an open transaction, and how long the longest of each has done so.",
                Column(
                    "Idle for",
                    f'max by ({holder}) (pg_sessions_longest_in_state_seconds{{<database>, state=~"idle in transaction.*"}})',
                    "s",
                    IDLE,
                ),
                Column(
                    "In transaction",
                    f'max by ({holder}) (pg_sessions_oldest_transaction_seconds{{<database>, state=~"idle in transaction.*"}})',
                    "s",
                    OPEN,
                ),
                Column("Sessions", f'sum by ({holder}) (pg_sessions{{<database>, state=~"idle in transaction.*"}})'),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "usename": "User",
                    "application_name": "Application",
                    "state": "State",
                },
                empty="nobody idles in a transaction",
                ranked=True,
                width=12,
            ),
        ),
        collapsed=True,
    )


def _builds() -> Row:
    build = "instance, datname, relname, indexrelname, command, phase"
    phase = f"max by ({build}) (pg_progress_phase{{<database>, {BUILDS}}} == 1)"
    key = "instance, datname, relname, indexrelname, command"
    return Row(
        "Which index builds run, and what do they wait for?",
        (
            table(
                "builds",
                "Index builds",
                "Index builds that run now. One that is `waiting for ...` waits until transactions end that began before "
                "it; those are among the open transactions above.",
                Column("Running for", _of_build(phase, key, "pg_progress_seconds"), "s"),
                Column(
                    "Blocks done",
                    f"{_of_build(phase, key, 'pg_progress_done_blocks')} "
                    f"/ ({_of_build(phase, key, 'pg_progress_total_blocks')} > 0)",
                    "percentunit",
                    bar=True,
                ),
                Column(
                    "Transactions waited for",
                    f"{_of_build(phase, key, 'pg_progress_total_lockers')} - {_of_build(phase, key, 'pg_progress_done_lockers')}",
                ),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "relname": "Table",
                    "indexrelname": "Index",
                    "command": "Command",
                    "phase": "Phase",
                },
                empty="no index is being built",
                alerts=("PostgreSQLIndexBuildWaits",),
            ),
        ),
        collapsed=True,
    )


def _of_build(phase: str, key: str, metric: str) -> str:
    """A number of each build, told by the phase that it is in."""
    return f"{phase} * on ({key}) group_left () max by ({key}) ({metric}{{<database>, {BUILDS}}})"


def _cost() -> Row:
    return Row(
        "What does waiting cost, and how often do transactions deadlock?",
        (
            timeseries(
                "contention",
                "Sessions that wait for locks, on average",
                "Looked at between scrapes as well, so that many short waits are seen. Steadily above the line, sessions "
                "are in each other's way: look for a row or a table that all of them write to.",
                Query(
                    "sum by (instance, datname) (rate(pg_lock_wait_sampled_seconds_total{<database>}[$__rate_interval]))",
                    "{{datname}} on {{instance}}",
                ),
                unit="short",
                empty="nobody waited",
                steps=rising(of("PostgreSQLLockContention", "sessions")),
                alerts=("PostgreSQLLockContention",),
            ),
            timeseries(
                "contention-share",
                "Share of active time that is waiting",
                "Of the time that sessions were active, the share in which they waited for locks.",
                Query(
                    """
                    sum by (instance, datname) (rate(pg_lock_wait_sampled_seconds_total{<database>}[$__rate_interval]))
                      / (
                        sum by (instance, datname) (
                          rate(pg_session_sampled_seconds_total{<database>, state="active"}[$__rate_interval])
                        )
                        > 0
                      )
                    """,
                    "{{datname}} on {{instance}}",
                ),
                unit="percentunit",
                empty="nobody waited",
                most=1,
                steps=rising(of("PostgreSQLLockContention", "ratio")),
                runbooks=("PostgreSQLLockContention",),
            ),
            timeseries(
                "lock-events",
                "Waits by kind of lock",
                "Sessions that waited, on average: relation is a table, transactionid and tuple a row, virtualxid an index "
                "build that waits for old transactions, extend a table that grows, advisory a lock of the application's.",
                Query(
                    """
                    sum by (wait_event) (
                      rate(pg_session_sampled_seconds_total{<database>, wait_event_type="Lock"}[$__rate_interval])
                    )
                    """,
                    "{{wait_event}}",
                ),
                unit="short",
                empty="nobody waited",
                stack="normal",
            ),
            timeseries(
                "active-events",
                "What active sessions wait for",
                "Active sessions, on average, by what they wait for; CPU are those that wait for nothing. Many at one LWLock mean "
                "that too many do the same at once, many at IO that the disk is slow or a plan reads much.",
                Query(
                    f"""
                    label_replace(
                      {leading(_active("rate", "[$__rate_interval]"), _active("increase", "[$__range] @ end()"))},
                      "wait_event_type", "CPU", "wait_event_type", ""
                    )
                    """,
                    "{{wait_event_type}} {{wait_event}}",
                ),
                unit="short",
                empty="nobody is active",
                stack="normal",
            ),
            timeseries(
                "deadlocks",
                "Deadlocks in 15 minutes",
                "Single ones happen, and clients retry. A series of them is two pieces of code that lock in different order.",
                Query(
                    leading(
                        "sum by (instance, datname) (increase(pg_database_deadlocks_total{<database>}[15m]))",
                        "sum by (instance, datname) (increase(pg_database_deadlocks_total{<database>}[$__range] @ end()))",
                    ),
                    "{{datname}} on {{instance}}",
                ),
                unit="short",
                empty="does not answer",
                steps=rising(of("PostgreSQLDeadlocks", "deadlocks")),
                links=(of_series("pg-instance", "This server", instance="instance"),),
                alerts=("PostgreSQLDeadlocks",),
                width=24,
                height=7,
            ),
        ),
        collapsed=True,
    )


def _active(function: str, over: str) -> str:
    """Active sessions by what they wait for, in seconds of sessions."""
    sampled = f'pg_session_sampled_seconds_total{{<database>, state="active"}}{over}'
    return f"sum by (wait_event_type, wait_event) ({function}({sampled}))"


def _lock_table() -> Row:
    return Row(
        "How full is the lock table?",
        (
            timeseries(
                "lock-table",
                "Lock table used",
                'Share of the lock table that is taken. When it is full, statements fail with "out of shared memory".',
                Query(
                    """
                    sum by (instance) (pg_lock_entries{<server>, mode!="SIReadLock"})
                      / sum by (instance) (pg_lock_entries_max{<server>})
                    """,
                    "{{instance}}",
                ),
                unit="percentunit",
                empty="does not answer",
                most=1,
                steps=rising(of("PostgreSQLLockTableNearlyFull", "ratio")),
                alerts=("PostgreSQLLockTableNearlyFull",),
                width=10,
            ),
            table(
                "lock-entries",
                "Who fills it",
                "Entries of the lock table by what is locked and how, and the sessions that hold or wait for them.",
                Column(
                    "Entries",
                    "max by (instance, datname, locktype, mode, granted) (pg_lock_entries{<database>})",
                ),
                Column(
                    "Sessions",
                    "max by (instance, datname, locktype, mode, granted) (pg_lock_sessions{<database>})",
                ),
                labels={
                    "instance": "Instance",
                    "datname": "Database",
                    "locktype": "What is locked",
                    "mode": "Mode",
                    "granted": "Granted",
                },
                empty="does not answer",
                ranked=True,
                width=14,
            ),
        ),
        collapsed=True,
    )
