"""Queries with parameters: those that run in batches, and those that are told what their last run said."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fake_session import FakeServer, catalog, collector
from virtual_time import in_virtual_time

from exporter.catalog.model import Collector
from exporter.report import JobStatus
from exporter.scrape.target import Options, Target

BATCHES = {"by": "id", "rows": 10, "rank": "value"}


async def statuses(server: FakeServer, made: Collector, scrapes: int = 1) -> list[JobStatus]:
    """What becomes of one collector, a scrape every 15 s."""
    target = Target(catalog(made), server, Options(), "db1", asyncio.get_running_loop().time)
    found: list[JobStatus] = []
    for _ in range(scrapes):
        found += (await target.scrape(9.0)).jobs
        await asyncio.sleep(15)
    await target.close()
    return found


def batch(last: int, rows: int) -> list[Mapping[str, Any]]:
    """Of 25 rows, whose value is their number, and NULL for odd ones, those that follow."""
    return [{"id": i, "value": None if i % 2 else i} for i in range(last + 1, min(last + rows, 25) + 1)]


def test_batches_follow_each_other_and_the_rows_of_highest_rank_are_kept() -> None:
    async def run() -> None:
        server = FakeServer()
        server.on("a", rows=batch)
        [status] = await statuses(server, collector("a", labels=["id"], limit=3, batches=BATCHES))
        served = status.samples
        assert served
        assert server.runs("a") == 3
        [family] = served.families
        assert list(zip(family.labels, family.values, strict=True)) == [(f'id="{i}"', i) for i in (24, 22, 20)]
        assert served.truncated_rows == 12 - 3

    in_virtual_time(run())


def test_batches_that_hold_nothing_are_no_error() -> None:
    async def run() -> None:
        server = FakeServer()
        server.on("a", rows=[{"id": 1, "value": None}])
        [found] = await statuses(server, collector("a", labels=["id"], limit=3, batches=BATCHES))
        assert found.success
        assert found.samples
        assert not found.samples.families[0].values

    in_virtual_time(run())


def test_batches_end_at_the_time_limit_of_all_of_them() -> None:
    async def run() -> None:
        server = FakeServer()
        server.on("a", rows=lambda last, rows: [{"id": last + i, "value": 1} for i in range(1, rows + 1)], after=0.5)
        [found] = await statuses(server, collector("a", labels=["id"], limit=3, batches=BATCHES, timeout=2))
        assert (found.success, found.reason, found.samples) == (False, "timeout", None)
        assert server.runs("a") == 5

    in_virtual_time(run())


def test_a_query_is_told_what_its_last_run_said_and_null_at_first() -> None:
    async def run() -> None:
        server = FakeServer()
        told: list[object] = []

        def answer(seen: int | None) -> list[Mapping[str, Any]]:
            told.append(seen)
            return [{"value": 1, "seen": (seen or 0) + 1}]

        server.on("a", rows=answer)
        await statuses(server, collector("a", remember=["seen"]), scrapes=3)
        assert told == [None, 1, 2]

    in_virtual_time(run())
