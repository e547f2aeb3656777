"""What is collected from 19 on, as far as it can be shown without a build of 19: see tests/postgresql19.py."""

from collections.abc import Iterator

import pytest
from pages import MONITOR, Page, catalog, named, scraped, target
from postgresql19 import DATABASE, VERSION, as_on_19, planted
from servers import MAJORS
from standby import clone_standby

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster
from exporter.planning.table_filter import TableFilter

NEW = ("autovacuum_scores", "lock_statistics", "recovery_state")


@pytest.fixture(scope="module")
def server19(server18: Cluster) -> Iterator[Cluster]:
    """A server of 18 that has the views of 19."""
    with planted(server18):
        yield server18


async def page_of(server: Cluster, *names: str, user: str = MONITOR, tables: TableFilter | None = None) -> Page:
    """A page of these collectors, as on 19."""
    only = Catalog(tuple(as_on_19(named(catalog(), name)) for name in names))
    watched = target(server.dsn(DATABASE, user), only, tables=tables or TableFilter())
    try:
        return await scraped(watched)
    finally:
        await watched.close()


@pytest.mark.parametrize("name", NEW)
def test_what_only_19_has_is_asked_of_no_older_version(name: str) -> None:
    collector = named(catalog(), name)
    assert [major for major in MAJORS if collector.sql_for((major,)) or collector.metrics_for((major,))] == []
    assert collector.sql_for(VERSION)
    assert collector.metrics_for(VERSION) == collector.metrics


async def test_waits_for_locks_are_counted_by_type_in_seconds(server19: Cluster) -> None:
    server19.execute(
        """
        INSERT INTO pg_catalog.pg_stat_lock VALUES
            ('relation', 3, 4601.25, 422, '2026-10-01 12:00:00+00'),
            ('transactionid', 7, 9000, 0, '2026-10-01 12:00:00+00'),
            ('advisory', 0, 0, 0, '2026-10-01 12:00:00+00')
        """,
        DATABASE,
    )
    found = await page_of(server19, "lock_statistics")
    waits = {had["locktype"]: value for had, value in found.series("pg_lock_waits_total")}
    assert waits == {"relation": 3, "transactionid": 7, "advisory": 0}
    seconds = {had["locktype"]: value for had, value in found.series("pg_lock_wait_seconds_total")}
    assert seconds == {"relation": 4.60125, "transactionid": 9, "advisory": 0}
    assert found.series("pg_lock_fastpath_exceeded_total") == [({"locktype": "relation"}, 422)]


SCENE = """
    CREATE SCHEMA shop;
    CREATE SCHEMA audit;
    CREATE TABLE shop.orders (id int, note text);
    CREATE TABLE audit.log (id int, note text);
    CREATE MATERIALIZED VIEW shop.daily AS SELECT 1 AS a;
    INSERT INTO pg_catalog.pg_stat_autovacuum_scores
        SELECT c.oid, n.nspname, c.relname, s.score, 0.25, 0.125, s.score, 0.5, 0.75,
               s.score > 1, s.score > 2, s.score > 3
          FROM (VALUES ('shop.orders'::regclass, 1.5::float8),
                       ('audit.log', 0.5),
                       ('shop.daily', 0.0625),
                       ('pg_catalog.pg_class', 2.5),
                       ('pg_catalog.pg_proc', 0.5)) AS s (oid, score)
          JOIN pg_class AS c ON c.oid = s.oid
          JOIN pg_namespace AS n ON n.oid = c.relnamespace;
    INSERT INTO pg_catalog.pg_stat_autovacuum_scores
        SELECT t.oid, 'pg_toast', t.relname, 3.5, 3.5, 0, 0.5, 0.5, 0, true, false, true
          FROM pg_class AS t
          JOIN pg_class AS c ON c.reltoastrelid = t.oid
         WHERE c.oid IN ('shop.orders'::regclass, 'pg_catalog.pg_statistic'::regclass)
"""


@pytest.fixture(scope="module")
def scored(server19: Cluster) -> Cluster:
    """With scores of tables, a materialized view, catalogs and TOAST tables."""
    server19.execute(SCENE, DATABASE)
    return server19


def scores(found: Page, metric: str) -> list[tuple[str, str, str, float]]:
    """Schema, table, kind and value, in the order of the page."""
    return [
        (had["schemaname"], had["relname"], had["relkind"], value)
        for had, value in found.series(f"pg_table_autovacuum_{metric}", datname=DATABASE)
    ]


async def test_the_tables_most_urgent_to_autovacuum_come_first(scored: Cluster) -> None:
    """A TOAST table has the name of its owner; a catalog is left out until something is due."""
    found = await page_of(scored, "autovacuum_scores")
    in_order = scores(found, "score")
    assert sorted(in_order[:2]) == [
        ("pg_catalog", "pg_statistic", "TOAST table", 3.5),
        ("shop", "orders", "TOAST table", 3.5),
    ]
    assert in_order[2:] == [
        ("pg_catalog", "pg_class", "table", 2.5),
        ("shop", "orders", "table", 1.5),
        ("audit", "log", "table", 0.5),
        ("shop", "daily", "materialized view", 0.0625),
    ]


async def test_each_score_and_decision_has_a_metric(scored: Cluster) -> None:
    found = await page_of(scored, "autovacuum_scores")
    names = [
        metric.name.removeprefix("pg_table_autovacuum_") for metric in named(catalog(), "autovacuum_scores").metrics
    ]
    for kind, values in (
        ("table", [1.5, 0.25, 0.125, 1.5, 0.5, 0.75, 1, 0, 0]),
        ("TOAST table", [3.5, 3.5, 0, 0.5, 0.5, None, 1, None, 1]),
    ):
        had = {
            name: [v for _, table, of, v in scores(found, name) if (table, of) == ("orders", kind)] for name in names
        }
        assert had == {name: [] if value is None else [value] for name, value in zip(names, values, strict=True)}


async def test_scores_are_those_of_tables_that_are_chosen(scored: Cluster) -> None:
    """A TOAST table is chosen with its owner."""
    found = await page_of(scored, "autovacuum_scores", tables=TableFilter(("shop.*",), ("daily",)))
    assert scores(found, "score") == [("shop", "orders", "TOAST table", 3.5), ("shop", "orders", "table", 1.5)]


async def test_a_promotion_and_a_pause_asked_for_show(server19: Cluster) -> None:
    server19.execute(
        """
        INSERT INTO pg_catalog.pg_stat_recovery VALUES
            (true, '0/3001DE8', '0/3001E20', 1, '0/3001E20', 1, '2026-10-01 11:59:00+00', '2026-10-01 12:00:00.5+00',
             'pause requested')
        """,
        DATABASE,
    )
    found = await page_of(server19, "recovery_state")
    assert found.value("pg_recovery_promote_triggered") == 1
    assert found.value("pg_recovery_pause_requested") == 1
    assert found.value("pg_recovery_chunk_start_timestamp_seconds") == 1790856000.5
    server19.execute(
        "UPDATE pg_catalog.pg_stat_recovery SET promote_triggered = false, pause_state = 'paused',"
        " current_chunk_start_time = NULL",
        DATABASE,
    )
    found = await page_of(server19, "recovery_state")
    assert found.value("pg_recovery_promote_triggered") == found.value("pg_recovery_pause_requested") == 0
    assert found.series("pg_recovery_chunk_start_timestamp_seconds") == []


async def test_an_empty_view_is_a_missing_right_on_a_standby_only(server19: Cluster) -> None:
    server19.execute("DELETE FROM pg_catalog.pg_stat_recovery", DATABASE)
    found = await page_of(server19, "recovery_state")
    assert found.value("pgvigil_collector_success", collector="recovery_state") == 1
    assert found.series("pg_recovery_promote_triggered") == []
    with clone_standby(server19) as standby:
        found = await page_of(standby, "recovery_state")
    assert found.value("pgvigil_collector_errors_total", collector="recovery_state", reason="permission") == 1
    assert found.series("pg_recovery_promote_triggered") == []


async def test_a_repack_shows_how_far_it_is(server19: Cluster) -> None:
    """CLUSTER and VACUUM FULL are reported as it is, and the parameters have other places than on 18."""
    server19.execute(
        """
        CREATE TABLE repacked ();
        INSERT INTO pg_catalog.progress_of_repack
            (pid, datid, relid, param1, param2, param3, param4, param5, param6, param7, param8, param9)
        SELECT 0, d.oid, 'repacked'::regclass, c.command, c.phase, 0, 90, 70, 7, 3, 50, 40
          FROM pg_database AS d
         CROSS JOIN (VALUES (1, 1), (2, 5), (3, 8)) AS c (command, phase)
         WHERE d.datname = current_database()
        """,
        DATABASE,
    )
    found = await page_of(server19, "progress")
    phases = {had["command"]: had["phase"] for had, _ in found.series("pg_progress_phase", relname="public.repacked")}
    assert phases == {
        "CLUSTER": "seq scanning heap",
        "REPACK": "catch-up",
        "VACUUM FULL": "performing final cleanup",
    }
    labels = {"relname": "public.repacked", "command": "REPACK"}
    assert found.value("pg_progress_done_blocks", **labels) == 40
    assert found.value("pg_progress_total_blocks", **labels) == 50
    assert found.value("pg_progress_done_tuples", **labels) == 77


async def test_errors_and_conflicts_of_subscriptions_have_the_names_of_19(server19: Cluster) -> None:
    server19.execute(
        "CREATE SUBSCRIPTION items CONNECTION 'host=nowhere' PUBLICATION items"
        " WITH (connect = false, slot_name = NONE)",
        DATABASE,
    )
    try:
        server19.execute(
            "INSERT INTO pg_catalog.stats_of_subscription"
            " SELECT oid, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 FROM pg_subscription WHERE subname = 'items'",
            DATABASE,
        )
        found = await page_of(server19, "subscriptions", "subscription_conflicts")
    finally:
        server19.execute("DROP SUBSCRIPTION items", DATABASE)
    assert found.value("pg_subscription_apply_errors_total", subname="items") == 1
    assert found.value("pg_subscription_sync_errors_total", subname="items") == 3
    conflicts = {had["conflict"]: value for had, value in found.series("pg_subscription_conflicts_total")}
    assert (conflicts["update_exists"], conflicts["update_deleted"], conflicts["update_missing"]) == (6, 7, 8)
    assert sorted(conflicts.values()) == [*range(4, 12)]
