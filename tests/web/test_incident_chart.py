"""The course of an incident as a drawing."""

from typing import Any

from exporter.watch.incidents import Incident, Snapshot
from exporter.web.incident_chart import incident_chart

WAITS = {"state": "active", "blocked_by": [7]}


def snapshot(second: int, *sessions: dict[str, Any], idle: int = 0, omitted: int = 0) -> Snapshot:
    """What was seen at a second of the hour."""
    at = f"2026-11-28T02:{second // 60:02}:{second % 60:02}.000+00:00"
    return Snapshot(at, "", sessions, idle, (), omitted)


def incident(seconds: float, *snapshots: Snapshot) -> Incident:
    """An incident that began at 02:00:00."""
    found = Incident("main-1", "", "lock_wait", "2026-11-28T02:00:00.000+00:00", 1000.0, 1000.0 + seconds)
    found.snapshots.extend(snapshots)
    return found


def test_each_snapshot_lasts_until_the_next_and_the_last_until_the_end() -> None:
    root = {"state": "idle in transaction", "blocked_by": []}
    worker = {"state": None}
    chart = incident_chart(
        incident(
            100,
            snapshot(0, root, WAITS),
            snapshot(25, root, WAITS, WAITS, WAITS, worker, idle=2, omitted=1),
            snapshot(75, {"state": "active"}, {"state": "idle", "blocked_by": []}),
        )
    )
    assert chart is not None
    assert [(bar.x, bar.width) for bar in chart.bars] == [(0, 150), (150, 300), (450, 150)]
    assert [bar.title for bar in chart.bars] == [
        "02:00:00 UTC: 1 waiting for a lock, 1 idle in transaction",
        "02:00:25 UTC: 3 waiting for a lock, 1 active, 1 idle in transaction, 2 idle, 1 not shown",
        "02:01:15 UTC: 1 active, 1 idle",
    ]
    assert (chart.most, chart.begins, chart.ends) == (8, "02:00:00", "02:01:40")
    assert [(part.css, part.y, part.height) for part in chart.bars[0].parts] == [("lock", 105, 15), ("lwlock", 90, 15)]
    assert [kind for _, kind in chart.legend] == [
        "waiting for a lock",
        "active",
        "idle in transaction",
        "idle",
        "not shown",
    ]


def test_one_snapshot_is_no_course_and_none_that_were_read_are_said() -> None:
    assert incident_chart(incident(9, snapshot(0, WAITS))) is None
    chart = incident_chart(incident(0, snapshot(0), snapshot(0)))
    assert chart is not None
    assert [bar.title for bar in chart.bars] == ["02:00:00 UTC: no session was read"] * 2
    assert chart.legend == ()
