"""What is said of recorded pages: the sentence, its alert, and what helps."""

from pathlib import Path

import pytest
from pages import line

from exporter.alert_rules import alert_rules, shipped
from exporter.diagnosis.findings import Finding, count, duration, size
from exporter.diagnosis.readings import Readings
from exporter.diagnosis.subjects import SUBJECTS

GOLDEN = Path(__file__).parents[1] / "alerts" / "golden"

ROOT = {
    "pid": "9148",
    "gid": "",
    "datname": "shop",
    "usename": "reporting",
    "application_name": "notebook",
    "state": "idle in transaction",
    "locktype": "relation",
    "relation": "public.users",
    "mode": "AccessExclusiveLock",
    "held_mode": "AccessShareLock",
}

NOW = 1e9

ORDERS = {"datname": "shop", "schemaname": "public", "relname": "orders"}


OTHERS = " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"


def found(page: str, at: float = 0.0) -> list[Finding]:
    """What all subjects find on a page."""
    return [finding for subject in SUBJECTS for finding in subject(Readings.of_page(page), at)]


def queue(waiters: int, seconds: float, **changes: str) -> str:
    """A page with one lock queue."""
    root = {**ROOT, **changes}
    return (
        line("pg_lock_blocker_blocked_sessions", waiters, root)
        + line("pg_lock_blocker_longest_wait_seconds", seconds, root)
        + line("pg_lock_blocker_longest_data_wait_seconds", seconds, root)
        + line("pg_lock_blocker_transaction_seconds", 240, root)
        + line("pg_lock_blocker_statement_info", 1, {**root, "query": "SELECT * FROM users WHERE id = ?"})
    )


def test_the_root_of_a_queue_is_named_with_what_it_holds_up_and_what_ends_it() -> None:
    [finding] = found(queue(7, 42))
    assert finding.sentence == (
        "pid 9148 (reporting, notebook, idle in transaction) has had its transaction open for 4 min and blocks"
        " 7 sessions on public.users, the longest for 42 s"
    )
    assert finding.alert == "PostgreSQLLockQueueBehindAccessExclusive"
    assert (finding.severity, finding.seconds) == ("critical", 42)
    assert finding.statement == "SELECT * FROM users WHERE id = ?"
    assert [remedy.sql for remedy in finding.remedies] == ["SELECT pg_terminate_backend(9148);"]


@pytest.mark.parametrize(
    ("changes", "alert", "remedies"),
    [
        (
            {"state": "active"},
            "LockQueueBehindAccessExclusive",
            ["pg_cancel_backend(9148)", "pg_terminate_backend(9148)"],
        ),
        ({"mode": "ShareLock"}, "LockQueue", ["pg_terminate_backend(9148)"]),
        ({"state": "active, SyncRep"}, "LockQueueBehindAccessExclusive", []),
        (
            {"pid": "", "gid": "it's", "state": "prepared transaction"},
            "LockQueueBehindAccessExclusive",
            ["ROLLBACK PREPARED 'it''s'"],
        ),
    ],
)
def test_what_helps_depends_on_what_the_root_does(changes: dict[str, str], alert: str, remedies: list[str]) -> None:
    [finding] = found(queue(2, 11, **changes))
    assert finding.alert == f"PostgreSQL{alert}"
    assert [remedy.sql.removeprefix("SELECT ").removesuffix(";") for remedy in finding.remedies] == remedies


def test_a_short_wait_and_one_that_is_meant_are_not_wrong() -> None:
    assert found(queue(7, 10)) == []
    assert found(queue(7, 99, locktype="virtualxid").replace("data_wait_seconds", "nothing")) == []


@pytest.mark.parametrize(
    ("page", "alert", "sentence"),
    [
        (
            line("pg_connections_used", 48)
            + line("pg_connections_available", 2)
            + line("pg_sessions", 30, {"usename": "web", "application_name": "checkout", "state": "idle"})
            + line("pg_sessions", 5, {"usename": "web", "application_name": "checkout", "state": "active"}),
            "ConnectionsNearlyUsed",
            "48 of 50 connections are in use; application checkout of web has 35 of them",
        ),
        (
            line("pg_connections_used", 50) + line("pg_connections_available", 0),
            "ConnectionsAtLimit",
            "50 of 50 connections are in use",
        ),
        (
            line("pg_connections_used", 37) + line("pg_connections_available", 0) + line("pg_connections_max", 40),
            "ConnectionsAtLimit",
            "37 of 40 connections are in use, and the other 3 are reserved for superusers",
        ),
        (
            line("pg_connections_used", 36)
            + line("pg_connections_available", 1)
            + line("pg_connections_max", 40)
            + line("pg_connections_reserved", 1),
            "ConnectionsNearlyUsed",
            "36 of 40 connections are in use, and 3 are reserved",
        ),
        (
            line("pg_login_success", 0) + line("pg_login_reason", 1, {"reason": "timeout"}),
            "LoginsFail",
            "new logins fail (timeout)",
        ),
        (
            line("pg_login_success", 0)
            + line("pg_login_reason", 1, {"reason": "too_many_connections"})
            + line("pg_connections_used", 2)
            + line("pg_connections_available", 25),
            "LoginsFail",
            (
                "new logins fail (too_many_connections), though 25 places seem left: logins that are not finished hold"
                " them"
            ),
        ),
        (
            line("pg_session_oldest_seconds", 301, {**ROOT, "kind": "idle in transaction"}),
            "IdleInTransaction",
            "pid 9148 (reporting, notebook, idle in transaction) has been idle in its transaction for 5 min",
        ),
        (
            line("pg_database_xid_age", 1.7e9, {"datname": "shop"}) + line("pg_wraparound_failsafe_age", 1.6e9),
            "XidFailsafeReached",
            "database shop is 1,700 million transaction ids old; 447 million transaction ids are left",
        ),
        (
            line("pg_replication_slots_wal_status", 1, {"slot_name": "cdc", "wal_status": "lost"}),
            "ReplicationSlotLost",
            "replication slot cdc has lost WAL that its reader needs; the reader has to be built anew",
        ),
        (
            line("pg_replication_slots_safe_wal_size_bytes", 2**30, {"slot_name": "cdc"})
            + line("pg_replication_slots_retained_bytes", 9 * 2**30, {"slot_name": "cdc"})
            + line("pg_replication_slots_active", 0, {"slot_name": "cdc"})
            + line("pg_replication_slots_inactive_since_timestamp_seconds", -7200, {"slot_name": "cdc"}),
            "ReplicationSlotNearLimit",
            (
                "replication slot cdc holds back 9.0 GiB of WAL, and nobody has read it for 2 h; after 1.0 GiB more, in"
                " 13 min if all of it came since then, the slot is lost, and its reader has to be built anew"
            ),
        ),
        (
            line("pg_replication_slots_safe_wal_size_bytes", 2**30, {"slot_name": "cdc"})
            + line("pg_replication_slots_retained_bytes", 400 * 2**20, {"slot_name": "cdc"})
            + line("pg_replication_slots_active", 0, {"slot_name": "cdc"}),
            "ReplicationSlotInactive",
            (
                "replication slot cdc holds back 400 MiB of WAL, and nobody has read it; after 1.0 GiB more the slot is"
                " lost, and its reader has to be built anew"
            ),
        ),
        (
            line("pg_login_success", 0) + line("pg_login_reason", 1, {"reason": "authentication"}),
            "ExporterLoginFails",
            "the exporter's new logins fail: authentication",
        ),
        (line("pg_replication_lag_seconds", 31), "ReplicaLagging", "this standby shows data that is 31 s old"),
        (line("pg_replication_lag_seconds", 301), "ReplicaStale", "this standby shows data that is 5 min old"),
        (
            line("pg_roles_valid_until_timestamp_seconds", 3 * 86_400, {"rolname": "web"}),
            "PasswordExpires",
            "the password of web expires in 3 days",
        ),
        (
            line("pg_archiver_failing", 1)
            + line("pg_archiver_ready_files", 6)
            + line("pg_archiver_ready_oldest_age_seconds", 7000),
            "ArchiveBacklogOld",
            "archiving fails: 6 WAL files wait for the archive, the oldest for 117 min",
        ),
        (
            line("pg_table_modified_since_analyze_tuples", 1_000_000, ORDERS)
            + line("pg_table_analyze_threshold_tuples", 20_050, ORDERS)
            + line("pg_table_estimated_rows", 200_000, ORDERS)
            + line("pg_table_autovacuum_disabled", 1, ORDERS),
            "StaleStatistics",
            (
                "1,000,000 rows of table public.orders in shop were modified since it was last analyzed; the planner"
                " believes that it has 200,000; autovacuum is off for it"
            ),
        ),
        (
            line("pg_index_invalid", 1, {**ORDERS, "indexrelname": "orders_nightly_idx"}),
            "IndexInvalid",
            (
                "index orders_nightly_idx of public.orders in shop is invalid, so no query uses it: a build or a drop"
                " of it did not end"
            ),
        ),
    ],
)
def test_each_subject_says_what_is_wrong(page: str, alert: str, sentence: str) -> None:
    [finding] = found(page)
    assert (finding.alert, finding.sentence) == (f"PostgreSQL{alert}", sentence)


def test_nothing_is_wrong_with_a_healthy_server() -> None:
    assert found((GOLDEN / "healthy18.prom").read_text("utf-8")) == []


@pytest.mark.parametrize("page", ["primary18.prom", "primary13.prom", "standby18.prom"])
def test_every_finding_has_an_alert_and_a_runbook(page: str) -> None:
    findings = found((GOLDEN / page).read_text("utf-8"))
    assert {finding.alert for finding in findings} <= alert_rules().keys()
    assert all((shipped("runbooks") / f"{finding.alert}.md").is_file() for finding in findings)


def test_a_server_in_trouble_shows_the_root_of_its_locks_and_the_table_without_vacuum() -> None:
    sentences = [each.sentence for each in found((GOLDEN / "primary18.prom").read_text("utf-8"))]
    assert sentences[0].startswith(
        "pid 1001 (web, checkout, idle in transaction) has had its transaction open for 18 s"
    )
    assert any("prepared transaction forgotten (postgres, prepared transaction)" in each for each in sentences)
    assert any(
        each.startswith("sequence public.carts_id_seq in shop, for carts.id (integer), has given out 98%")
        for each in sentences
    )
    assert any("table public.audit in shop has 20,000 dead rows" in each for each in sentences)


def test_times_counts_and_sizes_read_as_a_person_says_them() -> None:
    assert [duration(s) for s in (0.4, 119, 120, 7199, 7200, 200_000)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2 h",
        "2 days",
    ]
    assert [count(n, "session") for n in (1, 7, 1200)] == ["1 session", "7 sessions", "1,200 sessions"]
    assert [size(b) for b in (512, 9.5 * 2**20, 300 * 2**30)] == ["512 B", "9.5 MiB", "300 GiB"]


REPLICA = line("pg_replication_is_replica", 1)


@pytest.mark.parametrize(
    "page",
    [
        REPLICA + line("pg_database_xid_age", 2.1e9, {"datname": "shop"}),
        line("pg_replication_lag_seconds", 4000) + line("pg_wal_receiver_configured", 0),
        line("pg_replication_lag_seconds", 3620) + line("pg_recovery_min_apply_delay_seconds", 3600),
        line("pg_replication_lag_seconds", 400) + line("pg_recovery_waits_for_query", 1),
        line("pg_recovery_max_standby_delay_seconds", 30) + queue(1, 34, state="active"),
        line("pg_session_oldest_seconds", 4000, {**ROOT, "application_name": "pg_dump", "kind": "idle in transaction"}),
        line(
            "pg_xmin_horizon_seconds",
            9000,
            {**ROOT, "application_name": "pg_dump", "holder": "backend", "name": "client backend"},
        ),
        line("pg_xmin_horizon_seconds", 9000, {**ROOT, "holder": "backend", "name": "client backend"})
        + line("pg_progress_seconds", 8990, {"datname": "shop", "command": "CREATE INDEX"}),
        line("pg_replication_slots_wal_status", 1, {"slot_name": "cdc", "wal_status": "lost"})
        + line(
            "pg_replication_slots_invalidation_reason", 1, {"slot_name": "cdc", "invalidation_reason": "idle_timeout"}
        ),
        line("pg_replication_slots_safe_wal_size_bytes", -5, {"slot_name": "cdc"})
        + line("pg_replication_slots_retained_bytes", 9e9, {"slot_name": "cdc"}),
        line("pg_login_success", 0) + line("pg_login_reason", 1, {"reason": "too_many_connections"}),
        line("pg_table_modified_since_analyze_tuples", 9_999, ORDERS)
        + line("pg_table_analyze_threshold_tuples", 50, ORDERS),
        line("pg_table_modified_since_analyze_tuples", 200_000, ORDERS)
        + line("pg_table_analyze_threshold_tuples", 20_000, ORDERS),
        REPLICA + line("pg_index_invalid", 1, {**ORDERS, "indexrelname": "orders_nightly_idx"}),
        line("pg_index_invalid", 0, {**ORDERS, "indexrelname": "orders_nightly_idx"}),
    ],
)
def test_what_the_alerts_leave_out_is_not_said(page: str) -> None:
    assert found(page) == []


def test_an_archive_command_that_hangs_is_said_by_the_age_of_what_waits() -> None:
    [finding] = found(
        line("pg_archiver_failing", 0)
        + line("pg_archiver_enabled", 1)
        + line("pg_archiver_ready_files", 900)
        + line("pg_archiver_ready_oldest_age_seconds", 9000)
    )
    assert finding.alert == "PostgreSQLArchiveBacklogOld"
    assert finding.sentence == "900 WAL files wait for the archive, the oldest for 2 h"


def test_a_table_whose_name_is_a_keyword_is_quoted() -> None:
    table = {"datname": "shop", "schemaname": "user", "relname": 'or"der'}
    page = line("pg_table_dead_tuples", 99_999, {**table, "relname": 'or\\"der'})
    [finding] = found(page + line("pg_table_vacuum_threshold_tuples", 50, {**table, "relname": 'or\\"der'}))
    assert [remedy.sql for remedy in finding.remedies] == ['VACUUM "user"."or""der";']
    assert "in database shop" in finding.remedies[0].effect


def test_a_table_is_analyzed_and_a_failed_build_is_done_again() -> None:
    index = {**ORDERS, "indexrelname": "Late"}
    page = line("pg_table_modified_since_analyze_tuples", 1_000_000, ORDERS) + line("pg_index_invalid", 1, index)
    findings = found(page + line("pg_table_analyze_threshold_tuples", 20_050, ORDERS))
    assert [remedy.sql for finding in findings for remedy in finding.remedies] == [
        'ANALYZE "public"."orders";',
        'REINDEX INDEX CONCURRENTLY "public"."Late";',
        'DROP INDEX CONCURRENTLY "public"."Late";',
    ]
    [left] = found(line("pg_index_invalid", 1, {**ORDERS, "indexrelname": "Late_ccnew1"}))
    assert [remedy.sql for remedy in left.remedies] == ['DROP INDEX CONCURRENTLY "public"."Late_ccnew1";']


@pytest.mark.parametrize(("application", "remedies"), [("pg_dump", 0), ("notebook", 1)])
def test_nobody_is_told_to_end_a_dump_that_holds_back_vacuum(application: str, remedies: int) -> None:
    holder = {**ROOT, "application_name": application, "holder": "backend", "name": "client backend"}
    [finding] = found(line("pg_xmin_horizon_age", 150e6, holder) + line("pg_wraparound_freeze_max_age", 200e6))
    assert (finding.alert, len(finding.remedies)) == ("PostgreSQLXminHorizonHeld", remedies)


def held(seconds: float, **changes: str) -> str:
    """A page with dead rows and a transaction that is as old as that."""
    table = {"datname": "shop", "schemaname": "public", "relname": "prices"}
    holder = {**ROOT, "holder": "backend", "name": "client backend", **changes}
    return (
        line("pg_table_dead_tuples", 25_650, table)
        + line("pg_table_vacuum_threshold_tuples", 150, table)
        + line("pg_table_last_autovacuum_timestamp_seconds", NOW - 30, table)
        + line("pg_xmin_horizon_age", 99, holder)
        + (line("pg_xmin_horizon_seconds", seconds, holder) if holder["pid"] else "")
    )


def test_who_keeps_vacuum_from_dead_rows_is_named_beside_them_and_ended_first() -> None:
    [finding] = found(held(240), NOW)
    assert finding.sentence == (
        "pid 9148 (reporting, notebook, idle in transaction) keeps VACUUM from removing what died in the last 4 min:"
        " table public.prices in shop has 25,650 dead rows, 170 times what autovacuum waits for"
    )
    assert [remedy.sql for remedy in finding.remedies] == [
        "SELECT pg_terminate_backend(9148);",
        'VACUUM "public"."prices";',
    ]
    [since] = found(held(20), NOW)
    assert since.sentence.startswith("table public.prices"), "VACUUM came before it began"
    assert (finding.can_wait, since.can_wait) == (False, True), "whoever holds it back can be ended now"
    [elsewhere] = found(held(240, datname="blog"), NOW)
    assert elsewhere.sentence.startswith("table public.prices"), "its snapshot is of another database"
    [dump] = found(held(240, application_name="pg_dump"), NOW)
    assert [remedy.sql for remedy in dump.remedies] == ['VACUUM "public"."prices";']
    for holder, datname in (("replication_slot", ""), ("standby_feedback", ""), ("replication_slot", "blog")):
        [slot] = found(held(240, holder=holder, name="cdc", pid="", datname=datname), NOW)
        said = "keeps VACUUM from removing what died in the last 99 transactions"
        assert slot.sentence.startswith(f"{holder.replace('_', ' ')} cdc {said}")
    [catalog] = found(held(240, holder="replication_slot_catalog", name="cdc", pid=""), NOW)
    assert catalog.sentence.startswith("table public.prices"), "it keeps the rows of catalogs"


@pytest.mark.parametrize(
    ("age", "culprit"),
    [(500, "prepared transaction other"), (50, "pid 9148")],
    ids=["older", "younger"],
)
def test_a_transaction_elsewhere_counts_where_there_is_a_snapshot_here(age: int, culprit: str) -> None:
    other = {"holder": "prepared_transaction", "gid": "other", "name": "other", "datname": "blog"}
    elsewhere = line("pg_xmin_horizon_age", age, other) + line("pg_xmin_horizon_xid_age", age, other)
    [finding] = found(held(240) + elsewhere, NOW)
    assert finding.sentence.startswith(culprit)
    alone = found(held(240, datname="third") + elsewhere, NOW)
    assert [each.sentence.startswith("table public.prices") for each in alone] == [True]


def test_autovacuum_that_is_off_for_the_server_is_said_once_and_no_table_is_blamed_for_it() -> None:
    page = held(240) + line("pg_table_autovacuum_disabled", 1, ORDERS) + line("pg_autovacuum_enabled", 0)
    off, tables = found(page + line("pg_settings_track_counts", 1), 1e6)
    assert (off.alert, off.remedies[0].sql) == (
        "PostgreSQLAutovacuumOff",
        "ALTER SYSTEM SET autovacuum = on;",
    )
    assert off.remedies[1].sql == "SELECT pg_reload_conf();", "ALTER SYSTEM cannot be sent with it"
    assert tables.alert == "PostgreSQLDeadTuples"
    [counts, *_] = found(page + line("pg_settings_track_counts", 0), 1e6)
    assert counts.sentence.startswith("track_counts is off")


def test_nobody_is_named_for_connections_that_many_share_and_never_the_exporter() -> None:
    page = line("pg_connections_used", 48) + line("pg_connections_available", 2)
    page += line("pg_sessions", 20, {"usename": "pgvigil", "application_name": "pgvigil", "state": "idle"})
    for user, database in ((f"user{number % 14}", f"db{number % 2}") for number in range(28)):
        labels = {"usename": user, "application_name": user[4:], "datname": database, "state": "idle"}
        page = page if line("pg_sessions", 1, labels) in page else page + line("pg_sessions", 1, labels)
    [finding] = found(page)
    assert "has 7 of them" not in finding.sentence
    assert (finding.remedies, finding.labels) == ((), {})
    by_user = page + "".join(
        line("pg_sessions", 1, {"usename": "web", "application_name": f"worker {n}", "state": "idle"})
        for n in range(12)
    )
    [finding] = found(by_user)
    assert finding.sentence.endswith("; user web has 12 of them")
    [step] = finding.remedies
    assert step.sql == (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE state = 'idle' AND usename = 'web' AND application_name <> 'pgvigil'{OTHERS};"
    )


@pytest.mark.parametrize("of", ["roles", "database"])
def test_a_limit_of_a_role_or_a_database_is_no_fault_of_the_server(of: str) -> None:
    name = {"rolname": "web"} if of == "roles" else {"datname": "shop"}
    limits = line(f"pg_{of}_connection_limit", 2, name) + line(f"pg_{of}_connections", 2, name)
    refused = line("pg_login_success", 0) + line("pg_login_reason", 1, {"reason": "too_many_connections"})
    [finding] = found(refused + limits + line("pg_connections_used", 4) + line("pg_connections_available", 54))
    assert finding.sentence.endswith("has 2 of the 2 connections it may have")


def test_a_long_wait_without_a_known_root_is_said() -> None:
    [finding] = found(line("pg_lock_longest_wait_seconds", 25) + line("pg_lock_waiters", 5))
    assert (finding.alert, finding.sentence) == (
        "PostgreSQLLockWait",
        "5 sessions wait for a lock, the longest for 25 s; for whom is not known",
    )


@pytest.mark.parametrize(
    ("state", "sql"),
    [
        ("startup", [""]),
        ("autovacuum", ["SELECT pg_cancel_backend(9148);"]),
        ("walsender", []),
        ("logical replication worker", []),
        ("active", ["SELECT pg_cancel_backend(9148);", "SELECT pg_terminate_backend(9148);"]),
    ],
)
def test_no_process_of_the_server_is_to_be_ended(state: str, sql: list[str]) -> None:
    [finding] = found(queue(3, 60, state=state))
    assert [each.sql for each in finding.remedies] == sql


def test_a_slot_is_said_at_its_worst_moment() -> None:
    slot = {"slot_name": "cdc", "slot_type": "logical"}
    page = line("pg_replication_slots_wal_status", 1, {**slot, "wal_status": "unreserved"})
    page += line("pg_replication_slots_safe_wal_size_bytes", -16777216, slot)
    page += line("pg_replication_slots_retained_bytes", 50331648, slot)
    [finding] = found(page)
    assert finding.alert == "PostgreSQLReplicationSlotUnreserved"
    assert finding.sentence == (
        "replication slot cdc (logical) is lost at the next checkpoint: some of the 48 MiB of WAL that it needs is not"
        " kept"
    )


@pytest.mark.parametrize(
    ("ratio", "left", "said"),
    [
        (0.999999, 7, "99% of its numbers; 7 are left"),
        (1, 0, "all of its numbers; 0 are left: each INSERT that takes one fails"),
        (0.99, 1, "99% of its numbers; 1 is left"),
    ],
)
def test_a_sequence_with_numbers_left_has_not_given_out_all(ratio: float, left: int, said: str) -> None:
    sequence = {"datname": "shop", "schemaname": "public", "sequencename": "ids"}
    page = line("pg_sequence_used_ratio", ratio, sequence) + line("pg_sequence_remaining_values", left, sequence)
    [finding] = found(page)
    assert finding.sentence.endswith(said)
    assert finding.severity == ("critical" if not left else "warning")


def test_a_sequence_is_named_with_the_column_that_it_fills() -> None:
    had = {"datname": "shop", "schemaname": "public", "sequencename": "ids"}
    of_column = {**had, "relname": "t", "attname": "id", "data_type": "smallint"}
    page = line("pg_sequence_used_ratio", 0.9, of_column) + line("pg_sequence_remaining_values", 3276, of_column)
    [finding] = found(page)
    assert finding.sentence == (
        "sequence public.ids in shop, for t.id (smallint), has given out 90% of its numbers; 3,276 are left"
    )


@pytest.mark.parametrize(
    ("idle", "active", "remedies"),
    [
        (30, 5, ["SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle' AND {who}{others};"]),
        (
            0,
            27,
            [
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND {who}{others};",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {who}{others};",
            ],
        ),
        (
            4,
            27,
            [
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle' AND {who}{others};",
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND {who}{others};",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {who}{others};",
            ],
        ),
    ],
)
def test_what_frees_connections_depends_on_what_they_do(idle: int, active: int, remedies: list[str]) -> None:
    who = {"usename": "web", "application_name": "dashboard"}
    statement = {"datname": "shop", "usename": "web", "queryid": "42"}
    page = (
        line("pg_connections_used", 48)
        + line("pg_connections_available", 2)
        + line("pg_sessions", idle, {**who, "state": "idle"})
        + line("pg_sessions", active, {**who, "state": "active"})
        + line("pg_statement_running_sessions", active, statement)
        + line("pg_statement_info", 1, {**statement, "query": "SELECT sum(total) FROM orders"})
    )
    finding = next(each for each in found(page) if "connections are in use" in each.sentence)
    where = "usename = 'web' AND application_name = 'dashboard'"
    assert [remedy.sql for remedy in finding.remedies] == [each.format(who=where, others=OTHERS) for each in remedies]
    assert finding.statement == "SELECT sum(total) FROM orders"


def test_one_who_holds_up_vacuum_is_named_once_and_tables_without_autovacuum_by_themselves() -> None:
    off, kept = {**ORDERS, "relname": "carts"}, {**ORDERS, "relname": "carts_old"}
    page = (
        held(240)
        + line("pg_table_last_vacuum_timestamp_seconds", NOW - 30, off)
        + line("pg_table_dead_tuples", 90_000, kept)
        + line("pg_table_vacuum_threshold_tuples", 100_000, kept)
        + line("pg_table_dead_tuples", 1_000, off)
        + line("pg_table_vacuum_threshold_tuples", 449, off)
        + line("pg_table_autovacuum_disabled", 1, off)
    )
    holder, carts = found(page, NOW)
    assert holder.sentence.endswith("170 times what autovacuum waits for, and public.carts too")
    assert carts.alert == "PostgreSQLTableAutovacuumOff"
    assert carts.sentence == (
        "table public.carts in shop has 1,000 dead rows, 2.2 times what autovacuum waits for; autovacuum is off for it"
    )
    assert [remedy.sql for remedy in carts.remedies] == ['ALTER TABLE "public"."carts" RESET (autovacuum_enabled);']


def test_a_slot_is_dropped_only_where_its_reader_is_not_to_come_back() -> None:
    slot = {"slot_name": "cdc", "slot_type": "logical"}
    page = (
        line("pg_replication_slots_safe_wal_size_bytes", 1, slot)
        + line("pg_replication_slots_retained_bytes", 9e9, slot)
        + line("pg_replication_slots_info", 1, {**slot, "datname": "shop", "plugin": "pgoutput"})
    )
    [finding] = found(page)
    assert finding.sentence.startswith("replication slot cdc (logical, pgoutput, database shop) holds back 8.4 GiB")
    assert [(remedy.effect[:16], remedy.sql) for remedy in finding.remedies] == [
        ("Start its reader", ""),
        ("Where the disk h", "ALTER SYSTEM SET max_slot_wal_keep_size = -1;"),
        ("Then have the se", "SELECT pg_reload_conf();"),
        ("Only if nobody n", "SELECT pg_drop_replication_slot('cdc');"),
    ]
    [read] = found(page + line("pg_replication_slots_active", 1, slot))
    assert read.remedies == ()


@pytest.mark.parametrize(
    ("left", "left_at", "first"),
    [
        (2**30, -7200, "Where the disk has room"),
        (9 * 2**30, -7200, "Start its reader"),
        (2**30, 5, "Start its reader"),  # by a clock that goes before ours
    ],
)
def test_where_a_slot_may_be_lost_within_the_hour_time_is_won_first(left: float, left_at: float, first: str) -> None:
    """Its reader may be somebody else's, who is not reached in time."""
    slot = {"slot_name": "cdc", "slot_type": "logical"}
    page = (
        line("pg_replication_slots_safe_wal_size_bytes", left, slot)
        + line("pg_replication_slots_retained_bytes", 9 * 2**30, slot)
        + line("pg_replication_slots_active", 0, slot)
        + line("pg_replication_slots_inactive_since_timestamp_seconds", left_at, slot)
    )
    [finding] = found(page)
    assert finding.remedies[0].effect.startswith(first)
    assert finding.remedies[-1].sql.startswith("SELECT pg_drop_replication_slot")


def test_a_slot_that_is_being_lost_is_told_of_once() -> None:
    slot = {"slot_name": "cdc", "slot_type": "physical"}
    page = (
        line("pg_replication_slots_wal_status", 1, {"slot_name": "cdc", "wal_status": "unreserved"})
        + line("pg_replication_slots_retained_bytes", 9e9, slot)
        + line("pg_replication_slots_safe_wal_size_bytes", -1, slot)
        + line("pg_replication_slots_active", 0, slot)
    )
    assert [each.alert for each in found(page)] == ["PostgreSQLReplicationSlotUnreserved"]


def test_a_lock_table_that_fills_up_is_said_with_how_to_find_who_fills_it() -> None:
    advisory = {"datname": "shop", "locktype": "advisory", "mode": "ExclusiveLock"}
    page = line("pg_lock_entries", 4000, advisory) + line("pg_lock_entries", 9000, {**advisory, "mode": "SIReadLock"})
    assert found(page + line("pg_lock_entries_max", 6784)) == []
    [finding] = found(page.replace("4000", "8000") + line("pg_lock_entries_max", 6784))
    assert finding.alert == "PostgreSQLLockTableNearlyFull"
    assert finding.sentence == (
        "8,000 locks are held, and the lock table has room for 6,784 at least; 8,000 are ExclusiveLock (advisory) in"
        " database shop. When it is full, statements and logins fail: out of shared memory"
    )
    assert "FROM pg_locks WHERE NOT fastpath" in finding.remedies[0].sql


PREPARED = {"holder": "prepared_transaction", "name": "or'phan", "datname": "shop"}


def test_a_prepared_transaction_that_nobody_ends_is_named_with_its_database() -> None:
    assert found(line("pg_xmin_horizon_seconds", 3599, PREPARED)) == []
    [finding] = found(line("pg_xmin_horizon_seconds", 90_000, PREPARED))
    assert finding.alert == "PostgreSQLPreparedTransactionOrphaned"
    assert finding.sentence == "prepared transaction or'phan in shop was prepared 25 h ago, and nobody ends it"
    assert [(each.effect, each.sql) for each in finding.remedies] == [
        ("Roll it back, in database shop. This cannot be undone.", "ROLLBACK PREPARED 'or''phan';")
    ]


def test_a_prepared_transaction_that_keeps_dead_rows_is_ended_before_they_are_removed() -> None:
    page = (
        line("pg_xmin_horizon_age", 500, PREPARED)
        + line("pg_xmin_horizon_seconds", 900, PREPARED)
        + line("pg_table_last_vacuum_timestamp_seconds", NOW - 30, ORDERS)
        + line("pg_table_dead_tuples", 90_000, ORDERS)
        + line("pg_table_vacuum_threshold_tuples", 449, ORDERS)
    )
    [finding] = found(page, NOW)
    assert [each.sql for each in finding.remedies] == [
        "ROLLBACK PREPARED 'or''phan';",
        'VACUUM "public"."orders";',
    ]


def test_nobody_is_cancelled_who_may_wait_for_a_standby_to_commit() -> None:
    session = {**ROOT, "holder": "backend", "name": "client backend", "state": "active"}
    page = line("pg_xmin_horizon_seconds", 9000, session)
    [alone] = found(page)
    assert alone.remedies[0].sql == "SELECT pg_cancel_backend(9148);"
    waits = {"state": "active", "wait_event_type": "IPC", "wait_event": "SyncRep"}
    hanging = line("pg_session_waits", 1, waits) + line("pg_session_waits_longest_seconds", 9000, waits)
    of_session = next(each for each in found(page + hanging) if each.alert == "PostgreSQLLongTransaction")
    assert of_session.remedies == ()


def test_an_autovacuum_that_holds_up_others_comes_again_when_it_is_cancelled() -> None:
    """One that does not prevent wraparound gives way by itself; its text may be cut before it says so."""
    [finding] = found(queue(2, 42, state="autovacuum", usename="", application_name=""))
    assert finding.remedies[0].effect.startswith("Cancel it: that frees them now. It starts again by itself")
    assert finding.remedies[0].sql == "SELECT pg_cancel_backend(9148);"


@pytest.mark.parametrize(
    ("state", "step", "sql"),
    [
        ("startup", "On the primary, end the transaction", ""),
        ("startup, RecoveryPause", "Where somebody paused it", "SELECT pg_wal_replay_resume();"),
        ("startup, RecoveryApplyDelay", "Replay is late on purpose", ""),
        ("startup, RecoveryConflictSnapshot", "Replay waits for a query here", "SELECT pid, usename"),
        ("startup, BufferPin", "Replay waits for a query here", "SELECT pid, usename"),
        ("startup, RecoveryConflictTablespace", "Replay waits for a query here", "SELECT pid, usename"),
    ],
)
def test_what_lets_replay_go_on_depends_on_what_it_waits_for(state: str, step: str, sql: str) -> None:
    """That the primary's transaction had ended long ago was not seen."""
    [finding] = found(queue(3, 60, state=state, usename="", application_name=""))
    assert finding.remedies[-1].effect.startswith(step)
    assert finding.remedies[-1].sql.startswith(sql)
    assert bool(finding.remedies[-1].sql) == bool(sql)


def test_the_relation_is_that_of_all_waiters_or_of_the_longest() -> None:
    """Of twelve that waited, one waited for the table that was named for all."""
    queued = line("pg_lock_queue_waiters", 1, {"datname": "shop", "relation": "public.users", "mode": "ShareLock"})
    others = line("pg_lock_queue_waiters", 11, {"datname": "shop", "relation": "public.orders", "mode": "ShareLock"})
    [alone] = found(queue(12, 42) + queued)
    assert alone.sentence.endswith("blocks 12 sessions on public.users, the longest for 42 s")
    [several] = found(queue(12, 42) + queued + others)
    assert several.sentence.endswith("blocks 12 sessions, the longest for 42 s on public.users")
    [one] = found(queue(1, 42) + queued + others)
    assert one.sentence.endswith("blocks 1 session on public.users, the longest for 42 s")


def test_sessions_without_application_name_are_not_all_of_their_user() -> None:
    page = line("pg_connections_used", 97) + line("pg_connections_available", 0)
    page += line("pg_sessions", 40, {"usename": "web", "application_name": "", "state": "idle"})
    page += line("pg_sessions", 30, {"usename": "web", "application_name": "checkout", "state": "idle"})
    [finding] = found(page)
    assert finding.sentence.endswith("; user web without application_name has 40 of them")


PAUSED = line("pg_replication_is_replica", 1) + line("pg_recovery_paused", 1)


@pytest.mark.parametrize(
    ("lag", "alert", "sentence"),
    [
        (2, "ReplayPaused", "replay is paused, and what the primary writes is not seen here"),
        (
            48,
            "ReplicaLagging",
            "this standby shows data that is 48 s old: replay is paused, and what the primary writes is not seen here",
        ),
    ],
)
def test_replay_that_is_paused_is_said_with_what_ends_that(lag: int, alert: str, sentence: str) -> None:
    streams = line("pg_wal_receiver_configured", 1) + line("pg_recovery_max_standby_delay_seconds", 30)
    [finding] = found(PAUSED + streams + line("pg_replication_lag_seconds", lag))
    assert (finding.alert, finding.sentence) == (f"PostgreSQL{alert}", sentence)
    why, resume = finding.remedies
    assert (why.sql, resume.sql) == ("", "SELECT pg_wal_replay_resume();")
    assert "going on ends this server or makes it a primary" in why.effect


@pytest.mark.parametrize(
    ("used", "effect"),
    [
        (37, "Log in as a superuser: 3 connections are kept for that."),
        (40, "Stop the application, or use a session that is open: no login succeeds, not even of a superuser."),
    ],
)
def test_when_no_connection_is_left_the_way_in_comes_first(used: int, effect: str) -> None:
    [finding] = found(
        line("pg_connections_used", used) + line("pg_connections_available", 0) + line("pg_connections_max", 40)
    )
    assert (finding.remedies[0].effect, finding.remedies[0].sql) == (effect, "")
