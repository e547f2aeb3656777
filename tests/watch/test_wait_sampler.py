"""Samples of sessions -> counters of session-seconds."""

from pathlib import Path
from typing import Any

import pytest

from exporter.catalog.load import load
from exporter.errors import CatalogError
from exporter.planning.oid_names import Names
from exporter.samples.model import Samples
from exporter.watch.wait_sampler import LOCK_SECONDS, LONGEST, METRICS, MOST_SERIES, SAMPLED, SESSION_SECONDS, Sampler

NAMES = Names()
NAMES.replace({1: "shop"}, {})


def row(sessions: int, event: tuple[str, str] | None = None, pids: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    kind, name = event or (None, None)
    found = {"datid": 1, "state": "active", "wait_event_type": kind, "wait_event": name, "sessions": sessions}
    found |= {"usesysid": 10, "application_name": "app", "queryid": None, "query": b"SELECT 1"}
    found |= {"lock_waiters": list(pids) or None, "lock_sessions": list(pids) or None}
    return {**found, "slots": 100, "seconds": 0.001, **more}


def waiting(*pids: int) -> dict[str, Any]:
    return row(len(pids), ("Lock", "relation"), pids)


def values(samples: Samples, metric: object) -> dict[str, float]:
    [family] = [family for family in samples.families if family.metric is metric]
    return {text: float(value or 0) for text, value in zip(family.labels, family.values, strict=True)}


def test_session_seconds_are_sessions_times_time() -> None:
    sampler = Sampler()
    for second in range(11):
        sampler.add([row(3), waiting(7, 8)], now=100.0 + second)
    found = sampler.samples(NAMES, 110.0)
    assert values(found, SESSION_SECONDS) == {
        'datname="shop",state="active",wait_event_type="",wait_event=""': pytest.approx(30),
        'datname="shop",state="active",wait_event_type="Lock",wait_event="relation"': pytest.approx(20),
    }
    assert values(found, LOCK_SECONDS) == {'datname="shop"': pytest.approx(20)}
    assert values(found, SAMPLED) == {"": pytest.approx(10)}


def test_a_wait_that_came_and_went_is_still_seen_at_the_next_scrape() -> None:
    sampler = Sampler()
    for second in range(15):
        sampler.add([waiting(7)] if 3 <= second < 11 else [row(1)], now=float(second))
    found = sampler.samples(NAMES, 15.0)
    assert values(found, LONGEST)[""] == pytest.approx(8, abs=1)
    assert values(found, LOCK_SECONDS)['datname="shop"'] == pytest.approx(8, abs=1)


def test_the_longest_wait_is_forgotten_a_minute_after_it_ended() -> None:
    sampler = Sampler()
    for second in range(5):
        sampler.add([waiting(7)], now=float(second))
    assert values(sampler.samples(NAMES, 5.0), LONGEST)[""] > 3
    sampler.add([row(1)], now=66.0)
    assert values(sampler.samples(NAMES, 66.0), LONGEST)[""] == 0


def test_whoever_scrapes_every_two_minutes_misses_no_wait() -> None:
    sampler = Sampler()
    sampler.samples(NAMES, 0.0)
    for second in range(121):
        sampler.add([waiting(7)] if second < 10 else [row(1)], now=float(second))
    assert values(sampler.samples(NAMES, 120.0), LONGEST)[""] > 8


def test_time_that_was_not_watched_is_not_made_up() -> None:
    sampler = Sampler()
    sampler.add([row(1)], now=0.0)
    sampler.add([row(1)], now=600.0)
    assert values(sampler.samples(NAMES, 600.0), SAMPLED)[""] <= 3


def test_a_pid_that_waits_again_waits_anew() -> None:
    sampler = Sampler()
    sampler.add([waiting(7)], now=0.0)
    sampler.add([row(1)], now=10.0)
    assert sampler.add([waiting(7)], now=11.0).longest_wait <= 1


def test_series_are_bounded() -> None:
    sampler = Sampler()
    for second in range(3):
        rows = [row(1, ("Extension", f"event {i}")) for i in range(3 * MOST_SERIES)]
        sampler.add(rows, now=float(second))
    found = values(sampler.samples(NAMES, 3.0), SESSION_SECONDS)
    assert len(found) == MOST_SERIES + 1
    assert sum(found.values()) == pytest.approx(2 * 3 * MOST_SERIES)


def test_past_the_bound_the_time_of_each_state_and_type_is_the_same() -> None:
    sampler = Sampler()
    for second in range(3):
        rows = [
            row(1, ("Lock", "relation"), datid=number, state=state)
            for number in range(MOST_SERIES)
            for state in ("active", "idle in transaction")
        ]
        sampler.add(rows, now=float(second))
    found = values(sampler.samples(NAMES, 3.0), SESSION_SECONDS)
    assert len(found) == MOST_SERIES + 2
    for state in ("active", "idle in transaction"):
        of_state = [seconds for labels, seconds in found.items() if f'state="{state}",wait_event_type="Lock"' in labels]
        assert sum(of_state) == 2 * MOST_SERIES


def test_counters_never_fall() -> None:
    sampler = Sampler()
    before: dict[str, float] = {}
    for second in range(50):
        sampler.add([row(second % 3), waiting(*range(second % 4))], now=float(second))
        after = values(sampler.samples(NAMES, float(second)), SESSION_SECONDS)
        assert all(after[text] >= value for text, value in before.items())
        before = after


@pytest.mark.parametrize("name", [metric.name for metric in METRICS])
def test_no_collector_may_take_its_names(name: str, tmp_path: Path) -> None:
    kind = "counter" if name.endswith("_total") else "gauge"
    (tmp_path / "own.yaml").write_text(
        f"name: own\nhelp: Own.\nsql: SELECT 1 AS a\nmetrics: [{{name: {name}, type: {kind}, help: Own., column: a}}]\n"
    )
    with pytest.raises(CatalogError, match=name):
        load(tmp_path)


def test_who_waits_and_is_no_client_makes_an_incident_and_no_series() -> None:
    """Replay on a standby, an autovacuum worker."""
    sampler = Sampler()
    replay = {**row(0, ("Lock", "relation"), (5,)), "datid": None, "lock_sessions": None}
    looks = [sampler.add([row(1), replay], now=float(second)) for second in range(5)]
    found = sampler.samples(NAMES, 5.0)
    assert (looks[-1].lock_waiters, looks[-1].sessions) == (1, 1)
    assert looks[-1].longest_wait == pytest.approx(4)
    assert values(found, LOCK_SECONDS) == {}
    assert len(values(found, SESSION_SECONDS)) == 1


def test_a_session_whose_workers_wait_is_one_that_waits() -> None:
    sampler = Sampler()
    leader = row(1, ("IPC", "ExecuteGather"))
    workers = {**row(0, ("Lock", "relation"), (7,)), "lock_sessions": [7, 7]}
    looks = [sampler.add([leader, workers], now=float(second)) for second in range(5)]
    assert looks[-1].lock_waiters == 1
    assert values(sampler.samples(NAMES, 5.0), LOCK_SECONDS) == {'datname="shop"': pytest.approx(4)}
