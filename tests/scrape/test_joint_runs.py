"""What is due together is asked by one statement, and what fails there costs only itself."""

import asyncio
from typing import Any

from fake_session import FakeServer, collector, job, scraping
from virtual_time import in_virtual_time

from exporter.errors import QueryError
from exporter.scrape.kept_worker import ALONE_SECONDS

ONE = [{"value": 1}]
NAMES = ("a", "b", "c")


def joining() -> FakeServer:
    server = FakeServer(joins=True)
    for name in NAMES:
        server.on(name, rows=ONE)
    return server


def three(**keys: Any) -> list[Any]:
    return [collector(name, **keys) for name in NAMES]


def test_from_the_second_run_on_one_statement_asks_for_all() -> None:
    async def scenario() -> None:
        server = joining()
        async with scraping(server, *three()) as target:
            await target.scrape(10)
            assert [server.runs(name) for name in (*NAMES, "joint")] == [1, 1, 1, 0]
            server.on("b", rows=[{"value": 7}])
            report = await target.scrape(10)
            assert [server.runs(name) for name in (*NAMES, "joint")] == [1, 1, 1, 1]
            found = job(report, "b")
            assert found.samples is not None
            assert (found.success, found.samples.families[0].values) == (True, [7])

    in_virtual_time(scenario())


def test_one_that_fails_costs_only_itself_and_all_are_asked_alone_for_a_while() -> None:
    async def scenario() -> None:
        server = joining()
        async with scraping(server, *three()) as target:
            await target.scrape(10)
            server.on("b", error=QueryError("lock_timeout", "canceling statement due to lock timeout"))
            report = await target.scrape(10)
            assert [job(report, name).success for name in NAMES] == [True, False, True]
            assert job(report, "b").errors == {"lock_timeout": 1}
            assert server.runs("joint") == 1
            server.off()
            for name in NAMES:
                server.on(name, rows=ONE)
            await target.scrape(10)
            assert server.runs("joint") == 1

    in_virtual_time(scenario())


def test_later_they_are_asked_together_again() -> None:
    async def scenario() -> None:
        server = joining()
        async with scraping(server, *three()) as target:
            await target.scrape(10)
            server.on("b", error=QueryError("query", "no"))
            await target.scrape(10)
            server.on("b", rows=ONE)
            await asyncio.sleep(ALONE_SECONDS)
            await target.scrape(10)  # b is good again
            report = await target.scrape(10)
            assert server.runs("joint") == 3
            assert all(job(report, name).success for name in NAMES)

    in_virtual_time(scenario())


def test_what_hangs_is_found_alone_and_suspended() -> None:
    """The statement that asked for all is given up; the next run blames the one that hangs."""

    async def scenario() -> None:
        server = joining()
        async with scraping(server, *three()) as target:
            await target.scrape(10)
            server.on("b", hangs=True)
            report = await target.scrape(30)
            assert [job(report, name).success for name in ("a", "c")] == [True, True]
            assert not job(report, "b").success
            for _ in range(3):
                report = await target.scrape(30)
            assert [job(report, name).success for name in ("a", "c")] == [True, True]
            assert job(report, "b").next_run_why == "suspended"
            assert server.runs("joint") == 1

    in_virtual_time(scenario())


def test_what_is_slow_has_parameters_or_is_due_at_other_times_is_asked_alone() -> None:
    async def scenario() -> None:
        server = joining()
        server.on("slow", rows=ONE, after=0.5)
        server.on("remembers", rows=ONE)
        server.on("cached", rows=ONE)
        others = collector("slow"), collector("remembers", remember=["value"]), collector("cached", cache=0.001)
        async with scraping(server, *three()[:1], *others) as target:
            for _ in range(3):
                await target.scrape(10)
                await asyncio.sleep(1)
            assert [server.runs(name) for name in ("a", "slow", "remembers", "cached", "joint")] == [3, 3, 3, 3, 0]

    in_virtual_time(scenario())


def test_what_reads_the_lock_table_is_asked_last_and_costs_no_other() -> None:
    """While a thousand sessions look for deadlocks, it keeps readers waiting beyond their timeout."""

    async def scenario() -> None:
        server = joining()
        locks = [collector(name, sources=["locks"]) for name in ("locks_a", "locks_b")]
        for each in locks:
            server.on(each.name, rows=ONE)
        async with scraping(server, *locks, *three()) as target:
            await target.scrape(10)
            for each in locks:
                server.on(each.name, hangs=True)
            report = await target.scrape(10)
            assert [job(report, name).success for name in NAMES] == [True, True, True]
            assert [server.runs(name) for name in NAMES] == [1, 1, 1]
            assert server.runs("joint") == 2

    in_virtual_time(scenario())


def test_an_error_that_nobody_expects_costs_none_of_the_others() -> None:
    async def scenario() -> None:
        server = joining()
        async with scraping(server, *three()) as target:
            await target.scrape(10)
            server.on("a", error=TypeError("float() argument must be a string or a real number, not 'list'"))
            for _ in range(3):
                report = await target.scrape(10)
            assert [job(report, name).next_run_why for name in NAMES].count("running") == 0
            assert job(report, "c").success

    in_virtual_time(scenario())


def test_a_users_collector_is_asked_alone_unless_it_says_otherwise() -> None:
    async def scenario() -> None:
        server = joining()
        async with scraping(server, *three(joins=False)) as target:
            for _ in range(3):
                await target.scrape(10)
            assert [server.runs(name) for name in (*NAMES, "joint")] == [3, 3, 3, 0]

    in_virtual_time(scenario())
