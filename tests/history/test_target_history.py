"""What is kept of a real server minute by minute, and of one that is scripted."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from clients import client
from clock import Clock
from fake_session import FakeServer, collector, scraping
from pages import MONITOR, target, uncached
from patience import until
from virtual_time import in_virtual_time

from exporter.connections.off_loop import OffLoop
from exporter.demo.cluster import Cluster
from exporter.history.file import HistoryFile
from exporter.history.minute import Span
from exporter.history.target_history import HistoryStatus, TargetHistory
from exporter.logs import TargetLog
from exporter.scrape.target import Target
from exporter.watch.active_sessions import Activity
from exporter.watch.loop import WatchOptions
from exporter.watch.statement_matching import OTHER

T = TypeVar("T")

DAY = 24 * 3600.0
LOG = TargetLog(logging.getLogger("exporter.history"), "main")


STORED: dict[str, object] = {
    "id": "main-1-down", "target": "", "kind": "down", "started": "1970-01-01T01:00:00.000+00:00", "ended": None,
    "seconds": 60.0, "summary": "gone", "snapshots": [], "seen": 3660.0,
}  # fmt: skip
"""An incident as an earlier process left it."""


class AtOnce(OffLoop):
    """Works on the loop: virtual time knows no threads."""

    async def call(self, what: str, work: Callable[[], T], timeout: float) -> T:
        """Return what a call returns."""
        return work()


def history(of: Target, path: Path, clock: Clock, calls: OffLoop | None = None) -> TargetHistory:
    """The history of a target in a file of a test."""
    return TargetHistory(of, lambda: path, DAY, LOG, clock, calls or AtOnce())


@asynccontextmanager
async def watched(server: Cluster) -> AsyncIterator[Target]:
    """A target whose sessions are looked at."""
    found = target(server.dsn(user=MONITOR), uncached("statements"), watch=WatchOptions(), statement_text_length=160)
    found.start()
    try:
        yield found
    finally:
        await found.close()


async def test_a_minute_holds_who_was_active_what_ran_and_the_gauges(server18: Cluster, tmp_path: Path) -> None:
    clock = Clock(6000.0)
    server18.execute("SELECT pg_stat_statements_reset()")  # an alias does not tell it from another test's pg_sleep
    async with watched(server18) as seen, client(server18, "nightly") as session:
        kept = history(seen, tmp_path / "main.sqlite", clock, OffLoop())

        async def next_minute() -> Span:
            assert (await seen.scrape(60)).up
            seen.texts.read_newcomers()
            await until(lambda: all(seen.texts.listed().values()))
            clock.advance(60)
            await kept.note()
            [latest] = await kept.spans([(clock() - 60, clock())])
            return latest

        for _ in range(3):
            await session.execute("SELECT pg_sleep(0.5) AS counted_by_the_minute")
        await next_minute()
        assert kept.latest_work(await seen.known()) == ({}, 0)
        for _ in range(5):
            await session.execute("SELECT pg_sleep(0.7) AS counted_by_the_minute")
        found = await next_minute()

        assert [*found.waits] == [6060]
        asleep = {a: seconds for a, seconds in found.sessions.items() if a.application == "nightly"}
        assert {(a.wait_event_type, a.wait_event) for a in asleep} >= {("Timeout", "PgSleep")}
        assert 1 < sum(asleep.values()) < 10
        [(statement, use)] = [
            (each, use)
            for each, use in found.statements.items()
            if "counted_by_the_minute" in found.texts.get(each, "")
        ]
        assert use.calls == 5
        assert 3.5 <= use.seconds < 5
        assert statement[:2] == ("postgres", "postgres")
        assert "0.7" not in found.texts[statement]
        assert found.gauges["pg_connections_used"][6060] >= 2
        *_, (latest, seconds) = kept.work.latest
        assert latest[statement] == use
        assert seconds == pytest.approx(60, abs=40)  # of two readings, each some seconds old

        for _ in range(2):
            await session.execute("SELECT pg_sleep(0.7) AS counted_by_the_minute")
        await seen.scrape(60)
        clock.advance(30)
        works, span = kept.latest_work(await seen.known())
        assert works[statement].calls == 7, "while the minutes are few, the one under way counts"
        assert span == pytest.approx(seconds + 30, abs=20)

        next_process = history(seen, tmp_path / "main.sqlite", clock, OffLoop())
        await next_process.restore()
        assert next_process.work.before[statement] == use
        clock.advance(3600)
        await next_process.restore()
        assert next_process.work.before == {}


def test_an_incident_goes_on_as_the_same_one_in_the_next_process(tmp_path: Path) -> None:
    clock, path = Clock(time.time()), tmp_path / "main.sqlite"

    async def process(server: FakeServer, seconds: float) -> list[tuple[str, bool, str]]:
        """Watch for some seconds; return the incidents, the newest first."""
        async with scraping(server, collector("a"), watch=WatchOptions()) as watched:
            kept = history(watched, path, clock)
            await kept.restore()
            watched.start()
            await watched.scrape(9)
            await asyncio.sleep(seconds)
            await kept.note()
            return [(each.id, each.ended is None, each.summary) for each in watched.incidents]

    down = FakeServer()
    for query in ("wait_sampler", "vitals"):
        down.on(query, hangs=True)
    down.on_login(hangs=True)
    [(first, is_open, _)] = in_virtual_time(process(down, 20))
    assert is_open
    clock.advance(30)
    [(second, is_open, _)] = in_virtual_time(process(down, 40))
    assert (second, is_open) == (first, True)
    clock.advance(30)
    [(third, is_open, _)] = in_virtual_time(process(FakeServer(), 60))
    assert (third, is_open) == (first, False)
    [stored] = HistoryFile(path).incidents()
    assert stored["id"] == first
    assert stored["ended"] is not None


def test_one_of_long_ago_has_ended_when_it_was_last_seen(tmp_path: Path) -> None:
    clock, path = Clock(100_000.0), tmp_path / "main.sqlite"
    HistoryFile(path).write(None, [STORED | {"id": "older", "seen": 100_000 - DAY - 1}, STORED | {"seen": 99_000.0}])

    async def restored() -> list[tuple[str, str | None]]:
        async with scraping(FakeServer(), collector("a"), watch=WatchOptions()) as watched:
            await history(watched, path, clock).restore()
            return [(each.id, each.ended) for each in watched.incidents]

    [(name, ended)] = in_virtual_time(restored())
    assert name == "main-1-down"
    assert ended is not None
    assert ended.startswith("1970-01-02T03:30:00")


def test_a_disk_that_fails_is_said_once_and_again_when_it_is_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, folder = Clock(6000.0), tmp_path / "state"

    async def scenario() -> list[bool]:
        found = []
        async with scraping(FakeServer(), collector("a")) as watched:
            kept = history(watched, folder / "main.sqlite", clock)
            for minute in range(4):
                if minute == 3:
                    folder.mkdir()
                clock.advance(60)
                await kept.note()
                found.append(kept.status.success)
        return found

    with caplog.at_level("INFO", "exporter.history"):
        assert in_virtual_time(scenario()) == [False, False, False, True]
    said = [(record.message, getattr(record, "reason", "")) for record in caplog.records]
    assert [message for message, _ in said] == ["history is not kept", "history is kept again"]
    assert "No such file or directory" in said[0][1]


@pytest.mark.parametrize(
    "bad",
    ["not json", "[]", "{}", '{"id": "x", "seen": 99000}', '{"id": 1, "seen": "soon"}'],
    ids=["text", "list", "nothing", "part", "types"],
)
def test_an_incident_that_cannot_be_read_costs_itself_only(tmp_path: Path, bad: str) -> None:
    clock, path = Clock(80_000.0), tmp_path / "main.sqlite"
    snapshot = {"at": "1970-01-02T03:00:00.000+00:00", "summary": "gone", "of_a_later_version": 1}
    HistoryFile(path).write(None, [STORED | {"snapshots": [snapshot]}])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO incident VALUES ('bad', 79000, ?)", (bad,))

    async def restored() -> list[tuple[str, int]]:
        async with scraping(FakeServer(), collector("a"), watch=WatchOptions()) as watched:
            await history(watched, path, clock).restore()
            return [(each.id, len(each.snapshots)) for each in watched.incidents]

    assert in_virtual_time(restored()) == [("main-1-down", 1)]


def test_one_of_a_clock_that_was_ahead_does_not_go_on(tmp_path: Path) -> None:
    clock, path = Clock(5000.0), tmp_path / "main.sqlite"
    HistoryFile(path).write(None, [STORED | {"seen": 3960.0 + DAY, "started": "1970-01-02T01:00:00.000+00:00"}])

    async def restored() -> list[tuple[str | None, float]]:
        async with scraping(FakeServer(), collector("a"), watch=WatchOptions()) as watched:
            await history(watched, path, clock).restore()
            return [(each.ended, each.seconds) for each in watched.incidents]

    [(ended, seconds)] = in_virtual_time(restored())
    assert ended is not None
    assert seconds == 360


def test_a_clock_that_is_set_back_counts_no_minute_twice(tmp_path: Path) -> None:
    clock, path = Clock(6000.0), tmp_path / "main.sqlite"

    async def scenario() -> None:
        async with scraping(FakeServer(), collector("a"), watch=WatchOptions()) as watched:
            assert watched.watch
            kept = history(watched, path, clock)
            for step in (60, 60, -120, 60, 60, 60):
                watched.watch._sampler._recent[Activity(OTHER, "web", "CPU", "")] = 60.0
                clock.advance(step)
                await kept.note()

    in_virtual_time(scenario())
    [found] = HistoryFile(path).spans([(0, 1e9)])
    assert {at: waits["CPU"] for at, waits in found.waits.items()} == {6000: 60.0, 6060: 60.0, 6120: 60.0}


def test_the_minute_under_way_is_kept_when_the_process_ends(tmp_path: Path) -> None:
    clock, path = Clock(6000.0), tmp_path / "main.sqlite"

    async def process(seconds: float) -> None:
        async with scraping(FakeServer(), collector("a"), watch=WatchOptions()) as watched:
            assert watched.watch
            kept = history(watched, path, clock)
            watched.watch._sampler._recent[Activity(OTHER, "web", "CPU", "")] = seconds
            clock.advance(20)
            await kept.note(ends=True)

    in_virtual_time(process(15.0))
    in_virtual_time(process(10.0))  # the next process, within the same minute
    [found] = HistoryFile(path).spans([(0, 1e9)])
    assert found.waits == {6000: {"CPU": 25.0}}


class Slow(AtOnce):
    """A disk that takes a second, and whose calls are joined by whoever makes them again meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: dict[str, asyncio.Task[Any]] = {}

    async def call(self, what: str, work: Callable[[], T], timeout: float) -> T:
        if what not in self.under_way:

            async def done() -> T:
                await asyncio.sleep(1)
                del self.under_way[what]
                return work()

            self.under_way[what] = asyncio.create_task(done())
        found: T = await self.under_way[what]
        return found


def test_the_end_waits_for_what_is_still_being_written(tmp_path: Path) -> None:
    clock, path = Clock(6000.0), tmp_path / "main.sqlite"

    async def scenario() -> None:
        async with scraping(FakeServer(), collector("a"), watch=WatchOptions()) as watched:
            assert watched.watch
            kept = history(watched, path, clock, Slow())
            watched.watch._sampler._recent[Activity(OTHER, "web", "CPU", "")] = 15.0
            clock.advance(60)
            writing = asyncio.create_task(kept.note())
            await asyncio.sleep(0.5)
            watched.watch._sampler._recent[Activity(OTHER, "web", "CPU", "")] = 10.0
            clock.advance(5)
            await kept.note(ends=True)
            await writing

    in_virtual_time(scenario())
    [found] = HistoryFile(path).spans([(0, 1e9)])
    assert found.waits == {6000: {"CPU": 15.0}, 6060: {"CPU": 10.0}}


def test_a_disk_that_stays_full_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, path = Clock(6000.0), tmp_path / "main.sqlite"
    HistoryFile(path).write(None)

    async def scenario() -> HistoryStatus:
        async with scraping(FakeServer(), collector("a"), watch=WatchOptions()) as watched:
            assert watched.watch
            kept = history(watched, path, clock)
            await kept.restore()
            assert kept._kept
            kept._kept._most_bytes = path.stat().st_size  # no page more
            for _ in range(5):
                for number in range(500):
                    watched.watch._sampler._recent[Activity(OTHER, f"application {number}", "CPU", "")] = 60.0
                clock.advance(60)
                await kept.note()
            return kept.status

    with caplog.at_level("INFO", "exporter.history"):
        status = in_virtual_time(scenario())
    assert not status.success
    assert "full" in status.message
    assert [record.message for record in caplog.records] == ["history is not kept"]
