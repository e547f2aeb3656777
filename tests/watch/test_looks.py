"""When looks between scrapes are late or fail: which of it is an incident, and which is how they work."""

import asyncio
import statistics
from itertools import pairwise

import pytest
from fake_session import FakeServer, collector, scraping
from virtual_time import in_virtual_time

from exporter.errors import ConnectError, QueryError
from exporter.watch.loop import WatchOptions
from exporter.watch.own_load import OwnLoad

LOOK = {
    "datid": 1,
    "state": "active",
    "wait_event_type": None,
    "wait_event": None,
    "usesysid": 10,
    "application_name": "shop",
    "queryid": 1,
    "query": None,
    "sessions": 3,
    "lock_sessions": None,
    "lock_waiters": None,
    "slots": 97,
    "seconds": 0.0001,
}


def server_with_looks(after: float = 0.0) -> FakeServer:
    """A server on which a look takes some seconds."""
    server = FakeServer()
    server.on("wait_sampler", rows=[LOOK], after=after)
    return server


def test_a_slow_look_is_no_server_that_is_down() -> None:
    async def scenario() -> None:
        server = server_with_looks(after=2.5)
        async with scraping(server, collector("a"), watch=WatchOptions()) as target:
            target.start()
            for _ in range(4):
                assert (await target.scrape(9.5)).up
                await asyncio.sleep(15)
            assert "down" not in [incident.kind for incident in target.incidents]

    in_virtual_time(scenario())


def test_a_server_that_hangs_is_down_after_some_seconds() -> None:
    async def scenario() -> None:
        server = server_with_looks()
        async with scraping(server, collector("a"), watch=WatchOptions()) as target:
            target.start()
            await target.scrape(9.5)
            for query in ("wait_sampler", "vitals"):
                server.on(query, hangs=True)
            server.on_login(hangs=True)
            await asyncio.sleep(12)
            assert [incident.kind for incident in target.incidents] == ["down"]

    in_virtual_time(scenario())


def test_an_outage_ends_with_any_answer() -> None:
    async def scenario() -> None:
        server = server_with_looks()
        async with scraping(server, collector("a"), watch=WatchOptions()) as target:
            target.start()
            await target.scrape(9.5)
            for session in server.sessions:
                session.terminate()
            server.on_login(error=ConnectError("refused", "nobody listens"))
            await asyncio.sleep(20)
            server.off()
            server.on("wait_sampler", error=QueryError("permission", "denied"))
            await asyncio.sleep(30)
            assert [(incident.kind, incident.ended is not None) for incident in target.incidents] == [("down", True)]

    in_virtual_time(scenario())


@pytest.mark.parametrize("after", [0.5, 1.3, 1.9])
def test_looks_that_take_long_and_rest_accordingly_are_a_success(after: float) -> None:
    async def scenario() -> None:
        async with scraping(server_with_looks(after), collector("a"), watch=WatchOptions()) as target:
            target.start()
            await asyncio.sleep(20)
            for _ in range(100):
                await asyncio.sleep(0.93)
                [found] = [each for each in (await target.current(9.5)).jobs if each.collector == "wait_sampler"]
                assert found.success

    in_virtual_time(scenario())


def test_what_was_late_on_a_page_of_long_ago_is_no_incident_any_more() -> None:
    async def scenario() -> None:
        server = server_with_looks()
        async with scraping(server, collector("a"), watch=WatchOptions()) as target:
            target.start()
            server.on("a", error=QueryError("timeout", "canceling statement due to statement timeout"))
            for _ in range(2):
                await target.scrape(9.5)
                await asyncio.sleep(15)
            await asyncio.sleep(3600)
            assert [(incident.kind, incident.ended is not None) for incident in target.incidents] == [("late", True)]

    in_virtual_time(scenario())


@pytest.mark.parametrize(
    ("change", "looks"),
    [
        ({}, 60),
        ({"state": "idle"}, 10 + 25),
        ({"state": None}, 60),
        ({"state": "idle", "lock_waiters": [7]}, 60),
    ],
)
def test_a_server_where_nobody_is_at_work_is_looked_at_every_other_second(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], looks: int
) -> None:
    """What the role may not see may be at work."""
    monkeypatch.setattr("random.uniform", lambda least, most: (least + most) / 2)

    async def scenario() -> None:
        server = FakeServer()
        server.on("wait_sampler", rows=[LOOK | change])
        async with scraping(server, collector("a"), watch=WatchOptions()) as target:
            target.start()
            await asyncio.sleep(60)
            assert server.runs("wait_sampler") == pytest.approx(looks, abs=1)
            report = await target.scrape(9.5)
            assert {each.interval for each in report.jobs} == {0.0}

    in_virtual_time(scenario())


@pytest.mark.parametrize(("share", "looks"), [(0.2, 100), (0.5, 50), (1.0, 25)])
def test_a_process_that_is_busy_looks_less_often(monkeypatch: pytest.MonkeyPatch, share: float, looks: int) -> None:
    """With hundreds of targets, scrapes come first; the bound is on our side, whatever looks cost the servers."""
    monkeypatch.setattr("random.uniform", lambda least, most: (least + most) / 2)

    async def scenario() -> None:
        server = server_with_looks()
        clock = asyncio.get_running_loop().time
        load = OwnLoad(clock, cpu=lambda: share * clock())
        async with scraping(server, collector("a"), watch=WatchOptions(own_load=load)) as target:
            target.start()
            await asyncio.sleep(20)
            before = server.runs("wait_sampler")
            await asyncio.sleep(100)
            assert server.runs("wait_sampler") - before == pytest.approx(looks, abs=2)
            await target.scrape(9.5)
            await asyncio.sleep(20)
            [sampler] = [each for each in (await target.current(9.5)).jobs if each.collector == "wait_sampler"]
            assert sampler.success

    in_virtual_time(scenario())


def test_looks_are_in_step_with_nothing_that_is_periodic() -> None:
    """A burst of 0.3 s every ten seconds would be met always or never, by looks that are whole seconds apart."""

    async def scenario() -> None:
        server = FakeServer()
        looks: list[float] = []
        clock = asyncio.get_running_loop().time
        server.on("wait_sampler", rows=lambda: looks.append(clock()) or [LOOK])  # type: ignore[func-returns-value]
        async with scraping(server, collector("a"), watch=WatchOptions()) as target:
            target.start()
            await asyncio.sleep(2000)
        gaps = [after - before for before, after in pairwise(looks)]
        assert 0.5 <= min(gaps) < 0.6
        assert 1.4 < max(gaps) <= 1.52
        assert statistics.mean(gaps) == pytest.approx(1.0, abs=0.05)

    in_virtual_time(scenario())


def test_the_first_at_work_is_looked_at_every_second_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda least, most: (least + most) / 2)

    async def scenario() -> None:
        server = FakeServer()
        server.on("wait_sampler", rows=[LOOK | {"state": "idle"}])
        async with scraping(server, collector("a"), watch=WatchOptions()) as target:
            target.start()
            await asyncio.sleep(60)
            server.on("wait_sampler", rows=[LOOK])
            before = server.runs("wait_sampler")
            await asyncio.sleep(20)
            assert server.runs("wait_sampler") - before == pytest.approx(19, abs=1)

    in_virtual_time(scenario())
