"""What has failed is said by the page as well, or it is listed why it cannot be."""

from pathlib import Path

import pytest
from pages import line

from exporter.alert_rules import alert_rules
from exporter.diagnosis.failures import checksums, commits, multixacts, subscriptions
from exporter.diagnosis.findings import Finding
from exporter.diagnosis.readings import Readings
from exporter.diagnosis.subjects import Subject

NOW = 1e9

SYNC_REP = {"state": "active", "wait_event_type": "IPC", "wait_event": "SyncRep"}

NOT_JUDGED = {
    "CrashLoop": "how often a server was started within an hour is Prometheus' to count",
    "DiskFullSoon": "the disk is node_exporter's to see",
    "DiskNearlyFull": "the disk is node_exporter's to see",
    "ExporterDown": "an exporter that is down has no page",
    "ExporterStale": "the page says how old its readings are",
    "FsyncOff": "it is so from the first day, also where the data is disposable",
    "MultixactWraparoundWithinWeek": "the pace is Prometheus' to know; the age is judged",
    "NoPrimary": "it takes all targets of a cluster to see",
    "ReplicationSlotSoonLost": "the pace is Prometheus' to know; what is left is judged",
    "SequenceEndsWithinDays": "the pace is Prometheus' to know; what is left is judged",
    "TwoPrimaries": "it takes two targets to see",
    "XidWraparoundWithinWeek": "the pace is Prometheus' to know; the age is judged",
}
"""Alerts that page, and which one look at one server cannot decide: name without `PostgreSQL` -> why."""

SENDER = {"application_name": "replica-1", "client_addr": "", "usename": "r", "slot_name": "", "pid": "7"}

KEEPS = "and its publisher keeps WAL for it"

NO_WORKER = f"has no worker, so it receives nothing, {KEEPS}"

UNTIL = "to commit until a synchronous standby answers"

SHOP = {"datname": "shop", "subname": "feed"}


def found(subject: Subject, page: str) -> list[Finding]:
    """What one subject finds on a page."""
    return [*subject(Readings.of_page(page), NOW)]


def commit_waits(sessions: int, seconds: float) -> str:
    """A page on which sessions wait to commit."""
    return line("pg_session_waits", sessions, SYNC_REP) + line("pg_session_waits_longest_seconds", seconds, SYNC_REP)


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (commit_waits(12, 1.9), ""),
        (
            commit_waits(12, 2.1),
            f"12 sessions wait {UNTIL}, and none is connected; the longest for 2 s",
        ),
        (commit_waits(1, 29) + line("pg_replication_sender_sync_state", 1, {**SENDER, "sync_state": "sync"}), ""),
        (
            commit_waits(1, 31) + line("pg_replication_sender_sync_state", 1, {**SENDER, "sync_state": "quorum"}),
            f"1 session waits {UNTIL}: replica-1; the longest for 31 s",
        ),
        (
            commit_waits(1, 31) + line("pg_replication_sender_sync_state", 1, {**SENDER, "sync_state": "async"}),
            f"1 session waits {UNTIL}, and none is connected; the longest for 31 s",
        ),
    ],
)
def test_commits_that_no_standby_confirms(page: str, sentence: str) -> None:
    assert [each.sentence for each in found(commits, page)] == ([sentence] if sentence else [])
    for each in found(commits, page):
        assert (each.alert, each.severity) == ("PostgreSQLCommitsWaitForStandby", "critical")
        assert [remedy.sql for remedy in each.remedies[1:]] == [
            "ALTER SYSTEM SET synchronous_standby_names = '';",
            "SELECT pg_reload_conf();",
        ]


@pytest.mark.parametrize(
    ("datname", "times", "age", "sentence"),
    [
        ("shop", 1, 180, "a damaged block of database shop was read 3 min ago"),
        ("", 7, 7200, "a damaged block of the catalogs that all databases share was read 2 h ago, 7 times so far"),
        ("shop", 1, 24 * 3600 + 1, ""),
    ],
)
def test_a_damaged_block(datname: str, times: int, age: float, sentence: str) -> None:
    page = line("pg_database_checksum_failures_total", times, {"datname": datname}) + line(
        "pg_database_checksum_last_failure_timestamp_seconds", NOW - age, {"datname": datname}
    )
    said = found(checksums, page)
    assert [each.sentence for each in said] == ([sentence] if sentence else [])
    assert [each.severity for each in said] == (["critical"] if sentence else [])


@pytest.mark.parametrize(
    ("enabled", "workers", "errors", "alert", "sentence"),
    [
        (1, 1, 0, "", ""),
        (1, 1, 4, "", ""),
        (
            1, 0, 0, "SubscriptionNotRunning",
            f"subscription feed in shop {NO_WORKER}",
        ),
        (
            1, 0, 4, "SubscriptionFailing",
            f"subscription feed in shop {NO_WORKER}; it has failed 4 times to apply a change",
        ),
        (
            0, 0, 1, "SubscriptionDisabled",
            f"subscription feed in shop is disabled, {KEEPS}; it has failed 1 time to apply a change",
        ),
    ],
)  # fmt: skip
def test_a_subscription_that_applies_nothing(
    enabled: int, workers: int, errors: int, alert: str, sentence: str
) -> None:
    page = (
        line("pg_subscription_enabled", enabled, SHOP)
        + line("pg_subscription_apply_workers", workers, SHOP)
        + line("pg_subscription_apply_errors_total", errors, SHOP)
    )
    said = [(each.alert, each.sentence) for each in found(subscriptions, page)]
    assert said == ([(f"PostgreSQL{alert}", sentence)] if alert else [])


@pytest.mark.parametrize(
    ("waiting", "errors", "sentence"),
    [
        (1, 2, ""),
        (0, 9, ""),
        (1, 4, "1 table of subscription feed in shop is not copied yet, and copies have failed 4 times so far"),
        (3, 4, "3 tables of subscription feed in shop are not copied yet, and copies have failed 4 times so far"),
    ],
)
def test_a_copy_that_fails_again_and_again(waiting: int, errors: int, sentence: str) -> None:
    page = (
        line("pg_subscription_enabled", 1, SHOP)
        + line("pg_subscription_apply_workers", 1, SHOP)
        + line("pg_subscription_relations", 5, {**SHOP, "state": "ready"})
        + line("pg_subscription_relations", waiting, {**SHOP, "state": "data_copy"})
        + line("pg_subscription_sync_errors_total", errors, SHOP)
    )
    said = [(each.alert, each.sentence) for each in found(subscriptions, page)]
    assert said == ([("PostgreSQLSubscriptionTablesNotReady", sentence)] if sentence else [])


def test_multixact_members_end() -> None:
    assert found(multixacts, line("pg_multixact_members", 3.1e9, {})) == []
    [finding] = found(multixacts, line("pg_multixact_members", 3.3e9, {}))
    assert finding.sentence == ("3.3 of 4.3 billion multixact members are kept: then row locks that several share fail")


def test_each_alert_that_pages_is_judged_by_the_page_or_it_is_said_why_not() -> None:
    folder = Path(__file__).parents[2] / "exporter" / "diagnosis"
    text = "".join(file.read_text("utf-8") for file in folder.glob("*.py")).replace("{prefix}", "Xid")
    text += text.replace('"Xid', '"Multixact')
    paging = {name.removeprefix("PostgreSQL") for name, rule in alert_rules().items() if rule.severity == "critical"}
    of_servers = {name for name in paging if not name.startswith("PgBouncer")} - {"Down"}
    judged = {name for name in of_servers if f'"{name}"' in text}
    assert of_servers - judged == NOT_JUDGED.keys()
