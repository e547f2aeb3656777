"""Databases, extensions, grants and statistics that come, go and change, and what people call and write things."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
from clients import client, until, waiting
from faults.harness import both, exporting, failing, timed, until_whole, vital, witnessed
from pages import MONITOR, Page, adds_up, read, uncached
from serving import serving
from standby import restart

from exporter.catalog.load import BUILT_IN, load
from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster

CALLS = "pg_statements_calls_total"
ALL_CALLS = "pg_statements_all_calls_total"


@pytest.fixture(autouse=True)
def foreseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test makes the exporter stumble over its own feet."""
    yield
    assert "nobody foresaw" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.fixture
def quick_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is looked up at every scrape, instead of every half minute or five."""
    monkeypatch.setattr("exporter.connections.discovery.DIRECTORY_SECONDS", 0.0)
    monkeypatch.setattr("exporter.connections.discovery.CONTENTS_SECONDS", 0.0)


def everywhere(folder: Path, sql: str = "SELECT 1 AS value", timeout: float = 5) -> Catalog:
    """The built-in collectors and one that runs in every database at every scrape: pg_everywhere."""
    (folder / "everywhere.yaml").write_text(
        f"name: everywhere\nhelp: Own.\nscope: database\ntimeout: {timeout}\nsql: {sql}\n"
        "metrics:\n  - {name: pg_everywhere, type: gauge, help: Own., column: value}\n"
    )
    return load(BUILT_IN, folder)


def datnames(found: Page, name: str = "pg_everywhere") -> set[str]:
    """The databases that a metric has series of."""
    return {labels["datname"] for labels, _ in found.series(name)}


def success(found: Page, datname: str) -> float:
    """Whether the collector that runs everywhere did well in one database."""
    return found.value("pgvigil_collector_success", collector="everywhere", datname=datname)


def troubled(found: Page) -> set[str]:
    """The databases in which something fails; an empty name for what is asked once for all."""
    return {labels["datname"] for labels, ok in found.series("pgvigil_collector_success") if not ok}


def fallen(before: Page, after: Page, prefix: str) -> dict[str, list[tuple[float, float]]]:
    """The counters of a subject that fell, or whose series is gone."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, samples in before.samples.items():
        if name.startswith(prefix) and name.endswith("_total"):
            now = {frozenset(labels.items()): value for labels, value in after.series(name)}
            pairs = [(value, now.get(frozenset(labels.items()), -1.0)) for labels, value in samples]
            if wrong := [pair for pair in pairs if pair[1] < pair[0]]:
                found[name] = wrong
    return found


async def test_a_database_dropped_between_discovery_and_connect_costs_only_itself(
    cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = cluster()
    server.execute("CREATE DATABASE doomed")
    server.execute("CREATE DATABASE kept")
    async with exporting(server.dsn(user=MONITOR), everywhere(tmp_path)) as watched, witnessed(server):
        before = await until_whole(watched)
        server.execute("DROP DATABASE doomed")
        for found in await both(watched):
            assert found.value("pg_up") == 1
            assert failing(found) == {"everywhere"}
            assert (success(found, "postgres"), success(found, "kept"), success(found, "doomed")) == (1, 1, 0)
            assert found.value("pgvigil_collector_age_seconds", collector="everywhere", datname="doomed") > 0
        monkeypatch.setattr("exporter.connections.discovery.DIRECTORY_SECONDS", 0.0)
        after = await until_whole(watched, scrapes=3)
    assert datnames(before) == {"postgres", "kept", "doomed"}
    assert datnames(after) == {"postgres", "kept"}
    assert after.series("pgvigil_collector_success", datname="doomed") == []


async def test_a_database_that_is_being_renamed_is_not_waited_for(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """A login waits for that, outlasts us, and is counted as a victim: the only one, of an alert of our own making."""
    server = cluster()
    for name in ("moving", "still"):
        server.execute(f"CREATE DATABASE {name}")
    async with client(server, "renamer") as renamer:
        await renamer.execute("BEGIN; ALTER DATABASE moving RENAME TO moved")
        async with exporting(server.dsn(user=MONITOR), everywhere(tmp_path)) as watched, witnessed(server):
            for _ in range(3):
                for found in await both(watched):
                    assert (success(found, "still"), success(found, "moving")) == (1, 0)
                    assert found.value("pg_lock_waiters") == 0
                    assert found.series("pg_lock_blocker_blocked_sessions") == []
                assert server.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
            await renamer.execute("ROLLBACK")


async def test_a_database_dropped_while_we_are_in_it_costs_only_itself(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    server = cluster()
    server.execute("CREATE DATABASE doomed")
    sql = "SELECT 1 AS value FROM pg_sleep(CASE current_database() WHEN 'doomed' THEN 3 ELSE 0 END)"
    async with exporting(server.dsn(user=MONITOR), everywhere(tmp_path, sql)) as watched, witnessed(server):
        scrape = asyncio.create_task(timed(watched, 9.5))
        inside = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'doomed' AND wait_event = 'PgSleep'"
        await until(lambda: bool(server.value(inside)))
        server.execute("DROP DATABASE doomed WITH (FORCE)")
        found = (await scrape).page
    assert found.value("pg_up") == 1
    assert failing(found).isdisjoint(vital())
    assert (success(found, "postgres"), success(found, "doomed")) == (1, 0)
    assert troubled(found) == {"doomed"}


async def test_databases_that_are_created_and_renamed_are_noticed(
    cluster: Callable[..., Cluster], tmp_path: Path, quick_facts: None
) -> None:
    server = cluster()
    server.execute("CREATE DATABASE old")
    async with exporting(server.dsn(user=MONITOR), everywhere(tmp_path)) as watched, witnessed(server):
        assert datnames(await until_whole(watched)) == {"postgres", "old"}
        server.execute("ALTER DATABASE old RENAME TO new")
        server.execute("CREATE DATABASE fresh")
        await timed(watched, 9.5)
        found = await until_whole(watched)
    assert datnames(found) == {"postgres", "new", "fresh"}
    assert "old" not in datnames(found, "pg_database_commits_total")
    assert {"new", "fresh"} <= datnames(found, "pg_database_commits_total")
    assert found.series("pgvigil_collector_success", datname="old") == []


async def test_databases_that_nobody_or_only_we_may_not_connect_to_cost_nothing(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Templates, one closed to all, one closed to us; what can be known from outside is known all the same."""
    server = cluster()
    for name, statement in {
        "pattern": "ALTER DATABASE pattern IS_TEMPLATE true",
        "closed": "ALTER DATABASE closed ALLOW_CONNECTIONS false",
        "private": "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
        "crowded": "ALTER DATABASE crowded CONNECTION LIMIT 0",
    }.items():
        server.execute(f"CREATE DATABASE {name}")
        server.execute(statement)
    async with exporting(server.dsn(user=MONITOR), everywhere(tmp_path)) as watched, witnessed(server):
        for found in await both(watched):
            assert found.value("pg_up") == 1
            assert datnames(found) == {"postgres"}
            assert troubled(found) <= {"crowded"}
            assert {"pattern", "closed", "private", "crowded"} <= datnames(found, "pg_database_xid_age")


async def test_a_database_that_is_closed_to_us_and_opened_again_goes_and_returns(
    cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = cluster()
    server.execute("CREATE DATABASE private")
    async with exporting(server.dsn(user=MONITOR), everywhere(tmp_path)) as watched, witnessed(server):
        assert datnames(await until_whole(watched)) == {"postgres", "private"}
        server.execute("REVOKE CONNECT ON DATABASE private FROM PUBLIC")
        for found in await both(watched):
            assert found.value("pg_up") == 1
            assert (success(found, "postgres"), success(found, "private")) == (1, 0)
        monkeypatch.setattr("exporter.connections.discovery.DIRECTORY_SECONDS", 0.0)
        await timed(watched, 9.5)
        assert datnames(await until_whole(watched)) == {"postgres"}
        server.execute("GRANT CONNECT ON DATABASE private TO PUBLIC")
        assert datnames(await until_whole(watched)) >= {"postgres"}
        assert datnames(await until_whole(watched)) == {"postgres", "private"}


@pytest.mark.parametrize("major", [13, 18])
async def test_pg_stat_statements_may_go_and_return(
    cluster: Callable[..., Cluster], major: int, quick_facts: None
) -> None:
    server = cluster(major)
    async with exporting(server.dsn(user=MONITOR), uncached("statements")) as watched, witnessed(server):
        before = await until_whole(watched)
        server.execute("DROP EXTENSION pg_stat_statements")
        for found in await both(watched):
            assert found.value("pg_up") == 1
            assert failing(found) <= {"statements", "statements_info"}
        gone = await until_whole(watched)
        server.execute("CREATE EXTENSION pg_stat_statements")
        after = await until_whole(watched)
    assert before.value(ALL_CALLS) > 0
    assert gone.series("pgvigil_collector_success", collector="statements") == []
    assert gone.series(ALL_CALLS) == []
    assert after.value(ALL_CALLS) > 0


@pytest.mark.parametrize("major", [13, 15, 17, 18])
async def test_pg_stat_statements_may_be_old_and_updated(
    cluster: Callable[..., Cluster], major: int, quick_facts: None
) -> None:
    """From the version of PostgreSQL 12, which has nothing for us, over that of 13, to the newest."""
    server = cluster(major)
    newest = str(server.value("SELECT default_version FROM pg_available_extensions WHERE name = 'pg_stat_statements'"))
    server.execute("DROP EXTENSION pg_stat_statements; CREATE EXTENSION pg_stat_statements VERSION '1.7'")
    async with exporting(server.dsn(user=MONITOR), uncached("statements")) as watched, witnessed(server):
        too_old = await until_whole(watched)
        for _ in range(300):
            server.value("SELECT 1")
        reason = (await watched.scrape(9.5)).skipped["statements"]
        server.execute("ALTER EXTENSION pg_stat_statements UPDATE TO '1.8'")
        pages = [await until_whole(watched)]
        if newest != "1.8":
            server.execute(f"ALTER EXTENSION pg_stat_statements UPDATE TO '{newest}'")
            await timed(watched, 1.5)  # the query of before may have run in the middle of the update
            pages.append(await until_whole(watched))
    assert too_old.series(ALL_CALLS) == []
    assert reason == "has no query for pg_stat_statements 1.7"
    assert all(found.value(ALL_CALLS) > 0 for found in pages)
    grown = pages[-1].value(ALL_CALLS) - pages[0].value(ALL_CALLS)
    assert 0 <= grown < 200, "what was counted under the old version was counted again under the new one"
    assert bool(pages[-1].series("pg_statements_dealloc_total")) == (major >= 14)


async def test_pg_stat_statements_may_move_to_another_schema_and_another_database(
    cluster: Callable[..., Cluster], quick_facts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = cluster()
    server.execute("CREATE DATABASE tools")
    server.execute('CREATE SCHEMA "My Tools"; GRANT USAGE ON SCHEMA "My Tools" TO pgvigil')
    async with exporting(server.dsn(user=MONITOR), uncached("statements")) as watched, witnessed(server):
        before = await until_whole(watched)
        server.execute('ALTER EXTENSION pg_stat_statements SET SCHEMA "My Tools"')
        await timed(watched, 1.5)
        moved = await until_whole(watched)
        server.execute("DROP EXTENSION pg_stat_statements")
        server.execute("CREATE EXTENSION pg_stat_statements", database="tools")
        await timed(watched, 9.5)
        elsewhere = await until_whole(watched)
        elsewhere = await until_whole(watched)
    for found in (before, moved, elsewhere):
        assert found.value(ALL_CALLS) > 0
        assert found.value("pgvigil_collector_success", collector="statements") == 1
    assert fallen(before, moved, "pg_statements_all") == {}
    assert fallen(moved, elsewhere, "pg_statements_all") == {}


@pytest.mark.parametrize("major", [13, 18])
async def test_pg_stat_statements_that_is_not_preloaded_costs_only_itself(
    cluster: Callable[..., Cluster], major: int
) -> None:
    server = cluster(major, {"shared_preload_libraries": ""})
    async with exporting(server.dsn(user=MONITOR)) as watched, witnessed(server):
        for found in await both(watched):
            assert found.value("pg_up") == 1
            assert failing(found) == {"statements", *(["statements_info"] if major > 13 else [])}
            assert found.value("pgvigil_collector_errors_total", collector="statements", reason="query") >= 1
            assert found.series(ALL_CALLS) == []
            assert found.value("pg_connections_used") > 0
        server.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        await asyncio.to_thread(restart, server)
        await asyncio.sleep(1)
        found = await until_whole(watched, apart=3)
        assert found.value(ALL_CALLS) > 0


@pytest.mark.parametrize("major", [13, 18])
async def test_no_counter_of_the_ledger_falls_when_statistics_are_reset(
    cluster: Callable[..., Cluster], major: int
) -> None:
    server = cluster(major)
    pages = []
    async with exporting(server.dsn(user=MONITOR), uncached("statements")) as watched, witnessed(server):
        for reset in ("pg_stat_reset()", "pg_stat_statements_reset()", "pg_stat_reset_shared('bgwriter')") * 2:
            for i in range(5):
                server.value(f"SELECT {', '.join(['1'] * (i + 1))}")
            pages.append(await until_whole(watched))
            server.execute(f"SELECT {reset}")
            pages += await both(watched)
    for before, after in pairwise(pages):
        assert failing(after) == set()
        assert fallen(before, after, "pg_statements_all") == {}
        assert fallen(before, after, "pg_xid") == {}
        assert fallen(before, after, "pgvigil_") == {}
        assert adds_up(after)
        kept = {labels["queryid"] for labels, _ in after.series(CALLS)}
        for labels, value in before.series(CALLS):
            if labels["queryid"] in kept:
                assert after.value(CALLS, **labels) >= value


@pytest.mark.parametrize("major", [13, 18])
async def test_grants_that_are_revoked_cost_what_they_gave_and_return(
    cluster: Callable[..., Cluster], major: int
) -> None:
    server = cluster(major)
    for _ in range(20):
        server.value("SELECT count(*) FROM pg_class WHERE relkind = 'r'")
    async with exporting(server.dsn(user=MONITOR), uncached("statements")) as watched, witnessed(server):
        before = await until_whole(watched)
        server.execute("REVOKE pg_monitor FROM pgvigil")
        without = await both(watched)
        server.execute("GRANT pg_monitor TO pgvigil")
        after = await until_whole(watched)
    for found in without:
        assert found.value("pg_up") == 1
        reasons = {labels["reason"] for labels, n in found.series("pgvigil_collector_errors_total") if n}
        assert reasons <= {"permission", "query"}
        assert {"database_transactions", "locks"} & failing(found) == set()
        refused = {"collector": "connections", "reason": "permission"}
        assert found.value("pgvigil_collector_errors_total", datname="", **refused) >= 1, (
            "what it cannot see is no zero"
        )
        assert fallen(before, found, "pg_statements_all") == {}
    assert fallen(before, after, "pg_statements_all") == {}
    grown = after.value(ALL_CALLS) - before.value(ALL_CALLS)
    assert grown < 1000, "what could not be read for a while was counted twice"
    assert adds_up(after)


@pytest.mark.parametrize("major", [13, 18])
async def test_five_thousand_statements_with_evictions_add_up_and_nothing_falls(
    cluster: Callable[..., Cluster], major: int
) -> None:
    server = cluster(major, {"pg_stat_statements.max": "500"})
    pages: list[Page] = []
    async with (
        exporting(server.dsn(user=MONITOR), uncached("statements", "statements_info")) as watched,
        witnessed(server),
    ):
        await until_whole(watched)
        async with client(server, "shop") as shop:
            for batch in range(10):
                await shop.execute("; ".join(distinct(number) for number in range(batch * 500, batch * 500 + 500)))
                pages.append((await timed(watched, 9.5 if batch % 2 else 1.5)).page)
    for before, after in pairwise(pages):
        assert failing(after) == set()
        assert adds_up(after)
        assert fallen(before, after, "pg_statements_all") == {}
        assert after.value(CALLS, queryid="other") >= before.value(CALLS, queryid="other") or members(before) - members(
            after
        )
        for labels, value in before.series(CALLS):
            now = [v for _, v in after.series(CALLS, **labels)]
            assert all(v >= value for v in now)
        assert len(after.series(CALLS)) <= 100 + len(("pgvigil", "other"))
    assert 500 < pages[-1].value(ALL_CALLS) < 8000
    if major > 13:
        assert pages[-1].value("pg_statements_dealloc_total") > 0


def distinct(number: int) -> str:
    """One of some thousand statements that pg_stat_statements tells apart."""
    first, second = divmod(number, 71)
    return f"SELECT ROW({', '.join(['1'] * (first + 1))}), ROW({', '.join(['1'] * (second + 1))})"


def members(found: Page) -> set[str]:
    """The statements that have series of their own."""
    return {labels["queryid"] for labels, _ in found.series(CALLS)}


NASTY = [
    "new\nline",
    "carriage\rreturn",
    'a" b\\',
    '"} 1\npg_up 0\n#',
    "\x1b[2J\x07",
    "\u2028\u0085",
    "%s %n {} {0.__class__}",
    "'; DROP ROLE pgvigil; --",
    "<script>alert(1)</script>",
    "é" * 31,
    "🐘" * 15 + "abc",
    " ",
]


def quoted(name: str) -> str:
    """The name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


async def test_whatever_things_are_called_the_page_says_it_and_nothing_else(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    server = cluster()
    for name in NASTY:
        server.execute(f"CREATE DATABASE {quoted(name)}")
        server.execute(f"CREATE ROLE {quoted(name)} LOGIN")
        server.execute(f"CREATE SCHEMA {quoted(name)}; CREATE TABLE {quoted(name)}.{quoted(name)} ()", database=name)
    async with AsyncExitStack() as open_sessions:
        for name in NASTY:
            session = await asyncpg.connect(server.dsn(name, name))
            open_sessions.push_async_callback(session.close)
            await session.execute("SELECT set_config('application_name', $1, false)", name)
        async with exporting(server.dsn(user=MONITOR), everywhere(tmp_path)) as watched, witnessed(server):
            for found in [await until_whole(watched), *await both(watched)]:
                assert found.value("pg_up") == 1
                assert datnames(found) == {"postgres", *NASTY}
                for name in NASTY:
                    assert found.value("pg_table_live_tuples", datname=name, schemaname=name, relname=name) == 0
                    assert found.value("pg_sessions", datname=name, usename=name, state="idle") == 1


@pytest.mark.parametrize("form", ["console", "json"])
async def test_no_name_and_no_error_makes_more_than_one_short_line_in_the_log(
    cluster: Callable[..., Cluster], tmp_path: Path, form: str
) -> None:
    """Nor a web page that runs somebody's script."""
    server = cluster()
    for name in NASTY[:5]:
        server.execute(f"CREATE DATABASE {quoted(name)}")
    everywhere(tmp_path, "SELECT (current_database() || repeat(E'x\\n', 500000))::int AS value")
    with serving(dsn=server.dsn(user=MONITOR), collectors_dir=str(tmp_path), log_format=form) as exporter:
        async with client(server, "locker", NASTY[0]) as locker:
            await locker.execute("BEGIN; LOCK TABLE pg_catalog.pg_extension IN ACCESS EXCLUSIVE MODE")
            exporter.get()
        for name in NASTY[:2]:
            server.execute(f"DROP DATABASE {quoted(name)}")
        found = read(exporter.get().text)
        front = exporter.get("/").text + exporter.get("/collectors").text
        exporter.process.terminate()
        _, log = exporter.process.communicate(timeout=20)
    assert failing(found) >= {"everywhere"}
    assert found.value("pg_up") == 1
    assert "<script>" not in front
    assert len(front) < 200_000
    lines = log.split("\n")[:-1]
    assert len(lines) >= 5
    assert max(map(len, lines)) < 2000
    for line in lines:
        assert line.isprintable(), line
        assert re.match(r"\d{4}-\d\d-\d\d " if form == "console" else r'\{"time": ', line), line


async def test_a_text_of_a_megabyte_stays_out_of_pages_and_incidents(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """As a query that waits for a lock, as a statement, as a label."""
    (tmp_path / "long.yaml").write_text(
        "name: long\nhelp: Own.\nlabels: [text]\nsql: SELECT repeat('é\"', 500000) || n AS text, n AS value"
        " FROM generate_series(1, 2) AS n\n"
        "metrics:\n  - {name: pg_long, type: gauge, help: Own., column: value}\n"
    )
    server = cluster(settings={"track_activity_query_size": "1MB"})
    server.execute("CREATE TABLE busy (id int)")
    query = f"SELECT /* {'comment' * 1000} */ '{'x' * 1_000_000}' AS text, {', '.join(['id'] * 1000)} FROM busy"
    async with (
        exporting(server.dsn(user=MONITOR), load(BUILT_IN, tmp_path)) as watched,
        witnessed(server),
        client(server, "locker") as locker,
    ):
        await locker.execute("BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        async with waiting(server, "waiter", query):
            for _ in range(3):
                await asyncio.sleep(1)
                found = (await timed(watched, 1.5)).page
            await until(lambda: any(incident.kind == "lock_wait" for incident in watched.incidents))
        await locker.execute("ROLLBACK")
        server.query(query)
        for _ in range(3):
            found = (await timed(watched, 1.5)).page
        await watched.scrape(9.5)
        started = time.process_time()
        listed = (await watched.statements(9.5)).statements
        spent = time.process_time() - started
        incidents = json.dumps([incident.whole() for incident in watched.incidents])
    assert found.value("pg_up") == 1
    assert failing(found) == set()
    assert len(found.text) < 1_000_000
    [(labels, value)] = found.series("pg_long")
    assert (len(labels["text"]), labels["text"][-1], value) == (1024, "…", 1)
    assert found.value("pgvigil_collector_rejected_rows_total", collector="long", reason="duplicate") >= 1
    assert "lock_wait" in incidents
    assert len(incidents) < 50_000
    assert "xxxx" not in incidents
    assert spent < 2, "seconds of CPU"
    texts = {row.queryid: row.text for row in listed}
    assert all(len(texts[queryid]) <= 20_000 for queryid in members(found))
