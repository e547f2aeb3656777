"""One scrape: complete, on time and honest, whatever single parts do. Real servers throughout."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from clients import client, waiting
from pages import MONITOR, Page, compatible, named, page, scraped, target, written
from patience import until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as text_parser

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Catalog, Collector
from exporter.demo.cluster import Cluster
from exporter.scrape.target import Target

PATIENT = 60.0
"""Seconds for a scrape that has to be whole on a busy machine as well."""


def own(folder: Path, **queries: str) -> Catalog:
    """The built-in collectors and some of one metric each: pg_NAME, from the query's column `value`."""
    for name, sql in queries.items():
        limit = "" if "timeout:" in sql else "timeout: 2\n"
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\nhelp: Own.\nsql: {sql}\n{limit}labels: []\nmetrics:\n"
            f"  - {{name: pg_{name}, type: gauge, help: Own., column: value}}\n"
        )
    return load(BUILT_IN, folder)


@pytest.fixture
async def make(server18: Cluster) -> AsyncIterator[Callable[..., Target]]:
    """Makes targets of the newest server that are closed afterwards."""
    made: list[Target] = []

    def of(catalog: Catalog | None = None, dsn: str | None = None, **options: float) -> Target:
        made.append(target(dsn or server18.dsn(user=MONITOR), catalog, **options))
        return made[-1]

    yield of
    for each in made:
        await each.close()


async def test_every_collector_succeeds_on_a_healthy_server(server: Cluster) -> None:
    found = page(server.dsn(user=MONITOR))
    assert found.value("pg_up") == 1
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
    assert found.series("pgvigil_collector_rejected_rows_total") == []
    assert {value for _, value in found.series("pg_up_reason")} == {0}


async def test_both_formats_say_the_same(server: Cluster) -> None:
    """One report of a real server with all there is, read back by both of prometheus-client's parsers."""
    watched = target(server.dsn(user=MONITOR), load(BUILT_IN, COMPATIBILITY))
    report = await watched.scrape(9)
    await watched.close()
    found = []
    for accept, parse in (("", text_parser), ("application/openmetrics-text;version=1.0.0", openmetrics_parser)):
        samples = [sample for family in parse(compatible(report, accept)) for sample in family.samples]
        found.append({(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples})
        assert len(found[-1]) == len(samples) > 1000
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "statement",
    [
        "LOCK TABLE busy IN ACCESS EXCLUSIVE MODE",
        "ALTER TABLE busy ADD COLUMN more int NOT NULL DEFAULT 7",
        "REINDEX TABLE busy",
        "TRUNCATE busy RESTART IDENTITY",
        "DROP TABLE busy",
        "CLUSTER busy USING busy_pkey",
    ],
)
async def test_the_page_is_whole_while_a_relation_is_locked(server: Cluster, statement: str) -> None:
    """Nothing missing, nothing stale, within its deadline, by an exporter that starts during the lock."""
    for table in ("busy", "quiet"):
        server.execute(
            f"CREATE TABLE {table} (id serial PRIMARY KEY, text text); INSERT INTO {table} VALUES (1, 'one')"
        )
    server.execute("ANALYZE quiet")
    before = page(server.dsn(user=MONITOR))
    async with client(server, "locker") as locker:
        await locker.execute(f"BEGIN; {statement}")
        began = time.monotonic()
        found = page(server.dsn(user=MONITOR), timeout=PATIENT)
        took = time.monotonic() - began
    server.execute("DROP TABLE busy; DROP TABLE quiet")
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
    assert {labels["collector"] for labels, _ in found.series("pgvigil_collector_age_seconds")} > {
        "table_vacuum",
        "sessions",
    }
    assert all(age <= took for _, age in found.series("pgvigil_collector_age_seconds")), "collected by this scrape"
    assert found.labels("pg_table_live_tuples", relname="busy")["schemaname"] == "public"
    incident = ("pg_lock_", "pg_progress", "pg_vacuum_progress", "pg_session", "pg_xmin_horizon", "pgvigil_")
    assert {name for name in before.samples if not name.startswith(incident)} <= set(found.samples)


async def test_the_page_is_whole_while_an_alter_queues_behind_a_reader(server: Cluster) -> None:
    server.execute("CREATE TABLE busy (id serial PRIMARY KEY)")
    async with client(server, "reader") as reader:
        await reader.execute("BEGIN; SELECT * FROM busy")
        async with waiting(server, "alter", "ALTER TABLE busy ADD COLUMN more int"):
            found = page(server.dsn(user=MONITOR), timeout=PATIENT)
    server.execute("DROP TABLE busy")
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
    assert found.value("pg_lock_queue_waiters", relation="public.busy", mode="AccessExclusiveLock") == 1


@pytest.mark.parametrize("relation", ["pg_database", "pg_authid"])
async def test_the_vital_few_answer_while_a_catalog_is_locked(server: Cluster, relation: str) -> None:
    """Names come from the cached map of oids, which reads no catalog."""
    watched = target(server.dsn(user=MONITOR))
    vital = {collector.name for collector in load(BUILT_IN) if collector.vital}
    try:
        before = await scraped(watched)
        async with client(server, "locker") as locker:
            await locker.execute(f"BEGIN; LOCK TABLE pg_catalog.{relation} IN ACCESS EXCLUSIVE MODE")
            found = await scraped(watched, timeout=5)
            await locker.execute("ROLLBACK")
    finally:
        await watched.close()
    assert found.value("pg_up") == 1
    success = {labels["collector"]: value for labels, value in found.series("pgvigil_collector_success")}
    assert "lock_blockers" in success
    assert {name for name in vital & success.keys() if not success[name]} == set()
    assert found.value("pg_sessions", application_name="locker")
    assert {labels["usename"] for labels, _ in found.series("pg_sessions")} == {"postgres", MONITOR}
    assert before.value("pg_up") == 1


async def test_a_late_collector_costs_only_itself_and_arrives_with_a_later_page(
    make: Callable[..., Target], tmp_path: Path
) -> None:
    """The first page waits for its deadline, not for the collector."""
    slow = make(own(tmp_path, slow="SELECT 7 AS value FROM pg_sleep(8)\ntimeout: 60"))
    first = await scraped(slow, timeout=5)
    assert 5 <= first.value("pgvigil_scrape_duration_seconds") < 8
    assert first.value("pgvigil_collector_success", collector="slow") == 0
    assert first.series("pg_slow") == []
    assert first.value("pgvigil_collector_success", collector="sessions") == 1
    assert slow.plan.jobs
    second = await scraped(slow, timeout=PATIENT)
    assert second.value("pg_slow") == 7


async def test_a_slow_collector_does_not_delay_those_behind_it(make: Callable[..., Target], tmp_path: Path) -> None:
    """The first page may, since nobody knows yet who is slow."""
    slow = make(own(tmp_path, aa_slow="SELECT 1 AS value FROM pg_sleep(6)\ntimeout: 60", bb_fast="SELECT 2 AS value"))
    await scraped(slow, timeout=PATIENT)
    found = await scraped(slow, timeout=4)
    assert found.value("pgvigil_collector_success", collector="aa_slow") == 0
    assert found.value("pgvigil_collector_success", collector="bb_fast") == 1
    assert found.value("pg_up") == 1


async def test_a_server_whose_connections_are_all_busy_is_not_hung(make: Callable[..., Target], tmp_path: Path) -> None:
    catalog = own(
        tmp_path,
        one="SELECT 1 AS value FROM pg_sleep(3)\ntimeout: 60",
        two="SELECT 1 AS value FROM pg_sleep(3)\ntimeout: 60\nvital: true",
    )
    busy = make(catalog)
    await scraped(busy, timeout=PATIENT)
    assert [(await scraped(busy, timeout=2)).value("pg_up") for _ in range(5)] == [1] * 5


async def test_a_value_that_python_has_no_counterpart_for_costs_only_its_collector(
    make: Callable[..., Target], tmp_path: Path
) -> None:
    odd = make(own(tmp_path, aa_odd="SELECT '20000-01-01'::timestamp AS value", bb_fine="SELECT 2 AS value"))
    found = await scraped(odd)
    assert found.value("pgvigil_collector_errors_total", collector="aa_odd", reason="query") == 1
    assert found.value("pg_bb_fine") == 2


async def test_names_of_another_encoding_cost_nobody_else(cluster: Callable[..., Cluster]) -> None:
    """Roles and databases are shared by databases of all encodings; their names are bytes."""
    server = cluster()
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    server.execute('CREATE ROLE "café" LOGIN', database="latin")
    found = page(server.dsn(user=MONITOR))
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}


async def test_a_failing_collector_costs_only_itself_and_says_why(make: Callable[..., Target], tmp_path: Path) -> None:
    broken = make(
        own(
            tmp_path,
            too_slow="SELECT 1 AS value FROM pg_sleep(9)",
            forbidden="SELECT count(*) AS value FROM pg_catalog.pg_authid",
            wrong="SELECT nothing AS value",
            lacking="SELECT 1 AS valeu",
        )
    )
    found = await scraped(broken)
    reasons = {"too_slow": "timeout", "forbidden": "permission", "wrong": "query", "lacking": "query"}
    for collector, why in reasons.items():
        assert found.value("pgvigil_collector_success", collector=collector) == 0
        assert found.value("pgvigil_collector_errors_total", collector=collector, reason=why) == 1
    others = {labels["collector"]: value for labels, value in found.series("pgvigil_collector_success")}
    assert {name for name, success in others.items() if not success} == set(reasons)
    assert (await scraped(broken)).value("pgvigil_collector_errors_total", collector="wrong") == 2


async def test_a_failing_collector_keeps_its_last_good_result_for_a_while_and_recovers(
    server18: Cluster, make: Callable[..., Target], tmp_path: Path
) -> None:
    server18.execute("CREATE TABLE shy (value int); INSERT INTO shy VALUES (5); GRANT SELECT ON shy TO pgvigil")
    watched = make(own(tmp_path, shy="SELECT value FROM public.shy"), last_good=5.0)

    async def without() -> Page | None:
        found = await scraped(watched)
        return None if found.series("pg_shy") else found

    async def whole() -> Page | None:
        found = await scraped(watched)
        return found if found.value("pgvigil_collector_success", collector="shy") else None

    try:
        assert (await scraped(watched)).value("pg_shy") == 5
        async with client(server18) as locker:
            await locker.execute("BEGIN; LOCK TABLE shy")
            kept = await scraped(watched)
            dropped = await until(without)
        recovered = await until(whole)
    finally:
        server18.execute("DROP TABLE shy")
    assert kept.value("pg_shy") == 5
    assert kept.value("pgvigil_collector_success", collector="shy") == 0
    assert kept.value("pgvigil_collector_age_seconds", collector="shy") > 0
    assert dropped.series("pg_shy") == []
    assert dropped.value("pgvigil_collector_errors_total", collector="shy", reason="lock_timeout") >= 2
    assert recovered.value("pg_shy") == 5
    assert recovered.value("pgvigil_collector_success", collector="shy") == 1


async def test_concurrent_scrapes_share_one_run(server18: Cluster, make: Callable[..., Target], tmp_path: Path) -> None:
    shared = make(own(tmp_path, nap="SELECT 1 AS value, 'shared run' AS tag FROM pg_sleep(0.3)"))
    pages = await asyncio.gather(*(scraped(shared) for _ in range(8)))
    assert [found.value("pg_nap") for found in pages] == [1] * 8
    calls = server18.value("SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE '%AS tag FROM pg_sleep(%'")
    assert calls == 1


async def test_a_cached_result_is_served_again_with_its_age(
    server18: Cluster, make: Callable[..., Target], tmp_path: Path
) -> None:
    catalog = own(tmp_path, cached="SELECT extract(epoch FROM clock_timestamp())::float8 AS value\ncache: 8")
    cached = make(catalog)
    first = await scraped(cached)
    second = await scraped(cached)
    assert second.value("pg_cached") == first.value("pg_cached")
    assert second.value("pgvigil_collector_success", collector="cached") == 1
    assert second.value("pgvigil_collector_age_seconds", collector="cached") > 0
    await asyncio.sleep(8)
    assert (await scraped(cached)).value("pg_cached") > first.value("pg_cached")


async def test_never_more_connections_than_the_budget(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    for i in range(8):
        server.execute(f"CREATE DATABASE d{i}")
        server.execute("CREATE TABLE t ()", f"d{i}")
    watched = target(server.dsn(user=MONITOR))
    most = 0
    try:
        for _ in range(3):
            scrape = asyncio.create_task(scraped(watched))
            while not scrape.done():
                count = server.value("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", MONITOR)
                most = max(most, count)
                await asyncio.sleep(0.002)
            found = scrape.result()
        databases = {labels["datname"] for labels, _ in found.series("pg_table_live_tuples")}
        assert databases == {"postgres", *(f"d{i}" for i in range(8))}
        assert 3 <= most <= 5
        await until(lambda: server.value("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", MONITOR) == 2)
        assert found.value("pgvigil_connections") in (2, 3)  # a login for its own sake may be under way
    finally:
        await watched.close()
    await until(lambda: not server.value("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", MONITOR))


async def test_a_database_is_asked_for_what_tables_have_as_soon_as_there_is_one(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.connections.discovery.DIRECTORY_SECONDS", 0.0)
    server = cluster()
    server.execute("CREATE DATABASE fresh")
    watched = target(server.dsn("fresh", user=MONITOR))
    try:
        before = await scraped(watched)
        skipped = watched.plan.skipped.get("indexes")
        server.execute("CREATE TABLE t (id int PRIMARY KEY)", "fresh")
        after = await scraped(watched)
    finally:
        await watched.close()
    assert before.series("pgvigil_collector_success", collector="indexes", datname="fresh") == []
    assert skipped == "no database has a table"
    assert after.value("pg_index_scans_total", datname="fresh", indexrelname="t_pkey") == 0
    assert after.series("pgvigil_collector_success", collector="indexes") == [
        ({"collector": "indexes", "datname": "fresh"}, 1)
    ]


async def test_a_database_that_comes_or_goes_is_noticed(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.connections.discovery.DIRECTORY_SECONDS", 0.0)
    server = cluster()
    watched = target(server.dsn(user=MONITOR))
    try:
        await scraped(watched)
        server.execute("CREATE DATABASE fresh")
        server.execute("CREATE TABLE t ()", "fresh")
        came = await scraped(watched)
        server.execute("DROP DATABASE fresh")
        await scraped(watched)
        gone = await scraped(watched)
    finally:
        await watched.close()
    assert came.series("pg_table_live_tuples", datname="fresh") != []
    assert gone.series("pg_table_live_tuples", datname="fresh") == []
    assert gone.series("pgvigil_collector_success", datname="fresh") == []


async def test_a_killed_connection_is_replaced_within_the_same_scrape(
    server18: Cluster, make: Callable[..., Target]
) -> None:
    watched = make()
    await scraped(watched)
    server18.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgvigil'")
    found = await scraped(watched)
    assert found.value("pg_up") == 1
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}


async def test_a_restart_is_a_page_that_says_down_and_then_one_that_is_whole(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    watched = target(server.dsn(user=MONITOR))
    try:
        whole = await scraped(watched)
        server.stop()
        down = await scraped(watched)
        server.start()
        await asyncio.sleep(1)  # a login that was refused is tried again after a second
        again = await scraped(watched)
    finally:
        await watched.close()
    assert (whole.value("pg_up"), down.value("pg_up"), again.value("pg_up")) == (1, 0, 1)
    assert down.value("pg_up_reason", reason="refused") == 1
    assert sum(value for _, value in down.series("pg_up_reason")) == 1
    cached = {collector.name for collector in load(BUILT_IN) if collector.cache}
    uncached = {labels["collector"]: value for labels, value in down.series("pgvigil_collector_success")}
    assert {value for name, value in uncached.items() if name not in cached} == {0}
    assert down.value("pgvigil_collector_errors_total", collector="sessions", reason="connection") == 1
    assert {value for _, value in again.series("pgvigil_collector_success")} == {1}


async def test_a_server_that_was_never_there_is_down_and_the_page_is_there() -> None:
    never = target("postgresql://u@no-such-host.invalid/d")
    try:
        found = await scraped(never)
    finally:
        await never.close()
    assert found.value("pg_up") == 0
    assert found.value("pg_up_reason", reason="unreachable") == 1


async def test_a_kept_connection_reports_while_logins_fail(cluster: Callable[..., Cluster]) -> None:
    server = cluster(settings={"max_connections": "8", "superuser_reserved_connections": "1"})
    watched = target(server.dsn(user=MONITOR))
    fillers: list[Any] = []
    try:
        await scraped(watched)
        while server.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") < 8:
            fillers.append(client(server, f"app {len(fillers)}"))
            await fillers[-1].__aenter__()
        found = await scraped(watched)
    finally:
        await watched.close()
        for filler in reversed(fillers):
            await filler.__aexit__(None, None, None)
    assert found.value("pg_up") == 1
    assert found.value("pg_connections_available") == 0
    assert found.value("pg_sessions", application_name="app 0") == 1


async def test_odd_names_reach_the_page_unharmed(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    odd = 'a "b"\n\\c {d="e"} 🐘'
    quoted = '"' + odd.replace('"', '""') + '"'
    server.execute(f"CREATE DATABASE {quoted}")
    server.execute(f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ()", database=odd)
    found = page(server.dsn(user=MONITOR))
    assert found.value("pg_table_live_tuples", datname=odd, schemaname=odd, relname=odd) == 0


async def test_nulls_nan_and_infinities(make: Callable[..., Target], tmp_path: Path) -> None:
    sql = (
        "SELECT * FROM (VALUES ('nan', 'NaN'::float8), ('inf', 'Infinity'), ('minus', '-Infinity'), ('null', NULL))"
        " AS v (kind, value)\nlabels: [kind]"
    )
    catalog = own(tmp_path, odd="SELECT 1 AS value")
    file = tmp_path / "odd.yaml"
    file.write_text(file.read_text().replace("SELECT 1 AS value", sql).replace("labels: []\n", ""))
    catalog = load(BUILT_IN, tmp_path)
    found = (await scraped(make(catalog))).samples["pg_odd"]
    values = {labels["kind"]: value for labels, value in found}
    assert (values["inf"], values["minus"], values["nan"] != values["nan"]) == (float("inf"), float("-inf"), True)
    assert "null" not in values


async def test_a_duplicate_label_set_costs_a_row_not_the_page(make: Callable[..., Target], tmp_path: Path) -> None:
    twice = make(own(tmp_path, twice="SELECT value FROM generate_series(1, 3) AS value"))
    found = await scraped(twice)
    assert found.value("pg_twice") == 1
    assert found.value("pgvigil_collector_rejected_rows_total", collector="twice", reason="duplicate") == 2
    assert found.value("pgvigil_collector_success", collector="twice") == 1


async def test_details_are_asked_for_the_rows_that_are_kept_in_their_order(make: Callable[..., Target]) -> None:
    """The row that the limit cuts would divide by zero."""
    ranked = Collector.model_validate(
        {
            "name": "ranked",
            "help": "Own.",
            "sql": "SELECT n AS rank FROM generate_series(1, 5) AS n ORDER BY n DESC",
            "limit": 4,
            "details": "SELECT 'row ' || n AS row, 12 / (kept.rank - 1) AS value FROM generate_series(1, 1000) AS n"
            " WHERE n = kept.rank",
            "labels": ["row"],
            "metrics": [{"name": "pg_ranked", "type": "gauge", "help": "Own.", "column": "value"}],
        }
    )
    found = await scraped(make(Catalog((ranked,))))
    assert found.series("pg_ranked") == [({"row": f"row {rank}"}, 12 // (rank - 1)) for rank in (5, 4, 3, 2)]


async def test_what_a_limit_cuts_is_published(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    for i in range(3):
        server.execute(f"CREATE TABLE t{i} AS SELECT FROM generate_series(1, {10 ** (i + 1)}); ANALYZE t{i}")
    catalog = load(BUILT_IN)
    tables = named(catalog, "table_vacuum").model_copy(update={"limit": 2})
    few = target(server.dsn(user=MONITOR), Catalog((tables,)))
    every = target(server.dsn(user=MONITOR), Catalog((tables.model_copy(update={"limit": None}),)))
    try:
        cut, whole = await scraped(few), await scraped(every)
    finally:
        await few.close()
        await every.close()
    rows = whole.value("pgvigil_collector_rows", collector="table_vacuum")
    assert [name for name in whole.samples if name.startswith("pgvigil_collector_truncated")] == []
    assert cut.value("pgvigil_collector_rows", collector="table_vacuum") == 2
    assert cut.value("pgvigil_collector_truncated_rows", collector="table_vacuum") == rows - 2
    live = "pg_table_live_tuples"
    total = sum(value for _, value in whole.series(live))
    kept = sum(value for _, value in cut.series(live))
    assert cut.value("pgvigil_collector_truncated_value", metric=live) == total - kept
    assert cut.value("pgvigil_collector_truncated_ratio", metric=live) == pytest.approx(1 - kept / total)


async def test_the_page_of_a_server_with_one_busy_database_stays_below_five_thousand_series(
    cluster: Callable[..., Cluster],
) -> None:
    """By default, with more tables and statements than have series, each table with all that can be said of it."""
    server = cluster(18)
    server.execute("CREATE DATABASE app")
    for i in range(60):
        server.execute(
            f"CREATE TABLE t{i} (id serial PRIMARY KEY, a text); CREATE INDEX ON t{i} (a); "
            f"CREATE INDEX ON t{i} (a, id);"
            f"INSERT INTO t{i} (a) SELECT 'x' FROM generate_series(1, 100); UPDATE t{i} SET a = 'y'; ANALYZE t{i}",
            "app",
        )
    server.execute("CREATE EXTENSION pg_stat_statements", "app")
    watched = target(server.dsn("app", user=MONITOR))
    try:
        await scraped(watched)
        found = await scraped(watched)
    finally:
        await watched.close()
    limits = {each.name: each.limit or 0 for each in load(BUILT_IN)}
    for name in ("table_vacuum", "table_access", "statements"):
        at = "" if name == "statements" else "app"
        assert found.value("pgvigil_collector_rows", collector=name, datname=at) >= limits[name], "it is at its limit"
    assert sum(map(len, found.samples.values())) < 5000


async def test_a_page_is_bounded_and_says_what_it_left_off(make: Callable[..., Target]) -> None:
    report = await make().scrape(9)
    whole, cut = written(report), written(report, max_samples=500)
    dropped = {labels["collector"]: value for labels, value in cut.series("pgvigil_collector_dropped_samples")}
    assert dropped["statements"] > 100
    assert "sessions" not in dropped
    assert whole.series("pgvigil_collector_dropped_samples") == []
    collected = [name for name in cut.samples if not name.startswith(("pgvigil_", "pg_up"))]
    assert 400 < sum(len(cut.samples[name]) for name in collected) <= 500
