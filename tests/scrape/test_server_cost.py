"""What we cost the server, as it counts itself, and the budget that holds us back."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fake_session import collector
from pages import MONITOR, catalog, scraped, target, uncached

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster
from exporter.planning.oid_names import Names
from exporter.samples.model import Columns
from exporter.scrape.server_cost import LOOK_EVERY_SECONDS, ServerCosts

ROUNDING = 1e-9

NAMES = Names()
NAMES.replace({5: "shop", 6: "crm"}, {})


def table(*rows: tuple[int, int, int, float]) -> Columns:
    """Rows of pg_stat_statements: role, database, query, seconds."""
    columns: dict[str, list[Any]] = {
        "userid": [row[0] for row in rows],
        "dbid": [row[1] for row in rows],
        "queryid": [row[2] for row in rows],
        "exec_seconds": [row[3] for row in rows],
    }
    same = {"plan_seconds": 0.5, "shared_blks_hit": 3, "shared_blks_read": 2, "toplevel": 1, "generation": 0}
    return columns | {name: [value] * len(rows) for name, value in same.items()}


def test_costs_belong_to_the_collector_that_the_comment_names() -> None:
    costs = ServerCosts()
    seen = table((10, 5, 1, 2.0), (10, 6, 1, 3.0), (10, 5, 2, 9.0), (99, 5, 3, 100.0), (10, 5, 4, 50.0))
    costs.see(seen, 10, None)
    assert costs.missing(now=0) == [1, 2, 4]
    costs.learn({1: "SELECT 1\n/* pgvigil:tables */", 2: "SELECT /* pgvigil:locks */", 4: "SELECT 'not ours'"})
    costs.update(NAMES, {"tables"}, now=0)
    assert {key: (cost.seconds, cost.blocks) for key, cost in costs.all.items()} == {
        ("tables", "shop"): (2.5, 5),
        ("tables", "crm"): (3.5, 5),
        ("locks", ""): (9.5, 5),
    }


def test_texts_are_not_asked_for_again_and_again() -> None:
    costs = ServerCosts()
    costs.see(table((10, 5, 4, 50.0)), 10, None)
    assert costs.missing(now=0) == [4]
    assert costs.missing(now=LOOK_EVERY_SECONDS - 1) == []
    assert costs.missing(now=LOOK_EVERY_SECONDS) == [4]


def test_a_reset_takes_nothing_back() -> None:
    costs = ServerCosts()
    costs.learn({1: "/* pgvigil:locks */"})
    for seconds in (5.0, 0.25):
        costs.see(table((10, 5, 1, seconds)), 10, None)
        costs.update(NAMES, (), now=0)
    assert costs.all["locks", ""].seconds == 6.25


def test_a_statement_that_is_as_it_was_stays_and_one_that_is_gone_counts_from_zero_when_it_returns() -> None:
    costs = ServerCosts()
    costs.learn({1: "/* pgvigil:locks */", 2: "/* pgvigil:wal */"})
    both, locks = table((10, 5, 1, 1.0), (10, 5, 2, 1.0), (99, 5, 1, 50.0)), table((10, 5, 1, 1.0))
    for seen, stale in ((both, None), ({}, {}), (both, both), ({}, locks), (locks, {})):
        costs.see(seen, 10, stale)
        costs.update(NAMES, (), now=0)
    assert {collector: cost.seconds for (collector, _), cost in costs.all.items()} == {"locks": 3, "wal": 1.5}


@pytest.mark.parametrize("major", [13, 15, 18])
async def test_costs_agree_with_pg_stat_statements(major: int, cluster: Callable[..., Cluster]) -> None:
    settings = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_planning": "on"}
    server = cluster(major, settings)
    server.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    watched = target(server.dsn(user=MONITOR), uncached())
    for _ in range(5):
        await scraped(watched)
    before = counted(server)
    found = await scraped(watched)
    after = counted(server)
    await watched.close()
    assert {"table_vacuum", "lock_blockers", "statements", "vitals", "table_freeze"} <= after.keys()
    for what in ("seconds", "blocks"):
        series = found.series(f"pgvigil_collector_server_{what}_total")
        assert {labels["collector"] for labels, _ in series} == after.keys()
        total = sum(value for _, value in series)
        low, high = (sum(row[what] for row in each.values()) for each in (before, after))
        assert low - ROUNDING <= total <= high + ROUNDING
    for name in ("table_vacuum", "lock_blockers"):
        mine = sum(v for _, v in found.series("pgvigil_collector_server_seconds_total", collector=name))
        assert before[name]["seconds"] - ROUNDING <= mine <= after[name]["seconds"] + ROUNDING


def counted(server: Cluster) -> dict[str, Any]:
    """Return what pg_stat_statements knows of each collector so far."""
    rows = server.query(
        "SELECT (regexp_match(query, '/\\* pgvigil:(\\w+) \\*/$'))[1] AS collector,"
        " sum(total_exec_time + total_plan_time) / 1000 AS seconds,"
        " sum(shared_blks_hit + shared_blks_read)::float8 AS blocks, sum(rows)::float8 AS rows"
        " FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid WHERE rolname = $1 GROUP BY 1",
        MONITOR,
    )
    return {row["collector"]: row for row in rows if row["collector"]}


async def test_without_pg_stat_statements_the_client_side_is_there(server18: Cluster) -> None:
    slow = collector("slow", sql="SELECT 1 AS value FROM pg_sleep(1)")
    plain = Catalog((*(each for each in catalog() if each.extension is None), slow))
    watched = target(server18.dsn(user=MONITOR), plain)
    found = await scraped(watched)
    await watched.close()
    assert found.series("pgvigil_collector_server_seconds_total") == []
    assert found.value("pgvigil_collector_seconds_total", collector="slow") == pytest.approx(1, rel=0.5)


async def test_an_absurdly_low_budget_slows_the_expensive_down_and_spares_the_vital(server18: Cluster) -> None:
    watched = target(server18.dsn(user=MONITOR), uncached(), cost_budget=1e-5)
    vital = {collector.name for collector in catalog() if collector.vital}
    slowed: set[str] = set()
    for _ in range(30):  # on a busy machine some cost nothing beyond their round trips at first
        found = await scraped(watched)
        interval, age = (
            {had["collector"]: value for had, value in found.series(name) if had["datname"] in ("", "postgres")}
            for name in ("pgvigil_collector_interval_seconds", "pgvigil_collector_age_seconds")
        )  # other databases have their turn when it comes
        slowed = {name for name, seconds in interval.items() if seconds > 15 and age[name] > 0.6}
        if len(slowed) > 5:
            break
        await asyncio.sleep(0.2)
    await watched.close()
    assert len(slowed) > 5
    assert vital.isdisjoint(slowed)
    assert vital.isdisjoint(interval)
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
