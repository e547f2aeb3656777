"""Dead rows, thresholds and running vacuums, on tables made on purpose."""

import asyncio
import time
from collections.abc import Callable

import asyncpg
import pytest
from module_database import DATABASE, page_of, page_when, session
from pages import MONITOR, Page, catalog, named, page, scraped, target
from patience import until, wait_until

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster

COLLECTORS = (
    "autovacuum",
    "lock_waits",
    "partitioned_tables",
    "table_access",
    "table_freeze",
    "table_vacuum",
    "vacuum_progress",
)


def page_with(server: Cluster, database: str = DATABASE, **wanted: tuple[str, float]) -> Page:
    """The first page on which each table has the value of the metric."""

    def there(found: Page) -> bool:
        return all([value for _, value in found.series(m, relname=table)] == [v] for table, (m, v) in wanted.items())

    return page_when(server, there, database)


def run(server: Cluster, *statements: str) -> None:
    """Run statements each in a transaction of its own, as VACUUM wants it."""
    for statement in statements:
        server.execute(statement, DATABASE)


def setting(server: Cluster, name: str) -> float:
    return float(server.value(f"SHOW {name}"))


def test_what_the_planner_believes_of_a_table_is_not_known_before_it_was_analyzed(database: Cluster) -> None:
    run(database, "CREATE TABLE fresh AS SELECT generate_series(1, 40) AS id")
    found = page_with(database, fresh=("pg_table_live_tuples", 40))
    assert found.series("pg_table_estimated_rows", relname="fresh") == []


def test_thresholds_follow_the_settings(database: Cluster) -> None:
    run(
        database,
        "CREATE TABLE plain AS SELECT generate_series(1, 1000) AS id",
        "ANALYZE plain",
        "DELETE FROM plain WHERE id <= 100",
    )
    found = page_with(database, plain=("pg_table_dead_tuples", 100))
    for metric, base, scale in (
        ("vacuum", "vacuum_threshold", "vacuum_scale_factor"),
        ("insert_vacuum", "vacuum_insert_threshold", "vacuum_insert_scale_factor"),
        ("analyze", "analyze_threshold", "analyze_scale_factor"),
    ):
        expected = setting(database, f"autovacuum_{base}") + setting(database, f"autovacuum_{scale}") * 1000
        labels = {"relname": "plain", "schemaname": "public", "datname": DATABASE}
        assert found.value(f"pg_table_{metric}_threshold_tuples", **labels) == pytest.approx(expected)
    assert found.value("pg_table_live_tuples", relname="plain") == 900
    assert found.value("pg_table_inserted_since_vacuum_tuples", relname="plain") == 1000
    assert found.value("pg_table_modified_since_analyze_tuples", relname="plain") == 100
    assert found.value("pg_table_estimated_rows", relname="plain") == 1000
    assert found.value("pg_table_autovacuum_disabled", relname="plain") == 0
    assert found.value("pg_table_size_bytes", relname="plain") == database.value(
        "SELECT pg_table_size('plain')", database=DATABASE
    )


OPTIONS: list[tuple[str, dict[str, float | None]]] = [
    ("autovacuum_vacuum_threshold = 7", {"vacuum": 7 + 0.2 * 1000}),
    ("autovacuum_vacuum_scale_factor = 0", {"vacuum": 50}),
    ("autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0.5", {"vacuum": 500}),
    ("autovacuum_vacuum_insert_threshold = 9, autovacuum_vacuum_insert_scale_factor = 0.4", {"insert_vacuum": 409}),
    ("autovacuum_vacuum_insert_threshold = -1", {"insert_vacuum": None, "vacuum": 250}),
    ("autovacuum_analyze_threshold = 3, autovacuum_analyze_scale_factor = 0.02", {"analyze": 23}),
    ("autovacuum_enabled = off, fillfactor = 70", {"vacuum": 250, "insert_vacuum": 1200, "analyze": 150}),
]


def test_options_of_a_table_win_over_the_settings(database: Cluster) -> None:
    for number, (options, _) in enumerate(OPTIONS):
        run(
            database,
            f"CREATE TABLE with_options_{number} WITH ({options}) AS SELECT generate_series(1, 1000) AS id",
            f"ANALYZE with_options_{number}",
        )
    found = page_of(database)
    for number, (options, thresholds) in enumerate(OPTIONS):
        table = f"with_options_{number}"
        for what, expected in thresholds.items():
            values = [value for _, value in found.series(f"pg_table_{what}_threshold_tuples", relname=table)]
            assert values == ([] if expected is None else [pytest.approx(expected)]), f"{options}: {what}"
        disabled = "autovacuum_enabled = off" in options
        assert found.value("pg_table_autovacuum_disabled", relname=table) == disabled


def test_postgresql_18_caps_the_threshold_and_counts_only_pages_not_yet_frozen(cluster: Callable[..., Cluster]) -> None:
    server = cluster(18, {"autovacuum_vacuum_max_threshold": "30"})
    for table, options in (
        ("capped", ""),
        ("capped_higher", "WITH (autovacuum_vacuum_max_threshold = 40)"),
        ("uncapped", "WITH (autovacuum_vacuum_max_threshold = -1)"),
        ("half_frozen", ""),
    ):
        server.execute(f"CREATE TABLE {table} {options} AS SELECT i, i::text AS v FROM generate_series(1, 10000) AS i")
    server.execute("VACUUM (FREEZE) half_frozen")
    server.execute("INSERT INTO half_frozen SELECT i, i::text FROM generate_series(1, 10000) AS i")
    server.execute("ANALYZE")
    frozen = server.value("SELECT relallfrozen / relpages::float8 FROM pg_class WHERE relname = 'half_frozen'")
    assert 0.4 < frozen < 0.6
    found = page_of(server, "postgres")
    assert found.value("pg_table_vacuum_threshold_tuples", relname="capped") == 30
    assert found.value("pg_table_vacuum_threshold_tuples", relname="capped_higher") == 40
    assert found.value("pg_table_vacuum_threshold_tuples", relname="uncapped") == pytest.approx(50 + 0.2 * 10000)
    assert found.value("pg_table_toast_vacuum_threshold_tuples", relname="capped") == 30
    assert found.value("pg_table_insert_vacuum_threshold_tuples", relname="capped") == pytest.approx(1000 + 0.2 * 10000)
    assert found.value("pg_table_insert_vacuum_threshold_tuples", relname="half_frozen") == pytest.approx(
        1000 + 0.2 * 20000 * (1 - frozen)
    )


def test_dead_toast_counts_with_its_owner(database: Cluster) -> None:
    """A TOAST table with an option of its own takes none of its owner's."""
    for table, options in (
        ("fat", "autovacuum_vacuum_threshold = 11, autovacuum_vacuum_scale_factor = 0"),
        ("fatter", "autovacuum_vacuum_threshold = 11, toast.autovacuum_vacuum_scale_factor = 0"),
    ):
        run(
            database,
            f"CREATE TABLE {table} (id int, v text) WITH ({options})",
            f"ALTER TABLE {table} ALTER COLUMN v SET STORAGE EXTERNAL",
            f"INSERT INTO {table} SELECT i, repeat('x', 10000) FROM generate_series(1, 10) AS i",
            f"DELETE FROM {table} WHERE id <= 4",
        )
    chunks = ("pg_table_toast_dead_tuples", 4 * 6)  # 10000 bytes in chunks of 1996
    found = page_with(database, fat=chunks, fatter=chunks)
    assert found.value("pg_table_dead_tuples", relname="fat") == 4
    assert found.value("pg_table_toast_vacuum_threshold_tuples", relname="fat") == 11
    assert found.value("pg_table_toast_vacuum_threshold_tuples", relname="fatter") == 50
    assert not [had for had, _ in found.samples["pg_table_dead_tuples"] if had["relname"].startswith("pg_toast")]


def test_vacuum_and_analyze_leave_their_time_and_count(database: Cluster) -> None:
    began_at = time.time()
    run(database, "CREATE TABLE tended (id int)")
    found = page_of(database)
    for kind in ("vacuum", "autovacuum", "analyze", "autoanalyze"):
        assert not found.series(f"pg_table_last_{kind}_timestamp_seconds", relname="tended")
    run(database, "VACUUM tended", "VACUUM (ANALYZE) tended")
    found = page_with(database, tended=("pg_table_vacuums_total", 2))
    assert found.value("pg_table_analyzes_total", relname="tended") == 1
    assert found.value("pg_table_autovacuums_total", relname="tended") == 0
    assert found.value("pg_table_autoanalyzes_total", relname="tended") == 0
    for kind in ("vacuum", "analyze"):
        assert began_at <= found.value(f"pg_table_last_{kind}_timestamp_seconds", relname="tended") <= time.time()


SPENT = ("vacuum", "autovacuum", "analyze", "autoanalyze")


async def test_the_seconds_that_vacuum_and_analyze_took_are_counted_from_18_on(database: Cluster, major: int) -> None:
    run(database, "CREATE TABLE toiled (id int)", "INSERT INTO toiled SELECT generate_series(1, 5000)")
    async with session(database) as client:
        await client.execute("SET vacuum_cost_delay = 20; SET vacuum_cost_limit = 1")
        began_at = time.monotonic()
        await client.execute("VACUUM toiled")
        elapsed = time.monotonic() - began_at
        await client.execute("ANALYZE toiled")
        in_all = time.monotonic() - began_at
    found = page_with(database, toiled=("pg_table_vacuums_total", 1))
    shown = {kind: [v for _, v in found.series(f"pg_table_{kind}_seconds_total", relname="toiled")] for kind in SPENT}
    if major < 18:
        assert shown == {kind: [] for kind in SPENT}
        return
    columns = ", ".join(f"total_{kind}_time / 1000" for kind in SPENT)
    view = database.query(f"SELECT {columns} FROM pg_stat_user_tables WHERE relname = 'toiled'", database=DATABASE)
    assert shown == {kind: [value] for kind, value in zip(SPENT, view[0], strict=True)}
    [vacuum], [analyze] = shown["vacuum"], shown["analyze"]
    assert 0.1 < elapsed * 0.5 < vacuum <= elapsed + 0.001  # PostgreSQL rounds up to milliseconds
    assert 0 < analyze < in_all - elapsed + 0.001
    assert shown["autovacuum"] == shown["autoanalyze"] == [0]


def test_a_partitioned_parent_shows_only_its_analyze(database: Cluster, major: int) -> None:
    run(
        database,
        "CREATE TABLE parent (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (100)",
        "INSERT INTO parent SELECT generate_series(1, 50)",
        "DELETE FROM parent WHERE id > 40",
        "ANALYZE parent",
    )
    found = page_with(database, child=("pg_table_dead_tuples", 10))
    ours = {metric.name for metric in named(catalog(), "table_vacuum").metrics}
    shown = {name for name in ours if found.series(name, relname="parent")}
    analyzed = {"pg_table_analyzes_total", "pg_table_last_analyze_timestamp_seconds", "pg_table_estimated_rows"}
    analyzed |= {"pg_table_analyze_seconds_total"} if major >= 18 else set()
    assert shown == (analyzed if major >= 14 else set())


async def test_temporary_tables_are_not_listed(database: Cluster) -> None:
    async with session(database) as client:
        await client.execute("CREATE TEMPORARY TABLE passing (id int)")
        assert not page_of(database).series("pg_table_dead_tuples", relname="passing")


def test_what_is_cut_is_the_least_overdue(cluster: Callable[..., Cluster]) -> None:
    server = cluster(settings={"autovacuum": "off"})
    server.execute("DO $$ BEGIN FOR i IN 1..250 LOOP EXECUTE format('CREATE TABLE t%s (id int)', i); END LOOP; END $$")
    for table, rows in (("t249", 60), ("t250", 40)):
        server.execute(f"INSERT INTO {table} SELECT generate_series(1, {rows}); DELETE FROM {table}")
    found = page_of(server, "postgres")
    tables = [had["relname"] for had, _ in found.series("pg_table_dead_tuples", datname="postgres")]
    assert len(tables) == named(catalog(), "table_vacuum").limit
    assert {"t249", "t250"} < set(tables)
    assert found.value("pg_table_dead_tuples", relname="t249") == 60


def test_autovacuum_comes_when_the_threshold_is_passed_and_not_when_it_is_met(
    major: int, cluster: Callable[..., Cluster]
) -> None:
    """PostgreSQL itself agrees with the threshold on the page, to the row."""
    server = cluster(major, {"autovacuum_naptime": "1s"})
    dead = {"met": 50, "passed": 51}
    for table, rows in dead.items():
        server.execute(
            f"CREATE TABLE {table} (id int) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_enabled = off);"
            f"INSERT INTO {table} SELECT generate_series(1, 100)"
        )
        server.execute(f"DELETE FROM {table} WHERE id <= {rows}")
    before = page_with(server, "postgres", **{table: ("pg_table_dead_tuples", rows) for table, rows in dead.items()})
    for table in dead:
        assert before.value("pg_table_vacuum_threshold_tuples", relname=table) == 50
        server.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")
    counted = "pg_table_autovacuums_total"
    after = page_with(server, "postgres", met=(counted, 0), passed=(counted, 1))
    assert not after.series("pg_table_last_autovacuum_timestamp_seconds", relname="met")
    assert after.series("pg_table_last_autovacuum_timestamp_seconds", relname="passed")
    if major >= 18:
        spent = {had["relname"]: value for had, value in after.series("pg_table_autovacuum_seconds_total")}
        view = "SELECT total_autovacuum_time / 1000 FROM pg_stat_user_tables WHERE relname = 'passed'"
        assert spent["passed"] == server.value(view) > 0
        assert spent["met"] == 0


async def test_a_locked_table_keeps_nothing_from_the_page(database: Cluster) -> None:
    run(database, "CREATE TABLE locked (id int PRIMARY KEY)", "CREATE TABLE emptied (id int PRIMARY KEY)")
    async with session(database) as one, session(database) as two, one.transaction(), two.transaction():
        await one.execute("ALTER TABLE locked ADD COLUMN v text; TRUNCATE emptied")
        waiting = asyncio.create_task(two.execute("LOCK TABLE locked"))
        await until(lambda: database.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        found = page_of(database)
        await one.execute("ROLLBACK; BEGIN")
        await waiting
    for collector in ("table_vacuum", "table_freeze"):
        assert found.value("pgvigil_collector_success", collector=collector, datname=DATABASE) == 1
    assert found.value("pg_table_dead_tuples", relname="locked") == 0


def test_autovacuum_switched_off_shows_for_the_server_and_for_each_table(
    server: Cluster, major: int, cluster: Callable[..., Cluster]
) -> None:
    without = cluster(major, {"autovacuum": "off"})
    for each in (server, without):
        each.execute("CREATE TABLE autovacuumed ()")
    on, off = page_of(server, "postgres"), page_of(without, "postgres")
    server.execute("DROP TABLE autovacuumed")
    for found, expected in ((on, 1), (off, 0)):
        assert found.value("pg_autovacuum_enabled") == expected
        assert found.value("pg_autovacuum_launcher_running") == expected
        assert found.value("pg_table_autovacuum_disabled", relname="autovacuumed", datname="postgres") == 1 - expected
        assert found.value("pg_autovacuum_max_workers") == 3
        processes = sum(
            int(server.value(f"SHOW {name}"))
            for name in ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions")
        )
        processes += int(server.value("SHOW autovacuum_worker_slots")) + 2 if major >= 18 else 3 + 1
        assert found.value("pg_lock_entries_max") == processes * int(server.value("SHOW max_locks_per_transaction"))
        assert bool(found.series("pg_autovacuum_worker_slots")) == (major >= 18)


async def test_a_running_vacuum_shows_how_far_it_is(database: Cluster, major: int) -> None:
    run(database, "CREATE TABLE big AS SELECT generate_series(1, 50000) AS id", "CREATE INDEX ON big (id)")
    labels = {"datname": DATABASE, "relname": "public.big"}
    async with session(database) as vacuum, session(database) as watch:
        await vacuum.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
        started = time.monotonic()
        running = asyncio.create_task(vacuum.execute("VACUUM big"))
        await until(lambda: watch.fetchval("SELECT sum(heap_blks_scanned) > 5 FROM pg_stat_progress_vacuum"))
        found = page_of(database)
        blocks = await watch.fetchval("SELECT pg_relation_size('big') / 8192")
        await watch.execute(f"SELECT pg_cancel_backend({vacuum.get_server_pid()})")
        with pytest.raises(asyncpg.QueryCanceledError):
            await running
    assert found.value("pg_vacuum_progress_phase", phase="scanning heap", **labels) == 1
    assert found.value("pg_vacuum_progress_heap_blocks", **labels) == blocks
    assert 5 < found.value("pg_vacuum_progress_heap_scanned_blocks", **labels) <= blocks
    assert found.value("pg_vacuum_progress_heap_vacuumed_blocks", **labels) == 0
    assert found.value("pg_vacuum_progress_index_vacuums", **labels) == 0
    assert 0 < found.value("pg_vacuum_progress_seconds", **labels) < time.monotonic() - started
    assert found.value("pg_vacuum_progress_wraparound", **labels) == 0
    in_rows, in_bytes = "pg_vacuum_progress_max_dead_tuples", "pg_vacuum_progress_max_dead_tuple_bytes"
    assert found.value(in_bytes if major >= 17 else in_rows, **labels) > 0
    assert not found.series(in_rows if major >= 17 else in_bytes)


async def test_a_vacuum_tells_how_long_it_slept(cluster: Callable[..., Cluster]) -> None:
    """PostgreSQL 18 measures it on request."""
    server = cluster(18, {"track_cost_delay_timing": "on"})
    server.execute("CREATE TABLE big AS SELECT generate_series(1, 50000) AS id")
    async with session(server, "postgres") as vacuum, session(server, "postgres") as watch:
        await vacuum.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
        running = asyncio.create_task(vacuum.execute("VACUUM big"))
        await until(lambda: watch.fetchval("SELECT sum(delay_time) >= 1000 FROM pg_stat_progress_vacuum"))
        found = page_of(server, "postgres")
        await watch.execute(f"SELECT pg_cancel_backend({vacuum.get_server_pid()})")
        with pytest.raises(asyncpg.QueryCanceledError):
            await running
    slept = found.value("pg_vacuum_progress_delay_seconds")
    assert 1 <= slept <= found.value("pg_vacuum_progress_seconds")


async def test_a_forced_freeze_is_told_apart(major: int, cluster: Callable[..., Cluster]) -> None:
    server = cluster(
        major,
        {
            "autovacuum_naptime": "1s",
            "autovacuum_freeze_max_age": "100000",
            "autovacuum_vacuum_cost_delay": "100ms",
            "autovacuum_vacuum_cost_limit": "1",
            "vacuum_cost_page_miss": "100",
        },
    )
    server.execute("CREATE TABLE old AS SELECT generate_series(1, 50000) AS id")
    async with session(server, "postgres") as client:
        await client.execute("DO $$ BEGIN FOR i IN 1..101000 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$")
        await client.execute("VACUUM pg_class")

        async def freezing() -> Page | None:
            found = page_of(server, "postgres")
            progress = found.series("pg_vacuum_progress_wraparound")
            forced = any(value == 1 for _, value in progress)  # others may clean up meanwhile, as always
            return found if forced and found.value("pg_autovacuum_wraparound_workers") else None

        found = await until(freezing)  # two queries, a moment apart: a worker may be between two tables in one
    assert found.value("pg_autovacuum_workers") >= found.value("pg_autovacuum_wraparound_workers")


def test_what_the_statistics_of_a_partitioned_table_have_missed_is_told(
    cluster: Callable[..., Cluster], major: int
) -> None:
    """Autovacuum analyzes partitions only: some of them later than the whole."""
    database = cluster(major, {"autovacuum_naptime": "1s"})
    labels = {"datname": "postgres", "relname": "sliced"}

    def missed() -> list[float]:
        found = page(database.dsn(user=MONITOR))
        assert found.value("pg_partitioned_table_estimated_rows", **labels) == pytest.approx(30_000, abs=1_500)
        return [value for _, value in found.series("pg_partitioned_table_missed_rows", **labels)]

    database.execute("CREATE TABLE sliced (id int) PARTITION BY RANGE (id)")
    for i in range(3):
        fresh = f"VALUES FROM ({i * 10_000}) TO ({(i + 1) * 10_000}) WITH (autovacuum_enabled = off)"
        database.execute(f"CREATE TABLE sliced_{i} PARTITION OF sliced FOR {fresh}")
    database.execute("INSERT INTO sliced SELECT generate_series(0, 29999)")
    for i in range(3):
        database.execute(f"ANALYZE sliced_{i}")
    if major == 13:  # it says neither
        assert missed() == []
        return
    assert missed() == [30_000]  # never analyzed
    database.execute("ANALYZE sliced")
    wait_until(lambda: missed() == [0])
    database.execute("UPDATE sliced SET id = id WHERE id < 4000")
    wait_until(lambda: missed() == [4_000])
    database.execute(
        "ALTER TABLE sliced_0 SET (autovacuum_enabled = on, autovacuum_analyze_threshold = 1,"
        " autovacuum_analyze_scale_factor = 0)",
    )
    wait_until(lambda: missed() == [10_000])  # autovacuum was there


async def test_a_partitioned_table_without_statistics_is_seen_beside_any_number_of_larger_ones(
    database: Cluster, major: int
) -> None:
    """PostgreSQL 13 does not say what the statistics of one have missed."""
    for name, rows in (("huge", 40_000), ("large", 20_000), ("small", 5_000)):
        database.execute(f"CREATE TABLE {name} (id int) PARTITION BY RANGE (id)", DATABASE)
        database.execute(f"CREATE TABLE {name}_0 PARTITION OF {name} DEFAULT", DATABASE)
        database.execute(f"INSERT INTO {name} SELECT generate_series(1, {rows})", DATABASE)
        database.execute(f"ANALYZE {name if name != 'small' else 'small_0'}", DATABASE)
    two = Catalog((named(catalog(), "partitioned_tables").model_copy(update={"limit": 2}),))
    watched = target(database.dsn(DATABASE, MONITOR), two)
    try:
        found = await scraped(watched)
    finally:
        await watched.close()
        database.execute("DROP TABLE huge, large, small", DATABASE)
    shown = {labels["relname"] for labels, _ in found.series("pg_partitioned_table_partitions", datname=DATABASE)}
    assert shown == ({"huge", "small"} if major >= 14 else {"huge", "large"})
