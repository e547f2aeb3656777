"""Workers, places and databases that are busy: nothing is forgotten, asked twice, or called what it is not."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from fake_session import FakeServer, FakeSession, collector, job, scraping
from virtual_time import in_virtual_time

from exporter.errors import ConnectError
from exporter.report import Report
from exporter.scrape.target import Target

ONE = [{"value": 1}]


async def every(target: Target, seconds: float, times: int, timeout: float = 9.5) -> AsyncIterator[tuple[int, Report]]:
    """Scrape at a rhythm; gives the number of each scrape and its report."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for number in range(times):
        await asyncio.sleep(max(began + number * seconds - clock(), 0))
        yield number, await target.scrape(timeout)


class Immortal(FakeSession):
    """A session whose backend ignores that it is terminated."""

    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Ask for it; those backends stay."""
        await super().end_abandoned(pids, timeout)
        return set(pids)


class Stubborn(FakeServer):
    """A server that ends no backend."""

    async def connect(self, database: str | None = None, timeout: float | None = None) -> FakeSession:
        """Open such a session."""
        session = await super().connect(database, timeout)
        session.__class__ = Immortal
        return session


def test_backends_that_do_not_end_count_as_long_as_they_are_seen_and_their_query_is_not_asked_again() -> None:
    async def scenario() -> None:
        server = Stubborn()
        server.on("slow", hangs=True)
        own = collector("slow", timeout=1), collector("a"), collector("v", vital=True)
        async with scraping(server, *own) as target:
            async for _, report in every(target, 15, 4 * 60 * 8):  # eight hours
                last = report
            assert (last.up, last.sessions, server.runs("slow")) == (True, 3, 1)
            assert job(last, "a").success
            assert job(last, "slow").next_run_why == "suspended"
            server.off()

    in_virtual_time(scenario())


def test_what_a_busy_worker_does_not_come_to_is_late_and_no_culprit_of_the_past_is_served() -> None:
    async def scenario() -> None:
        server = FakeServer()
        for name, value in (("sessions", 1), ("culprit", 111)):
            server.on(name, rows=[{"value": value}])
        vital = collector("culprit", vital=True, last_good=False), collector("sessions", vital=True)
        async with scraping(server, *vital) as target:
            async for number, report in every(target, 5, 5, 4.5):
                if number == 2:
                    server.on("sessions", after=20.0)  # its statement_timeout of 5 s ends it
                if number == 3:
                    server.on("culprit", rows=[{"value": 222}])
                found = job(report, "culprit")
                current = [222] if number > 3 else [111]
                assert found.samples is None or list(found.samples.families[0].values) == current

    in_virtual_time(scenario())


def test_a_late_query_in_the_database_of_the_dsn_costs_no_other_database() -> None:
    async def scenario() -> None:
        server = FakeServer(databases=("postgres", "shop"))
        for name in ("bloat", "tables"):
            server.on(name, rows=ONE)
        own = collector("bloat", timeout=60, cache=30), collector("tables", scope="database")
        async with scraping(server, *own) as target:
            ages = []
            async for number, report in every(target, 15, 8):
                ages.append(job(report, "tables", "shop").age or 0.0)
                if number == 1:
                    server.on("bloat", after=50.0, rows=ONE)
            assert max(ages) < 10

    in_virtual_time(scenario())


def test_a_server_whose_queries_all_keep_their_timeouts_is_up() -> None:
    async def scenario() -> None:
        server = FakeServer()
        vital = [f"v{number}" for number in range(6)]
        for name in (*vital, "sequences"):
            server.on(name, rows=ONE)
        own = collector("sequences", timeout=20), *(collector(name, vital=True) for name in vital)
        async with scraping(server, *own) as target:
            await target.scrape(4.5)
            for name in vital:
                server.on(name, after=4.9, rows=ONE)
            server.on("sequences", after=18, rows=ONE)
            ups = [report.up async for _, report in every(target, 5, 14, 4.5)]
            assert ups == [True] * 14

    in_virtual_time(scenario())


def test_a_database_that_is_being_visited_is_not_visited_ahead_of_its_time() -> None:
    async def scenario() -> None:
        server = FakeServer(databases=("postgres", "shop"))
        own = (collector(name, scope="database", timeout=60) for name in ("slow", "slower"))
        async with scraping(server, *own) as target:
            server.on("slow", database="shop", after=14.0, rows=ONE)
            server.on("slower", database="shop", after=40.0, rows=ONE)
            async for _ in every(target, 15, 5):
                assert sum(s.database == "shop" and not s.is_lost for s in server.sessions) <= 1

    in_virtual_time(scenario())


def test_an_early_visit_that_is_refused_fails_nothing_that_is_not_due() -> None:
    async def scenario() -> None:
        server = FakeServer(databases=("postgres", *(f"d{number}" for number in range(60))))
        server.on("tables", rows=ONE)
        async with scraping(server, collector("tables", scope="database", cache=300), collector("a")) as target:
            async for number, report in every(target, 15, 10):
                last = report
                if number == 3:
                    server.on_login(error=ConnectError("too_many_connections", "sorry, too many clients already"))
            assert [each.datname for each in last.jobs if each.collector == "tables" and not each.success] == []

    in_virtual_time(scenario())
