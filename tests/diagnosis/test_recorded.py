"""What an incident says of its culprit, and of what the same one did before."""

from typing import Any

from exporter.diagnosis.lock_tree import lock_tree
from exporter.diagnosis.recorded import earlier, recorded, roots
from exporter.watch.incidents import Incident, Snapshot


def incident(number: int, application: str, target: str = "main", kind: Any = "lock_wait") -> Incident:
    """An incident of this hour in which a session of an application holds up another."""
    started = f"2026-11-30T0{number}:00:00.000+00:00"
    sessions: list[dict[str, Any]] = [
        {"pid": 10 + number, "usename": "web", "application_name": application, "state": "idle in transaction"},
        {"pid": 90, "usename": "web", "application_name": "shop", "state": "active", "blocked_by": [10 + number]},
    ]
    found = Incident(f"{target}-{number}", target, kind, started, 0.0, 0.0)
    found.snapshots = [Snapshot(started, "1 session waits", sessions)]
    return found


def test_the_title_names_the_root_of_the_worst_moment() -> None:
    told = recorded(incident(1, "nightly"))
    assert told.title == "pid 11 (web, nightly, idle in transaction) blocks 1 session"
    assert told.culprit == "web, nightly"
    assert recorded(incident(1, "nightly", kind="connections")).culprit == ""


def test_a_prepared_transaction_at_the_root_has_what_ends_it() -> None:
    found = incident(1, "nightly")
    gid = "gi'd"
    waiter = {**found.snapshots[0].sessions[1], "blocked_by": [f"prepared transaction {gid}"]}
    [told] = roots(lock_tree([waiter]))
    assert told.sentence == f"prepared transaction {gid} blocks 1 session"
    assert [each.sql for each in told.remedies] == ["ROLLBACK PREPARED 'gi''d';"]


def test_what_the_same_culprit_did_before_is_found_whatever_its_pid() -> None:
    known = [
        incident(1, "nightly"),
        incident(2, "nightly"),
        incident(3, "migration"),
        incident(4, "nightly", target="other"),
        incident(5, "nightly"),
        incident(6, "nightly"),
    ]
    assert [each.id for each in earlier(known[4], known)] == ["main-2", "main-1"]
    assert earlier(known[2], known) == []
    nobody = incident(7, "nightly", kind="connections")
    assert earlier(nobody, [*known, nobody]) == []
