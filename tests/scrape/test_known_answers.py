"""An answer that has not changed is not read again; whatever its samples follow from besides is heeded."""

import asyncio
from typing import Any

from fake_session import ROLE, FakeServer, collector, job, scraping
from virtual_time import in_virtual_time

from exporter.report import JobStatus
from exporter.samples.model import Samples
from exporter.scrape.target import Target

NAMES = ("a", "b")


def joining(**rows: Any) -> FakeServer:
    server = FakeServer(joins=True)
    for name in NAMES:
        server.on(name, rows=rows.get(name, [{"value": 1}]))
    return server


async def third(target: Target, name: str = "a") -> tuple[Samples, JobStatus]:
    """What two scrapes more have of a collector: by the second one the answer of the first is known."""
    await target.scrape(10)
    before = job(await target.scrape(10), name).samples
    assert before is not None
    await asyncio.sleep(31)  # it was learned again meanwhile what the server is
    return before, job(await target.scrape(10), name)


def labels(found: tuple[object, JobStatus]) -> str:
    """The labels of its only sample."""
    [text] = found[1].samples.families[0].labels if found[1].samples else ()
    return text


def test_the_same_answer_is_the_same_result_and_a_new_one() -> None:
    async def scenario() -> None:
        server = joining()
        async with scraping(server, *map(collector, NAMES)) as target:
            before, now = await third(target)
            assert now.samples is before
            assert (now.success, now.age, now.returned_rows) == (True, 0.0, 3)
            server.on("a", rows=[{"value": 2}, {"value": 2}])
            changed = job(await target.scrape(10), "a")
            assert changed.samples is not None
            assert (changed.samples.families[0].values, changed.returned_rows) == ([2], 5)
            assert (changed.rejected, changed.samples.rejected) == ({"duplicate": 1}, {"duplicate": 1})
            assert job(await target.scrape(10), "a").rejected == {"duplicate": 2}

    in_virtual_time(scenario())


def test_a_new_name_is_on_the_page_although_the_answer_is_the_same() -> None:
    async def scenario() -> None:
        server = joining(a=[{"who": ROLE, "value": 1}], b=[{"who": ROLE + 1, "value": 1}])
        by_role = {"labels": ["who"], "names": {"who": "role"}}
        async with scraping(server, *(collector(name, **by_role) for name in NAMES)) as target:
            assert labels(await third(target)) == 'who="pgvigil"'
            assert labels(await third(target, "b")) == f'who="{ROLE + 1}"'
            server.roles = {ROLE: "renamed", ROLE + 1: "named"}
            await asyncio.sleep(31)
            report = await target.scrape(10)
            assert labels((None, job(report, "a"))) == 'who="renamed"'
            assert labels((None, job(report, "b"))) == 'who="named"'

    in_virtual_time(scenario())


def test_what_remembers_more_than_the_answer_reads_it_each_time() -> None:
    async def scenario() -> None:
        metric = {"name": "pg_a_total", "type": "counter", "help": "Of a test.", "column": "value", "sum": True}
        server = joining()
        async with scraping(server, collector("a", metrics=[metric]), collector("b")) as target:
            before, now = await third(target)
            assert now.samples is not before
            assert now.samples == before

    in_virtual_time(scenario())


def test_after_a_failure_the_same_answer_is_a_result_again() -> None:
    async def scenario() -> None:
        server = joining()
        async with scraping(server, *map(collector, NAMES)) as target:
            await third(target)
            server.on("a", rows=[{"value": "no number"}])
            assert job(await target.scrape(10), "a").rejected == {"malformed": 1}
            server.on("a", rows=[{"value": 1}])
            found = job(await target.scrape(10), "a")
            assert found.samples is not None
            assert (found.success, found.samples.families[0].values) == (True, [1])

    in_virtual_time(scenario())
