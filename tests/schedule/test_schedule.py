"""Which jobs run when: the schedule of one target, without a server and without waiting."""

import logging

import pytest
from clock import Clock
from fake_session import catalog, collector

from exporter.catalog.model import Collector
from exporter.errors import QueryError
from exporter.planning.plan import Job, plan
from exporter.planning.server import Server
from exporter.samples.model import Samples
from exporter.schedule.cost_budget import PLANNED_SHARE
from exporter.schedule.job_record import Outcome
from exporter.schedule.schedule import Schedule

HOME = "postgres"


def schedule(
    clock: Clock, *collectors: Collector, databases: tuple[str, ...] = (HOME,), budget: float = 0.0
) -> Schedule:
    """A schedule of these collectors on one server."""
    made = Schedule(clock, cost_budget=budget)
    adopt(made, *collectors, databases=databases)
    return made


def adopt(
    of: Schedule, *collectors: Collector, databases: tuple[str, ...] = (HOME,), in_recovery: bool = False
) -> None:
    server = Server((18, 0), in_recovery, HOME, databases)
    of.adopt(plan(catalog(*collectors), server), HOME, databases)


def run(of: Schedule, clock: Clock, job: Job, seconds: float = 0.0, error: QueryError | None = None) -> None:
    of.start(job)
    clock.advance(seconds)
    of.record(job, Outcome(seconds, seconds, samples=None if error else Samples(), error=error))


def run_all(of: Schedule, clock: Clock, seconds: float = 0.0) -> None:
    for job in of.plan.jobs:
        run(of, clock, job, seconds)


def due(of: Schedule, *, is_vital: bool = False) -> list[str]:
    return [job.collector.name for job in of.due(is_vital=is_vital)]


def test_vital_jobs_and_the_rest_are_due_apart() -> None:
    of = schedule(Clock(), collector("a"), collector("v", vital=True))
    assert (due(of), due(of, is_vital=True)) == (["a"], ["v"])


def test_what_ran_quickest_comes_first() -> None:
    clock = Clock()
    of = schedule(clock, collector("slow"), collector("quick"))
    for job, seconds in zip(of.plan.jobs, (2.0, 1.0), strict=True):
        run(of, clock, job, seconds)
    assert due(of) == ["quick", "slow"]


def test_a_cached_job_is_due_again_when_its_cache_runs_out() -> None:
    clock = Clock()
    of = schedule(clock, collector("every_scrape"), collector("cached", cache=60))
    run_all(of, clock)
    assert due(of) == ["every_scrape"]
    clock.advance(57)
    assert due(of) == ["every_scrape", "cached"]


@pytest.mark.parametrize(
    ("keys", "seconds", "interval"),
    [
        ({}, 0.0003, 30.0),
        ({}, 0.0029, 30.0),
        ({}, 0.0031, 60.0),
        ({}, 0.01, 120.0),
        ({}, 0.1, 300.0),
        ({"fresh": False}, 0.0003, 300.0),
        ({"cache": 10}, 0.0003, 10.0),
        ({"cache": 0}, 0.0003, 0.0),
    ],
)
def test_what_costs_little_is_read_anew_before_its_cache_runs_out(
    keys: dict[str, object], seconds: float, interval: float
) -> None:
    clock = Clock()
    of = schedule(clock, collector("a", **{"cache": 300, "fresh": True} | keys))
    run_all(of, clock, seconds)
    run_all(of, clock, seconds)
    assert of.cache(of.plan.jobs[0]) == pytest.approx(interval)


@pytest.mark.parametrize(("seconds", "interval"), [(0.05, 30.0), (0.2, 300.0)])
def test_after_a_cold_run_it_is_read_once_more_to_see_what_it_costs(seconds: float, interval: float) -> None:
    clock = Clock()
    of = schedule(clock, collector("a", cache=300, fresh=True))
    run_all(of, clock, seconds)
    assert of.cache(of.plan.jobs[0]) == pytest.approx(interval)


def test_elsewhere_a_cache_holds_since_each_visit_is_a_login() -> None:
    clock = Clock()
    of = schedule(clock, collector("a", cache=300, fresh=True, scope="database"), databases=(HOME, "shop"))
    run_all(of, clock, 0.0003)
    assert {job.database: of.cache(job) for job in of.plan.jobs} == {HOME: pytest.approx(30), "shop": 300}


def test_a_plan_for_another_role_drops_what_does_not_run_there_and_keeps_the_rest() -> None:
    clock = Clock()
    collectors = (collector("both", cache=60), collector("on_primary", role="primary", cache=60))
    of = schedule(clock, *collectors)
    run_all(of, clock)
    adopt(of, *collectors, in_recovery=True)
    assert [job.collector.name for job in of.plan.jobs] == ["both"]
    assert due(of) == []
    of.forget()
    adopt(of, *collectors)
    assert due(of) == ["on_primary"]


def test_another_server_makes_everything_due() -> None:
    clock = Clock()
    of = schedule(clock, collector("a", cache=600), collector("v", vital=True, cache=600))
    run_all(of, clock)
    of.expire()
    assert (due(of), due(of, is_vital=True)) == (["a"], ["v"])


def test_what_a_page_expects_is_stale_until_it_has_run() -> None:
    clock = Clock()
    of = schedule(clock, collector("a"))
    [job] = of.plan.jobs
    run(of, clock, job)
    assert of.status(job).success
    of.expect([job])
    assert (of.status(job).success, of.status(job).reason) == (False, "late")
    run(of, clock, job)
    assert of.status(job).success


def test_no_page_waits_for_what_is_no_longer_planned() -> None:
    clock = Clock()
    of = schedule(clock, collector("a"))
    [job] = of.plan.jobs
    of.expect([job])
    adopt(of, collector("b"))
    of.forget()
    adopt(of, collector("a"))
    assert of.expected(of.plan.jobs) == []


@pytest.mark.parametrize(
    ("intervals", "average"), [([15] * 20, 15.0), ([60] * 20, 60.0), ([15, 15, 3600], 100.5), ([1] * 30, 1.0)]
)
def test_the_scrape_interval_is_an_average_that_a_night_does_not_spoil(intervals: list[float], average: float) -> None:
    clock = Clock()
    of = schedule(clock)
    of.begin_scrape()
    for seconds in intervals:
        clock.advance(seconds)
        of.begin_scrape()
    assert of.scrape_interval == pytest.approx(average, rel=0.01)


def test_the_most_expensive_job_is_put_apart_until_all_keep_within_the_budget() -> None:
    clock = Clock()
    of = schedule(clock, collector("cheap"), collector("dear"), budget=0.01)
    cheap, dear = of.plan.jobs
    run(of, clock, cheap, 0.001)
    run(of, clock, dear, 0.6)
    of.throttle()
    assert (of.status(cheap).next_run_why, of.status(dear).next_run_why) == ("cached", "throttled")
    apart = of.status(dear).interval
    assert 0.6 / apart + 0.001 / 15 == pytest.approx(PLANNED_SHARE * 0.01)
    assert of.status(cheap).interval == 0


def test_a_first_run_that_is_cheap_throttles_nothing_and_the_second_one_tells(caplog: pytest.LogCaptureFixture) -> None:
    """On a new connection each costs many times what it costs later: nineteen were throttled at a cold start."""
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    of = schedule(clock, *(collector(f"c{i}") for i in range(20)), budget=0.01)
    run_all(of, clock, 0.04)
    of.throttle()
    assert {of.status(job).interval for job in of.plan.jobs} == {0}
    run_all(of, clock, 0.001)
    of.throttle()
    assert {of.status(job).interval for job in of.plan.jobs} == {0}
    assert caplog.records == []
    for _ in range(2):
        run_all(of, clock, 0.04)
    of.throttle()
    assert all(of.status(job).interval > 15 for job in of.plan.jobs)
    [line] = caplog.records
    assert line.getMessage() == "20 collectors are throttled by the cost budget"


def test_a_first_run_in_another_database_counts() -> None:
    """Each visit there is a new connection, so the second one costs no less."""
    clock = Clock()
    of = schedule(clock, collector("t", scope="database"), databases=(HOME, "shop"), budget=0.001)
    run_all(of, clock, 0.05)
    of.throttle()
    assert [of.status(job).interval > 15 for job in of.plan.jobs] == [False, True]


def test_visits_are_lined_up_where_something_is_due() -> None:
    clock = Clock()
    databases = (HOME, "a", "b")
    of = schedule(clock, collector("t", scope="database", cache=60), databases=databases)
    for job in of.plan.jobs:
        if job.database != "b":
            run(of, clock, job)
    of.line_up_visits(stale=set(), visiting=set())
    assert of.rotation.next(early=False) == "b"
    assert of.rotation.next(early=False) is None


def test_a_database_whose_contents_are_unknown_is_visited_though_nothing_is_due() -> None:
    of = schedule(Clock(), collector("s"), databases=(HOME, "a"))
    of.line_up_visits(stale={"a"}, visiting=set())
    assert of.rotation.next(early=False) == "a"


def test_a_database_that_is_being_visited_is_not_lined_up_again() -> None:
    of = schedule(Clock(), collector("t", scope="database"), databases=(HOME, "a"))
    of.line_up_visits(stale=set(), visiting={"a"})
    assert of.rotation.next(early=False) is None


def test_a_visit_looks_ahead_to_what_is_due_well_before_the_next_one() -> None:
    clock = Clock()
    of = schedule(
        clock,
        collector("often", scope="database", cache=60),
        collector("soon", scope="database", cache=100),
        collector("later", scope="database", cache=600),
        databases=(HOME, "a"),
    )
    run_all(of, clock)
    of.line_up_visits(stale=set(), visiting=set())
    clock.advance(58)
    assert [job.collector.name for job in of.on_visit("a")] == ["often", "soon"]


def test_without_a_connection_what_was_due_fails_and_is_due_again() -> None:
    of = schedule(Clock(), collector("a"))
    of.expect(of.due(is_vital=False))
    of.miss(of.due(is_vital=False), QueryError("connection", "no server"))
    [status] = of.statuses()
    assert (status.success, status.reason, dict(status.errors)) == (False, "connection", {"connection": 1})
    assert due(of) == ["a"]
