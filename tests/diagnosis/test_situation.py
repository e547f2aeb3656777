"""What is said of a server as a whole: one that is down, what was seen between scrapes, and what is as it should be."""

from dataclasses import replace
from typing import Any

import pytest

from exporter.catalog.model import Metric
from exporter.diagnosis.situation import Seen, Situation, situation
from exporter.diagnosis.work import Work
from exporter.report import JobStatus, Login, Report
from exporter.samples.model import Family, Samples
from exporter.watch.incidents import Incident

NOW = 1_800_000_000.0

UP = Report(up=True, down_reason="", jobs=(), skipped={}, seconds=0.0, scrapes=1, sessions=1, in_recovery=False)


def said(report: Report = UP, *waiting: dict[str, Any]) -> Situation:
    """What is said of a report, and of sessions that wait."""
    return situation("", "db1:5432", report, Seen((), waiting), NOW)


def sentences(of: Situation) -> list[str]:
    return [finding.sentence for finding in of.findings]


def session(pid: int, *blocked_by: int | str, **more: Any) -> dict[str, Any]:
    lock = {"blocked_by": list(blocked_by), "wait_event_type": "Lock", "wait_event": "relation"} if blocked_by else {}
    about = {"usename": "web", "application_name": "shop", "backend_type": "client backend", "state": "active"}
    return {"pid": pid, "query": "SELECT ?", **about, **lock, **more}


def test_nothing_is_said_of_a_server_that_was_not_asked_yet() -> None:
    found = said(replace(UP, up=False))
    assert (found.findings, found.age, found.up_seconds, found.role) == ((), None, None, "")
    assert {vital.state for vital in found.vitals} == {"unknown"}


def test_what_comes_about_in_days_comes_last() -> None:
    table = 'datname="shop",schemaname="public",relname="carts"'
    families = [
        Family(Metric(name=name, type="gauge", help="-"), [table], [value])
        for name, value in (("pg_table_dead_tuples", 99_999), ("pg_table_vacuum_threshold_tuples", 50))
    ]
    dead = replace(job("table_vacuum", 1.0), samples=Samples(tuple(families)))
    found = said(replace(UP, jobs=(dead,)), session(1, state="idle in transaction"), session(2, 1, query_seconds=6.0))
    assert [each.sentence[:21] for each in found.urgent] == ["pid 1 (web, shop, idl"]
    assert [each.alert for each in found.slow] == ["PostgreSQLDeadTuples"]
    assert [*found.findings] == [*found.urgent, *found.slow]


@pytest.mark.parametrize(("looked", "said_of_it"), [(2.0, "3 s"), (9.0, "9 s")])
def test_the_longest_wait_is_that_of_the_latest_look_where_the_readings_are_older(
    looked: float, said_of_it: str
) -> None:
    """The strip said 3 s beside a tree whose waiters had waited for 9 s."""
    family = Family(Metric(name="pg_lock_longest_wait_seconds", type="gauge", help="-"), [""], [3.0])
    read = replace(job("locks", 30.0), samples=Samples((family,)))
    found = said(replace(UP, jobs=(read,)), session(1), session(2, 1, query_seconds=looked))
    [vital] = [each for each in found.vitals if each.name == "longest lock wait"]
    assert (vital.text, vital.state) == (said_of_it, "good")


def reading(values: dict[str, float]) -> Report:
    """A report of series, with their labels behind their names."""
    families = []
    for series, value in values.items():
        name, _, labels = series.partition(" ")
        families.append(Family(Metric(name=name, type="gauge", help="-"), [labels], [value]))
    return replace(UP, jobs=(replace(job("any", 1.0), samples=Samples(tuple(families))),))


LAGS = {"pg_replication_is_replica": 1.0, "pg_replication_lag_seconds": 91.0, "pg_wal_receiver_configured": 1.0}

BUILD = 'pid="1",locktype="virtualxid",mode="ShareLock",state="active"'


@pytest.mark.parametrize(
    ("values", "vital", "state"),
    [
        (LAGS | {"pg_recovery_max_standby_delay_seconds": 30.0}, "replication lag", "warning"),
        (LAGS | {"pg_recovery_waits_for_query": 1.0}, "replication lag", "good"),
        (LAGS | {"pg_wal_receiver_configured": 0.0}, "replication lag", "good"),
        (LAGS | {"pg_wal_receiver_configured": 0.0, "pg_recovery_paused": 1.0}, "replication lag", "warning"),
        ({"pg_lock_longest_wait_seconds": 15.0}, "longest lock wait", "critical"),
        (
            {"pg_lock_longest_wait_seconds": 15.0, f"pg_lock_blocker_longest_wait_seconds {BUILD}": 15.0},
            "longest lock wait",
            "good",
        ),
        ({"pg_connections_used": 3.0}, "longest transaction", "good"),
        (
            {"pg_connections_used": 3.0, 'pg_xmin_horizon_seconds holder="prepared_transaction",name="g"': 7200.0},
            "longest transaction",
            "warning",
        ),
    ],
)
def test_the_strip_is_judged_as_the_findings_are(values: dict[str, float], vital: str, state: str) -> None:
    found = said(reading(values))
    assert [each.state for each in found.vitals if each.name == vital] == [state]
    is_said = any(each.alert.startswith(("PostgreSQLReplica", "PostgreSQLReplay")) for each in found.findings)
    assert is_said == (vital == "replication lag" and state == "warning")


HELD = {
    "pg_lock_longest_wait_seconds": 42.0,
    'pg_lock_blocker_blocked_sessions pid="9148",state="idle in transaction"': 1.0,
    'pg_lock_blocker_longest_wait_seconds pid="9148",state="idle in transaction"': 42.0,
}


@pytest.mark.parametrize(("waiters", "named"), [(None, True), (1, True), (0, False)])
def test_whom_nobody_waits_for_any_more_is_not_named(waiters: int | None, named: bool) -> None:
    """The culprit of the latest scrape had committed, and its pid could be another's."""
    found = situation("", "db1:5432", reading(HELD), Seen(waiters=waiters), NOW)
    assert [each.labels["pid"] for each in found.findings] == (["9148"] if named else [])
    [vital] = [each for each in found.vitals if each.name == "longest lock wait"]
    assert vital.text == ("42 s" if named else "0 s")


def test_for_whom_they_wait_is_known_where_a_look_has_seen_it() -> None:
    held = reading({"pg_lock_longest_wait_seconds": 42.0, "pg_lock_waiters": 1.0})
    assert sentences(situation("", "db1:5432", held, Seen(), NOW)) == [
        "1 session waits for a lock, the longest for 42 s; for whom is not known"
    ]
    looked = Seen(waiting=[session(1, state="idle in transaction"), session(2, 1, query_seconds=42.0)], waiters=1)
    assert [each.labels["pid"] for each in situation("", "db1:5432", held, looked, NOW).findings] == ["1"]


@pytest.mark.parametrize(("kind", "alert"), [("postgresql", "PostgreSQLDown"), ("pgbouncer", "PgBouncerDown")])
def test_a_server_that_is_down_has_the_alert_of_its_product(kind: Any, alert: str) -> None:
    [finding] = said(replace(UP, up=False, down_reason="refused", kind=kind)).findings
    assert (finding.alert, finding.severity) == (alert, "critical")
    assert finding.sentence.endswith("does not answer: refused (no process listens at its address)")


def test_failing_logins_and_the_end_of_the_certificate_are_said() -> None:
    login = Login(False, 3.0, "timeout", NOW + 3 * 86_400)
    assert sentences(said(replace(UP, login=login))) == [
        "new logins fail (timeout)",
        "the certificate expires in 3 days",
    ]
    past = replace(login, success=True, reason="", certificate_expires_at=NOW - 30 * 86_400)
    assert sentences(said(replace(UP, login=past))) == ["the certificate expired 30 days ago"]


def test_a_login_that_fails_by_the_exporters_own_fault_is_no_outage_and_has_its_error() -> None:
    login = Login(False, 3.0, "settings", None, "password_command: give: ended with exit code 3.")
    [finding] = said(replace(UP, login=login)).findings
    assert (finding.alert, finding.severity) == ("PostgreSQLExporterLoginFails", "warning")
    assert finding.sentence == "the exporter's new logins fail: settings"
    assert "give: ended with exit code 3" in finding.remedies[0].effect
    down = replace(UP, up=False, down_reason="settings", down_message="password_file: no file: /x.")
    [finding] = said(down).findings
    assert "no file: /x" in finding.remedies[0].effect


def test_a_login_that_fails_because_all_connections_are_used_is_said_by_them() -> None:
    assert said(replace(UP, login=Login(False, 0.1, "too_many_connections"))).findings == ()


def test_a_root_that_the_page_does_not_have_yet_is_said() -> None:
    found = said(UP, session(1, state="idle in transaction"), session(2, 1, query_seconds=6.0))
    assert sentences(found) == ["pid 1 (web, shop, idle in transaction) blocks 1 session"]
    assert [remedy.sql for remedy in found.findings[0].remedies] == ["SELECT pg_terminate_backend(1);"]
    assert found.findings[0].seconds == 6.0
    assert [node.names for node in found.locks] == [("1",), ("2",)]


@pytest.mark.parametrize(
    "root",
    [
        {"wait_event_type": "IPC", "wait_event": "SyncRep"},
        {"backend_type": "startup", "state": ""},
        {"backend_type": "walsender"},
    ],
)
def test_what_must_not_be_ended_has_no_remedy(root: dict[str, Any]) -> None:
    [finding] = said(UP, session(1, **root), session(2, 1)).findings
    assert finding.remedies == ()


def test_a_blocker_of_which_nothing_is_known_has_no_remedy() -> None:
    [finding] = said(UP, session(2, 4711)).findings
    assert (finding.sentence, finding.remedies) == ("pid 4711 blocks 1 session", ())


@pytest.mark.parametrize(("root", "event"), [({"state": "idle"}, "advisory"), ({"state": "active"}, "virtualxid")])
def test_leaders_and_what_an_index_build_outlasts_are_waited_for_on_purpose(root: dict[str, Any], event: str) -> None:
    found = said(UP, session(1, **root), session(2, 1, wait_event=event), session(3, 1, wait_event=event))
    assert found.findings == ()
    assert len(found.locks) == 2


def test_while_the_server_is_down_nobody_is_said_to_wait() -> None:
    found = said(replace(UP, up=False, down_reason="hung"), session(1), session(2, 1))
    assert (sentences(found), found.locks) == (
        ["PostgreSQL does not answer: hung (it takes connections and does not answer)"],
        (),
    )


@pytest.mark.parametrize(("age", "remedies"), [(30.0, True), (90.0, False)])
def test_nothing_is_proposed_against_a_session_seen_long_ago(age: float, *, remedies: bool) -> None:
    """Its pid may be another's; looks between scrapes do not count, since they see no more than that there is one."""
    looks = job("wait_sampler", 0.5)
    found = said(
        replace(UP, jobs=(job("lock_blockers", age), looks)),
        session(1, state="idle in transaction"),
        session(2, 1, query_seconds=6.0),
    )
    [finding] = found.findings
    assert finding.sentence == "pid 1 (web, shop, idle in transaction) blocks 1 session"
    assert bool(finding.remedies) == remedies
    assert found.age == age


def test_what_is_not_judged_is_said_where_nothing_is_wrong() -> None:
    work = Work(60.0, 1.0, ())
    judged = situation("", "db1:5432", UP, Seen(work=work), NOW)
    assert (judged.all_clear, judged.unjudged) == ("Nothing that is known.", ())
    young = said(UP)
    assert young.all_clear == "Nothing that is known so far."
    assert young.unjudged == ("statements (judged once a minute of their work is known)",)
    lacking = said(replace(UP, skipped={"statements": "extension pg_stat_statements is not installed"}))
    assert lacking.unjudged == ("statements (extension pg_stat_statements is not installed)",)
    assert (young.is_judged, lacking.is_judged) == (False, True), "nothing that the server lacks is awaited"
    never = replace(job("indexes", 0.0), age=None, samples=None, success=False, reason="timeout", next_run_seconds=0.0)
    denied, late = replace(never, collector="wal", reason="permission"), replace(never, collector="locks", reason="")
    texts = replace(late, collector="statement_texts", next_run_seconds=None)
    failing = situation("", "db1:5432", replace(UP, jobs=(never, denied, late, texts)), Seen(work=work), NOW)
    assert (failing.unjudged, failing.is_judged) == (("indexes (timeout)", "locks (not read yet)"), False)
    many = tuple(replace(late, collector=f"c{number}") for number in range(9))
    assert situation("", "db1:5432", replace(UP, jobs=many), Seen(work=work), NOW).unjudged == (
        "9 results (not read yet)",
    )
    assert said(replace(UP, up=False)).unjudged == ()


def test_what_is_not_known_of_one_database_is_said() -> None:
    known = job("indexes", 1.0)
    unread = replace(known, datname="shop", samples=None, reason="connection", next_run_seconds=1.0)
    report = replace(UP, jobs=(known, unread), closed=("payroll",))
    found = situation("", "db1:5432", report, Seen(work=Work(60.0, 1.0, ())), NOW)
    assert found.unjudged == ("database payroll (the role may not connect)", "indexes in shop (connection)")
    assert not found.is_judged
    assert situation("", "db1:5432", replace(report, jobs=(known,)), Seen(work=Work(60.0, 1.0, ())), NOW).is_judged


def test_without_a_history_no_statement_is_ever_judged() -> None:
    found = situation("", "db1:5432", UP, Seen(records=False), NOW)
    assert (found.unjudged, found.is_judged) == (("statements (history_hours is 0)",), True)


def test_what_can_wait_lists_a_server_after_those_that_cannot() -> None:
    lock = said(UP, session(1, state="idle in transaction"), session(2, 1, query_seconds=6.0))
    index = Family(Metric(name="pg_index_invalid", type="gauge", help="-"), [INDEX], [1])
    waits = said(replace(UP, jobs=(replace(job("indexes", 1.0), samples=Samples((index,))),)))
    assert [each.can_wait for each in waits.findings] == [True]
    assert lock.worst < waits.worst < said(UP).worst


INDEX = 'datname="shop",schemaname="public",relname="orders",indexrelname="orders_idx"'


def test_connections_are_few_since_that_was_recorded() -> None:
    counts = {"pg_connections_used": 95.0, "pg_connections_available": 2.0}
    families = [Family(Metric(name=name, type="gauge", help="-"), [""], [value]) for name, value in counts.items()]
    used = replace(UP, jobs=(replace(job("connections", 1.0), samples=Samples(tuple(families))),))
    few = Incident("1-connections", "", "connections", "2027-01-15T08:00:00.000+00:00", 100.0, 130.0)
    [finding] = situation("", "db1:5432", used, Seen((few,)), NOW).findings
    assert (finding.alert, finding.seconds) == ("PostgreSQLConnectionsNearlyUsed", 30.0)
    few.ended = "2027-01-15T08:01:00.000+00:00"
    assert situation("", "db1:5432", used, Seen((few,)), NOW).findings[0].seconds is None


def job(collector: str, age: float) -> JobStatus:
    """A collector that ran some seconds ago."""
    return JobStatus(collector, "", success=True, samples=Samples(), duration=0.1, age=age)
