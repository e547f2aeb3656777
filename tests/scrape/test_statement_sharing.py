"""Statements that share a series: the exporter's own and excluded ones are parts of the whole, and no members."""

import asyncio
import re
from collections.abc import Mapping
from itertools import pairwise

import pytest
from fake_session import ROLE, FakeServer, collector, job, scraping
from pages import MONITOR, Page, adds_up, named, scraped, target, uncached
from patience import until
from virtual_time import in_virtual_time

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster
from exporter.errors import QueryError
from exporter.planning.server import Extension
from exporter.planning.statement_filter import StatementFilter
from exporter.report import Report
from exporter.scrape.server_cost import LOOK_EVERY_SECONDS

CALLS = "pg_statements_calls_total"
COUNTS = ("calls", "exec_seconds", "wal_bytes", "temp_blocks_written")
TAGGED = "SELECT queryid::text FROM pg_stat_statements WHERE query ~ '/\\* pgvigil:\\w+ \\*/\\s*$'"


def parts(found: Page, count: str = "calls") -> Mapping[tuple[str, str, str], float]:
    """The series of statements: database, user and query identifier."""
    series = found.series(f"pg_statements_{count}_total")
    return {(had["datname"], had["usename"], had["queryid"]): value for had, value in series}


async def test_our_own_statements_are_one_part_from_a_cold_start_on(server: Cluster) -> None:
    server.execute("SELECT pg_stat_statements_reset()")
    watched = target(server.dsn(user=MONITOR), uncached(), statement_text_length=160)
    found: list[Page] = []
    try:
        for _ in range(5):
            found.append(await scraped(watched))
            watched.texts.read_newcomers()
            await asyncio.sleep(0.1)
        server.execute("SELECT 1 AS mine", user=MONITOR)
        mine = str(server.value("SELECT queryid FROM pg_stat_statements WHERE query = 'SELECT $1 AS mine'"))

        async def shown() -> Page | None:
            page = await scraped(watched)
            return page if ("postgres", MONITOR, mine) in parts(page) else None

        found.append(await until(shown))  # the role may be another tool's as well
    finally:
        await watched.close()
    tagged = {row["queryid"] for row in server.query(TAGGED)}
    assert len(tagged) > 50
    for page in found:
        assert [key for key in parts(page) if key[-1] == "pgvigil"] == [("", "", "pgvigil")]
        assert [key for key in parts(page) if key[-1] in tagged] == []
        assert sum(parts(page).values()) == page.value("pg_statements_all_calls_total")
        assert adds_up(page)
    for before, after in pairwise(found):
        for count in COUNTS:
            now = parts(after, count)
            assert all(now[key] >= value for key, value in parts(before, count).items() if key in now)
        assert parts(after)["", "", "pgvigil"] > parts(before)["", "", "pgvigil"]
    assert not any("pgvigil:" in labels["query"] for labels, _ in found[-1].series("pg_statement_info"))


async def test_excluded_statements_count_in_the_rest_and_the_totals(
    server: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    excluded = StatementFilter(("batch_[a-z]*", "nobody_*"), ("queue", "nowhere"))
    collectors = (named(load(BUILT_IN, COMPATIBILITY), name) for name in ("statements", "stat_statements"))
    both = Catalog(tuple(each.model_copy(update={"cache": 0}) for each in collectors))
    server.execute("CREATE ROLE batch_load LOGIN; CREATE ROLE till LOGIN")
    server.execute("CREATE DATABASE queue")
    watched = target(server.dsn(user=MONITOR), both, excluded_statements=excluded)
    try:
        before = await scraped(watched)
        for user, database in (("batch_load", "postgres"), ("till", "queue"), ("till", "postgres")):
            for _ in range(5):
                server.execute("SELECT pg_sleep(0.02) AS slow", database=database, user=user)
        after = await scraped(watched)
    finally:
        await watched.close()
        server.execute("DROP DATABASE queue WITH (FORCE)")
        server.execute("DROP ROLE batch_load; DROP ROLE till")
    [(till, ran)] = after.series(CALLS, usename="till")
    assert (till["datname"], ran) == ("postgres", 5)
    assert after.series(CALLS, usename="batch_load") == after.series(CALLS, datname="queue") == []
    assert {had["user"] for had, _ in after.series("pg_stat_statements_calls_total")} >= {"till", "postgres"}
    assert after.series("pg_stat_statements_calls_total", user="batch_load") == []
    assert after.value(CALLS, queryid="other") >= before.value(CALLS, queryid="other") + 10
    assert sum(parts(after).values()) == after.value("pg_statements_all_calls_total")
    assert adds_up(after)
    assert [record.message for record in caplog.records if "matches nothing" in record.message] == [
        "statements_exclude_users matches nothing: nobody_*",
        "statements_exclude_databases matches nothing: nowhere",
    ]


def calls(report: Report) -> dict[str, float]:
    """The calls of each part by its user and query identifier, and those of all under ''."""
    samples = job(report, "statements").samples
    assert samples
    found: dict[str, float] = {}
    for family in samples.families:
        keys = (",".join(filter(None, re.findall(r'"(.*?)"', labels))) for labels in family.labels)
        found |= {key: float(value or 0) for key, value in zip(keys, family.values, strict=True)}
    return found


def test_statements_that_are_known_as_ours_later_move_and_nothing_falls() -> None:
    """Their texts cannot be read at first; those that do not run again move as well."""
    ran = {(ROLE, 1): 5, (ROLE, 2): 7, (ROLE, 3): 1, (11, 1): 9}
    numbers = {"dbid": 1, "toplevel": True, "generation": 0, "exec_seconds": 1.0, "plan_seconds": 0.0}
    numbers |= {"shared_blks_hit": 0, "shared_blks_read": 0}
    texts = {1: "SELECT 1\n/* pgvigil:locks */", 2: "SET jit = off\n/* pgvigil:session */", 3: "SELECT 'not ours'"}
    metric = {"name": CALLS, "type": "counter", "help": "A.", "column": "calls", "total": "all_calls_total"}
    made = collector(
        "statements",
        extension="pg_stat_statements",
        labels=["userid", "queryid"],
        statements=True,
        limit=3,
        ledger={"key": ["userid", "dbid", "queryid", "toplevel", "generation"], "rank": "calls"},
        metrics=[metric],
    )

    async def scenario() -> None:
        server = FakeServer(extensions={"pg_stat_statements": Extension((1, 11), "public")})
        server.on(
            "statements", rows=lambda: [{"userid": u, "queryid": q, "calls": n} | numbers for (u, q), n in ran.items()]
        )
        server.on("own_texts", error=QueryError("timeout", "canceling statement due to statement timeout"))
        async with scraping(server, made) as watched:
            before = calls(await watched.scrape(10))
            server.on("own_texts", rows=lambda _, ids: [{"queryid": int(i), "query": texts[int(i)]} for i in ids])
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            ran[ROLE, 1] += 1
            after = calls(await watched.scrape(10))
            asked = server.runs("own_texts")
            await asyncio.sleep(30)
            assert calls(await watched.scrape(10)) == after
            assert server.runs("own_texts") == asked
        assert before == {"10,1": 5, "10,2": 7, "11,1": 9, "pgvigil": 0, "other": 1, "": 22}
        assert after == {"10,3": 0, "11,1": 9, "pgvigil": 13, "other": 1, "": 23}

    in_virtual_time(scenario())


async def test_every_statement_of_ours_is_known_by_its_tag(server: Cluster) -> None:
    """The driver asks none of its own either, which it does about types that it does not know."""
    server.execute("SELECT pg_stat_statements_reset()")
    watched = target(server.dsn(user=MONITOR))
    try:
        await scraped(watched)
        await scraped(watched)
    finally:
        await watched.close()
    texts = server.query(
        "SELECT query FROM pg_stat_statements WHERE userid = $1::regrole AND query NOT LIKE '%pgvigil:%'", MONITOR
    )
    assert [text for (text,) in texts] == []
