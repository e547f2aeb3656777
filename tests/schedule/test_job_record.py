"""One job from run to run: what each outcome leaves behind."""

from typing import Any

import pytest
from clock import Clock
from fake_session import collector

from exporter.errors import QueryError, QueryReason
from exporter.planning.plan import Job
from exporter.report import JobStatus
from exporter.samples.model import Samples
from exporter.schedule.job_record import JobRecord, Outcome
from exporter.schedule.next_run import Failed, New, Running, Spacing, State, Suspended, Waiting


def run(record: JobRecord, clock: Clock, seconds: float = 0.0, error: QueryError | None = None, **more: Any) -> None:
    """One run that takes some seconds."""
    record.start(clock())
    clock.advance(seconds)
    record.record(Outcome(seconds, samples=None if error else Samples(), error=error, **more), clock())


def failed(record: JobRecord, clock: Clock, seconds: float = 0.0, reason: QueryReason = "timeout") -> None:
    run(record, clock, seconds, QueryError(reason, "no"))


def pause(record: JobRecord, clock: Clock) -> float:
    """The seconds until the job is due; let them pass."""
    before = clock()
    clock.advance(max(record.next_run.at - before, 0.0))
    assert record.is_due(clock())
    return clock() - before


def status(
    record: JobRecord, clock: Clock, *, is_expected: bool = False, cache: float = 0.0, last_good: bool = True
) -> JobStatus:
    job = Job(collector("a", cache=cache).model_copy(update={"last_good": last_good}), "postgres", "SELECT 1", ())
    return record.status(job, clock(), is_expected=is_expected, last_good=60.0)


def test_each_transition_has_its_state() -> None:
    clock, record = Clock(), JobRecord()
    states: list[State] = [record.state]
    record.start(clock())
    states.append(record.state)
    record.record(Outcome(0.5, samples=Samples()), clock())
    states.append(record.state)
    failed(record, clock, 2.0)
    states.append(record.state)
    assert record.suspend(clock()) == 60
    states.append(record.state)
    clock.advance(60)
    run(record, clock)
    states.append(record.state)
    record.expire()
    states.append(record.state)
    assert states == [
        New(),
        Running(1000, before=New()),
        Waiting(1000),
        Failed(1000, until=1004, failures=1),
        Suspended(1000, until=1062, failures=1, suspensions=1),
        Waiting(1062),
        New(),
    ]


def test_a_job_that_runs_is_not_due() -> None:
    clock, record = Clock(), JobRecord()
    record.start(clock())
    clock.advance(1000)
    assert not record.is_due(clock())


def test_pauses_double_up_to_eight_times_the_run_and_never_exceed_15_s() -> None:
    clock, record = Clock(), JobRecord()
    pauses = []
    for _ in range(5):
        failed(record, clock, 1.0)
        pauses.append(pause(record, clock))
    assert pauses == [1, 2, 4, 8, 8]
    failed(record, clock, 5.0)
    assert pause(record, clock) == 15


def test_a_success_ends_the_backoff() -> None:
    clock, record = Clock(), JobRecord()
    for _ in range(4):
        failed(record, clock, 1.0)
    run(record, clock)
    failed(record, clock, 1.0)
    assert pause(record, clock) == 1


def test_without_a_connection_a_job_is_retried_at_once_and_keeps_its_backoff() -> None:
    clock, record = Clock(), JobRecord()
    record.miss(QueryError("connection", "none"))
    assert record.is_due(clock())
    failed(record, clock, 4.0)
    record.miss(QueryError("connection", "none"))
    assert pause(record, clock) == 4
    assert dict(record.errors) == {"connection": 2, "timeout": 1}


def test_suspensions_double_up_to_ten_minutes_and_end_with_a_success() -> None:
    clock, record = Clock(), JobRecord()
    assert [record.suspend(clock()) for _ in range(6)] == [60, 120, 240, 480, 600, 600]
    assert pause(record, clock) == 600
    run(record, clock)
    assert record.suspend(clock()) == 60
    record.miss(QueryError("connection", "none"))
    assert pause(record, clock) == 60


def test_a_throttled_job_that_fails_costs_one_retry_not_a_whole_round() -> None:
    """One failure shall not cost a whole round; one that stays shall not cost more than the rounds."""
    clock, record = Clock(), JobRecord()
    record.space(Spacing(cache=60, visit=240))
    pauses = []
    for _ in range(5):
        failed(record, clock, reason="query")
        pauses.append(pause(record, clock))
    assert pauses == pytest.approx([57, 114, 171, 228, 228])


def test_throttling_moves_the_next_run_of_a_job_that_waits() -> None:
    clock, record = Clock(), JobRecord(Spacing(cache=60))
    run(record, clock)
    assert record.next_run.at == 1057
    record.space(Spacing(cache=60, throttle=200))
    assert (record.next_run.at, record.next_run.why) == (1190, "throttled")
    record.space(Spacing(cache=60))
    assert (record.next_run.at, record.next_run.why) == (1057, "cached")


def test_another_server_makes_it_due_also_while_it_runs() -> None:
    clock, record = Clock(), JobRecord(Spacing(cache=60))
    run(record, clock)
    record.start(clock())
    record.expire()
    assert record.state == Running(1000, before=New(), is_outdated=True)
    for is_suspended in (False, True):
        before = JobRecord()
        failed(before, clock)
        if is_suspended:
            before.suspend(clock())
        before.expire()
        assert (before.state, before.message) == (New(), "")


@pytest.mark.parametrize("error", [None, QueryError("query", "no")])
def test_nothing_is_served_of_a_server_that_another_one_has_replaced(error: QueryError | None) -> None:
    """Not even the result of a run that was under way there when the other one answered."""
    clock, record = Clock(), JobRecord(Spacing(cache=60))
    run(record, clock)
    assert status(record, clock).samples is not None
    record.start(clock())
    record.expire()
    samples = None if error else Samples()
    assert not record.record(Outcome(0.1, samples=samples, error=error), clock())
    found = status(record, clock)
    assert (found.samples, found.age, found.success, found.message) == (None, None, False, "late")
    assert (record.state, record.is_due(clock())) == (New(), True)
    run(record, clock)
    assert status(record, clock).success


def test_the_cost_of_a_run_is_the_median_of_three() -> None:
    """One run that met with a pause of the network says nothing; the total counts it all the same."""
    clock, record = Clock(), JobRecord()
    for seconds in (0.25, 5.0, 0.25, 0.5, 5.0):
        run(record, clock, server_seconds=seconds, rows=10)
        assert record.cost <= 0.5
    assert (record.server_seconds, record.rows) == (11.0, 50)


def test_a_last_good_result_is_served_until_it_is_too_old() -> None:
    clock, record = Clock(), JobRecord()
    run(record, clock)
    assert (status(record, clock).success, status(record, clock).samples) == (True, Samples())
    late = status(record, clock, is_expected=True)
    assert (late.success, late.samples, late.reason) == (False, Samples(), "late")
    failed(record, clock)
    clock.advance(60)
    kept = status(record, clock)
    assert (kept.success, kept.samples, kept.reason, kept.age) == (False, Samples(), "timeout", 60)
    clock.advance(1)
    assert status(record, clock).samples is None
    assert status(record, clock, cache=30).samples == Samples()


@pytest.mark.parametrize("spacing", [Spacing(cache=60, throttle=240), Spacing(cache=60, visit=240)])
def test_a_result_that_the_budget_keeps_is_not_too_old_before_the_next_is_due(spacing: Spacing) -> None:
    clock, record = Clock(), JobRecord()
    record.space(spacing)
    run(record, clock)
    assert status(record, clock, cache=60).interval == 240
    assert pause(record, clock) == pytest.approx(228)
    assert status(record, clock, is_expected=True, cache=60).samples
    failed(record, clock)
    assert status(record, clock, cache=60).samples


def test_a_result_that_names_a_culprit_is_not_served_once_it_is_past() -> None:
    clock, record = Clock(), JobRecord()
    run(record, clock)
    assert status(record, clock, last_good=False).samples == Samples()
    assert status(record, clock, last_good=False, is_expected=True).samples is None
    failed(record, clock)
    assert status(record, clock, last_good=False).samples is None
    run(record, clock)
    assert status(record, clock, last_good=False).samples == Samples()


def test_a_status_says_when_it_runs_next_and_why() -> None:
    clock, record = Clock(), JobRecord()
    assert (status(record, clock).next_run_seconds, status(record, clock).next_run_why) == (0, "new")
    record.space(Spacing(cache=60, throttle=200))
    run(record, clock)
    assert (status(record, clock).next_run_seconds, status(record, clock).next_run_why) == (190, "throttled")
    assert status(record, clock).interval == 200


def test_the_same_error_is_news_once() -> None:
    clock, record = Clock(), JobRecord()
    said = []
    for message in ("a", "a", "b"):
        record.start(clock())
        said.append(record.record(Outcome(0.0, error=QueryError("query", message)), clock()))
    assert said == [True, False, True]
