"""What the runs of one job came to."""

import time

import pytest

from exporter.errors import QueryError, QueryReason
from exporter.samples.model import Samples
from exporter.schedule.job_state import Attempts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def failed(attempts: Attempts, clock: list[float], seconds: float, reason: QueryReason = "timeout") -> None:
    attempts.begin()
    clock[0] += seconds
    attempts.fail(QueryError(reason, "no"), ran=True)


def rest(attempts: Attempts, clock: list[float]) -> float:
    """How long the job rests from now on."""
    began = clock[0]
    while not attempts.due(0):
        clock[0] += 0.125
    return clock[0] - began


def test_a_job_that_fails_rests_longer_each_time_but_never_long(clock: list[float]) -> None:
    attempts = Attempts()
    rests = []
    for _ in range(5):
        failed(attempts, clock, 1.0)
        rests.append(rest(attempts, clock))
    assert rests == [1, 2, 4, 8, 8]
    failed(attempts, clock, 5.0)
    assert rest(attempts, clock) == 15


def test_success_ends_the_resting(clock: list[float]) -> None:
    attempts = Attempts()
    for _ in range(4):
        failed(attempts, clock, 1.0)
    attempts.begin()
    attempts.succeed(Samples())
    failed(attempts, clock, 1.0)
    assert rest(attempts, clock) == 1


def test_a_job_that_found_no_connection_need_not_rest(clock: list[float]) -> None:
    attempts = Attempts()
    attempts.fail(QueryError("connection", "no"), ran=False)
    assert attempts.due(0)


def test_a_query_that_does_not_end_rests_longer_each_time(clock: list[float]) -> None:
    attempts = Attempts()
    assert [attempts.suspend() for _ in range(6)] == [60, 120, 240, 480, 600, 600]
    assert rest(attempts, clock) == 600


def test_the_budget_of_cost_holds_a_job_back_beyond_its_cache(clock: list[float]) -> None:
    attempts = Attempts()
    attempts.begin()
    attempts.succeed(Samples())
    attempts.interval = 100.0
    clock[0] += 90
    assert not attempts.due(60)
    clock[0] += 10
    assert attempts.due(60)


def test_cost_is_time_less_the_way_there_and_back(clock: list[float]) -> None:
    attempts = Attempts()
    attempts.begin()
    clock[0] += 0.75
    attempts.book(10, rtt=0.5)
    assert (attempts.cost, attempts.seconds, attempts.rows) == (0.25, 0.25, 10)
    attempts.begin()
    clock[0] += 0.25
    attempts.book(10, rtt=0.5)
    assert (attempts.seconds, attempts.rows) == (0.25, 20)


def test_one_run_that_met_with_a_pause_says_nothing_of_the_cost(clock: list[float]) -> None:
    attempts = Attempts()
    for seconds in (0.25, 5.0, 0.25, 0.5, 5.0):
        attempts.begin()
        clock[0] += seconds
        attempts.book(1, rtt=0.0)
        assert attempts.cost <= 0.5
    assert attempts.seconds == 11.0


def test_what_is_put_apart_and_fails_is_tried_again_sooner_but_not_for_ever(clock: list[float]) -> None:
    """One failure shall not cost a whole round; one that stays shall not cost more than the rounds."""
    attempts = Attempts()
    pauses = []
    for _ in range(5):
        attempts.begin()
        attempts.fail(QueryError("query", "why"), ran=True)
        failed_at = clock[0]
        while not attempts.due(60.0, apart=240.0):
            clock[0] += 1
        pauses.append(clock[0] - failed_at)
    assert pauses == [57, 114, 171, 228, 228]
