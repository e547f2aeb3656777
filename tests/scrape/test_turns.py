"""Many targets begin one after another; none that hangs keeps the others waiting, and no page is late for it."""

import asyncio
import time
from contextlib import AsyncExitStack

from fake_session import FakeServer, collector, job, scraping
from virtual_time import in_virtual_time

from exporter.scrape.target import Target
from exporter.scrape.turns import Turns
from exporter.settings import Settings
from exporter.watch.loop import WatchOptions
from exporter.web.app import create_app

MANY = 100
TABLES, LOCKS = collector("tables"), collector("locks", vital=True)


async def begin(turns: Turns, began: list[float]) -> None:
    await turns.next()
    began.append(asyncio.get_running_loop().time())


def test_the_first_begins_at_once_and_the_others_one_after_another() -> None:
    async def scenario() -> list[float]:
        turns, began = Turns(), list[float]()
        await asyncio.gather(*(begin(turns, began) for _ in range(3)))
        await asyncio.sleep(60)
        await begin(turns, began)
        return began

    began = in_virtual_time(scenario())
    first = began[0]
    assert [round(at - first, 3) for at in began] == [0, 0.005, 0.01, 60.01]


async def test_a_loop_that_is_busy_is_given_time_but_not_for_ever() -> None:
    turns, began = Turns(), list[float]()
    tasks = [asyncio.create_task(begin(turns, began)) for _ in range(MANY)]
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        time.sleep(0.02)  # noqa: ASYNC251  # the work of others
        await asyncio.sleep(0)
    assert 2 <= len(began) <= 7
    for task in tasks:
        task.cancel()


def test_first_collections_are_spread_and_the_vital_few_are_not() -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        servers, turns, spread = [FakeServer() for _ in range(MANY)], Turns(), ([0], [0])
        async with AsyncExitStack() as stack:
            targets = [await stack.enter_async_context(scraping(each, TABLES, LOCKS, turns=turns)) for each in servers]
            scrapes = asyncio.gather(*(target.scrape(9.5) for target in targets))
            for _ in range(2):
                await asyncio.sleep(0.1)
                for found, name in zip(spread, ("tables", "locks"), strict=True):
                    found.append(sum(server.runs(name) for server in servers))
            assert all(job(report, name).success for report in await scrapes for name in ("tables", "locks"))
        return spread

    tables, locks = in_virtual_time(scenario())
    assert locks == [0, MANY, MANY]
    assert MANY / 10 < tables[1] < tables[2] < MANY / 2


def test_servers_that_hang_keep_no_other_waiting() -> None:
    async def scenario() -> bool:
        hung, turns = FakeServer(), Turns()
        hung.on_login(hangs=True)
        async with AsyncExitStack() as stack:
            hanging = [await stack.enter_async_context(scraping(hung, TABLES, turns=turns)) for _ in range(MANY)]
            healthy = await stack.enter_async_context(scraping(FakeServer(), TABLES, turns=turns))
            others = [asyncio.create_task(target.scrape(9.5)) for target in hanging]
            await asyncio.sleep(0)
            success = job(await healthy.scrape(1.0), "tables").success
            assert not any(report.up for report in await asyncio.gather(*others))
        return success

    assert in_virtual_time(scenario())


def test_a_page_does_not_wait_for_its_turn_beyond_its_deadline_and_says_so() -> None:
    async def scenario() -> None:
        turns = Turns()
        async with scraping(FakeServer(), TABLES, LOCKS, turns=turns) as target:
            others = [asyncio.create_task(turns.next()) for _ in range(1000)]
            report = await target.scrape(1.0)
            assert report.up
            assert report.seconds <= 1.05
            assert (job(report, "locks").success, job(report, "tables").success) == (True, False)
            await asyncio.gather(*others)
            assert job(await target.scrape(1.0), "tables").success

    in_virtual_time(scenario())


def test_the_exporter_begins_with_one_target_after_another() -> None:
    async def scenario() -> list[int]:
        server, found = FakeServer(), list[int]()
        turns, watch = Turns(), WatchOptions()
        async with AsyncExitStack() as stack:
            targets: dict[str, Target] = {
                f"t{number}": await stack.enter_async_context(scraping(server, TABLES, turns=turns, watch=watch))
                for number in range(MANY)
            }
            app = create_app(targets, Settings(targets=()))
            async with app.router.lifespan_context(app):
                for _ in range(2):
                    await asyncio.sleep(0.1)
                    found.append(len(server.sessions))
                await asyncio.sleep(1)
                found.append(len(server.sessions))
        return found

    first, second, all_of_them = in_virtual_time(scenario())
    assert MANY / 10 < first < second < MANY / 2
    assert all_of_them == MANY
