"""The flight recorder."""

from typing import Any

import pytest
from clock import Clock

from exporter.planning.oid_names import Names
from exporter.watch import incidents
from exporter.watch.incidents import Recorder


def session(pid: int, **more: Any) -> dict[str, Any]:
    found = dict.fromkeys(
        ("application_name", "client_addr", "wait_event_type", "wait_event", "transaction_seconds", "query_seconds")
    )
    return found | {
        "pid": pid,
        "datid": 1,
        "usesysid": 10,
        "backend_type": "client backend",
        "state": "active",
        "state_seconds": 1.23456,
        "query": b"SELECT 1",
        "sessions_in_all": 1,
        **more,
    }


@pytest.fixture
def clock() -> Clock:
    """The clock of the recorder."""
    return Clock()


def test_an_incident_begins_lasts_and_ends(clock: Clock) -> None:
    recorder = Recorder("main", clock=clock)
    recorder.wrong("lock_wait", "one waits")
    clock.advance(20)
    recorder.wrong("lock_wait", "two wait")
    clock.advance(1)
    recorder.well("lock_wait")
    clock.advance(6)
    recorder.well("lock_wait")
    [incident] = recorder.incidents
    assert incident.ended == incident.moment(incident.began_at + 21)  # found well; certain later
    assert incident.line() | {"id": "", "started": "", "ended": ""} == {
        "id": "",
        "target": "main",
        "kind": "lock_wait",
        "started": "",
        "ended": "",
        "seconds": 21.0,
        "summary": "two wait",
        "snapshots": 0,
    }
    recorder.wrong("lock_wait", "again")
    assert [found.summary for found in recorder.incidents] == ["again", "two wait"]
    assert recorder.begun == {"lock_wait": 2, "connections": 0, "down": 0, "late": 0}
    assert len({found.id for found in recorder.incidents}) == 2


def test_snapshots_grow_rarer(clock: Clock) -> None:
    recorder = Recorder(clock=clock)
    for _ in range(3600):
        if recorder.wants("down"):
            recorder.wrong("down", "refused", recorder.snapshot("refused"))
        clock.advance(1)
    [incident] = recorder.incidents
    assert 8 <= len(incident.snapshots) <= 30


def test_texts_lose_their_literals_unless_they_are_asked_for() -> None:
    rows = [session(1, query=b"UPDATE card SET pin = '1234' WHERE id = 77 -- for Ann")]
    [shown] = Recorder().snapshot("", rows).sessions
    assert shown["query"] == "UPDATE card SET pin = ? WHERE id = ?"
    [literal] = Recorder(literals=True).snapshot("", rows).sessions
    assert "1234" in literal["query"]


def test_idle_sessions_are_counted_but_for_those_that_block() -> None:
    rows = [session(1), session(2, state="idle"), session(3, state="idle")]
    snapshot = Recorder().snapshot("", rows, blocked_by={1: [2]})
    assert [shown["pid"] for shown in snapshot.sessions] == [1, 2]
    assert snapshot.idle_sessions == 1
    assert (snapshot.sessions[0]["blocked_by"], "blocked_by" in snapshot.sessions[1]) == ([2], False)


def test_sessions_that_are_cut_are_counted() -> None:
    rows = [session(pid, sessions_in_all=150) for pid in range(130)]
    snapshot = Recorder().snapshot("", rows)
    assert (len(snapshot.sessions), snapshot.omitted_sessions) == (100, 50)


def test_oids_are_named() -> None:
    names = Names()
    names.replace({1: "shop"}, {10: "ann"})
    [shown] = Recorder().snapshot("", [session(1)], names).sessions
    assert (shown["datname"], shown["usename"], shown["state_seconds"]) == ("shop", "ann", 1.235)


def test_memory_is_bounded(clock: Clock) -> None:
    recorder = Recorder(clock=clock)
    rows = [session(pid, query=b"x" * 4000) for pid in range(200)]  # the longest that SESSIONS returns
    for _ in range(60):
        recorder.wrong("late", "tables", recorder.snapshot("tables", rows))
        clock.advance(10)
        recorder.well("late")
    kept = recorder.incidents
    assert 5 < len(kept) < 60
    assert sum(incident.bytes for incident in kept) <= incidents._MOST_BYTES
    assert recorder.begun["late"] == 60


def test_a_day_is_enough(clock: Clock) -> None:
    recorder = Recorder(clock=clock)
    recorder.wrong("down", "refused")
    clock.advance(6)
    recorder.well("down")
    clock.advance(25 * 3600)
    recorder.wrong("late", "tables")
    assert [incident.kind for incident in recorder.incidents] == ["late"]


def test_an_incident_ends_after_it_began_though_the_clock_was_set_back(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder("main", clock=clock)
    monkeypatch.setattr(incidents, "_now", lambda: "2026-06-01T12:00:00.000+00:00")
    recorder.wrong("lock_wait", "one waits", recorder.snapshot("one waits"))
    monkeypatch.setattr(incidents, "_now", lambda: "2026-06-01T11:00:00.000+00:00")
    clock.advance(20)
    recorder.wrong("lock_wait", "one waits", recorder.snapshot("one waits"))
    clock.advance(6)
    recorder.well("lock_wait")
    [incident] = recorder.incidents
    assert [snapshot.at for snapshot in incident.snapshots] == [incident.started, "2026-06-01T12:00:20.000+00:00"]
    assert incident.ended == "2026-06-01T12:00:26.000+00:00"
