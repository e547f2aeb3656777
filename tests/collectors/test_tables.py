"""Which table is read, written and large, and which lacks a key or an index, on tables made on purpose."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import pytest
from module_database import DATABASE, page_of, page_when, session
from pages import MONITOR, Page, catalog, scraped, target, uncached, written
from patience import until

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster
from exporter.scrape.target import Target

COLLECTORS = (
    "foreign_keys_mistyped",
    "foreign_keys_without_index",
    "index_advice",
    "indexes",
    "partitioned_tables",
    "schemas",
    "sequences",
    "table_access",
    "table_bloat",
    "table_sizes",
    "table_vacuum",
    "tables_without_primary_key",
)

BLOCK = 8192


def value_of(found: Page, name: str, **labels: str) -> float:
    """The value of a series, 0 while there is none."""
    return sum(value for _, value in found.series(name, **labels))


def bytes_of(server: Cluster, *relations: str) -> int:
    """Bytes that the catalog gives these relations."""
    pages = "SELECT sum(relpages)::bigint FROM pg_class WHERE oid = ANY ($1::text[]::regclass[])"
    return BLOCK * int(server.value(pages, list(relations), database=DATABASE))


async def scraped_when(watched: Target, holds: Callable[[Page], object]) -> Page:
    """The first page of one target on which something holds; to PostgreSQL 14 sessions report late what they did."""
    for _ in range(30):
        if holds(found := await scraped(watched)):
            return found
        await asyncio.sleep(0.2)
    raise AssertionError("no page was as awaited")


def test_rows_read_and_written_are_counted_by_table(database: Cluster, major: int) -> None:
    began_at = time.time()
    database.execute(
        "CREATE TABLE used (id int PRIMARY KEY, v int) WITH (fillfactor = 50, autovacuum_enabled = off);"
        "INSERT INTO used SELECT i, 0 FROM generate_series(1, 1000) AS i",
        DATABASE,
    )
    database.execute(
        "SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;"
        "SELECT count(*) FROM used; SELECT count(*) FROM used",
        DATABASE,
    )
    database.execute(
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;"
        "SELECT v FROM used WHERE id BETWEEN 1 AND 7; UPDATE used SET v = 1 WHERE id <= 20;"
        "DELETE FROM used WHERE id <= 3",
        DATABASE,
    )
    found = page_when(database, lambda p: value_of(p, "pg_table_deleted_tuples_total", relname="used") == 3)
    labels = {"datname": DATABASE, "schemaname": "public", "relname": "used"}
    assert found.value("pg_table_seq_scans_total", **labels) == 3  # one made the index, before there were rows
    assert found.value("pg_table_seq_tuples_read_total", **labels) == 2000
    assert found.value("pg_table_index_scans_total", **labels) == 3
    assert found.value("pg_table_index_tuples_fetched_total", **labels) == 7 + 20 + 3
    assert found.value("pg_table_inserted_tuples_total", **labels) == 1000
    assert found.value("pg_table_updated_tuples_total", **labels) == 20
    assert found.value("pg_table_hot_updated_tuples_total", **labels) == 20
    newer = ("pg_table_last_seq_scan_timestamp_seconds", "pg_table_last_index_scan_timestamp_seconds")
    for name in newer:
        times = [began_at <= value <= time.time() for _, value in found.series(name, **labels)]
        assert times == [True] * (major >= 16)
    assert [v for _, v in found.series("pg_table_newpage_updated_tuples_total", **labels)] == [0] * (major >= 16)


async def test_what_a_dropped_index_had_counted_stays_in_the_sums_of_its_table(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE twice (a int PRIMARY KEY, b int UNIQUE) WITH (autovacuum_enabled = off);"
        "INSERT INTO twice SELECT i, i FROM generate_series(1, 1000) AS i",
        DATABASE,
    )
    scan = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;"
    by_a, by_b = "SELECT * FROM twice WHERE a = 7;", "SELECT * FROM twice WHERE b = 7;"
    database.execute(scan + by_a * 2 + by_b * 5, DATABASE)
    watched = target(database.dsn(DATABASE, MONITOR), uncached())
    scans = "pg_table_index_scans_total"
    try:
        before = await scraped_when(watched, lambda p: value_of(p, scans, relname="twice") == 7)
        database.execute("ALTER TABLE twice DROP CONSTRAINT twice_b_key", DATABASE)
        assert (await scraped(watched)).value(scans, relname="twice") == 7
        database.execute(scan + by_a, DATABASE)
        after = await scraped_when(watched, lambda p: value_of(p, scans, relname="twice") == 8)
    finally:
        await watched.close()
    for name in ("pg_table_index_tuples_fetched_total", "pg_table_index_blocks_hit_total"):
        assert after.value(name, relname="twice") > before.value(name, relname="twice")


def test_the_table_that_a_missing_index_makes_the_server_read_comes_first(database: Cluster) -> None:
    """Incident 1: nothing but sequential scans of a table with many rows."""
    database.execute(
        "CREATE TABLE dashboard AS SELECT i AS id, i % 10 AS tenant_id FROM generate_series(1, 20000) AS i;"
        "CREATE TABLE written (id int); INSERT INTO written SELECT generate_series(1, 30000)",
        DATABASE,
    )
    database.execute("SELECT count(*) FROM dashboard WHERE tenant_id = 3;" * 5, DATABASE)
    reads = "pg_table_seq_tuples_read_total"
    found = page_when(database, lambda p: value_of(p, reads, relname="dashboard") == 100_000)
    tables = [had["relname"] for had, _ in found.series(reads, datname=DATABASE)]
    assert tables[0] == "dashboard"
    assert "written" in tables[:3]
    assert not found.series("pg_table_index_scans_total", relname="dashboard")
    assert not [had for had, _ in found.samples[reads] if had["schemaname"] in ("pg_catalog", "information_schema")]


def test_blocks_are_counted_by_what_they_belong_to(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE fat (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);"
        "ALTER TABLE fat ALTER COLUMN v SET STORAGE EXTERNAL;"
        "INSERT INTO fat SELECT i, repeat('x', 10000) FROM generate_series(1, 100) AS i;"
        "CREATE TABLE slim (id int)",
        DATABASE,
    )
    hit = "pg_table_toast_blocks_hit_total"
    before = page_when(database, lambda p: value_of(p, hit, relname="fat") > 0)
    database.execute("SELECT sum(length(v || 'y')) FROM fat", DATABASE)
    after = page_when(database, lambda p: value_of(p, hit, relname="fat") > value_of(before, hit, relname="fat"))
    counted = database.query("SELECT * FROM pg_statio_user_tables WHERE relname = 'fat'", database=DATABASE)[0]
    for ours, theirs in (("heap", "heap"), ("index", "idx"), ("toast", "toast"), ("toast_index", "tidx")):
        for what in ("read", "hit"):
            shown = after.value(f"pg_table_{ours}_blocks_{what}_total", relname="fat", datname=DATABASE)
            assert shown == counted[f"{theirs}_blks_{what}"]
    assert after.value(hit, relname="fat") - before.value(hit, relname="fat") >= 100
    assert not after.series(hit, relname="slim")


def test_tables_have_the_size_of_their_files_and_schemas_that_of_the_last_vacuum(database: Cluster) -> None:
    database.execute(
        "CREATE SCHEMA sized; CREATE TABLE sized.big (id int PRIMARY KEY, v text);"
        "ALTER TABLE sized.big ALTER COLUMN v SET STORAGE EXTERNAL;"
        "INSERT INTO sized.big SELECT i, repeat('x', 4000) FROM generate_series(1, 500) AS i;"
        "CREATE INDEX ON sized.big (id, left(v, 10));"
        "CREATE TABLE sized.small AS SELECT 1 AS id; CREATE SEQUENCE sized.s",
        DATABASE,
    )
    database.execute("VACUUM sized.big", DATABASE)
    database.execute("VACUUM sized.small", DATABASE)
    found = page_of(database)
    indexes = bytes_of(database, "sized.big_pkey", "sized.big_id_left_idx")
    toast = database.value(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'big'", database=DATABASE
    )
    toasted = bytes_of(database, toast, f"{toast}_index")
    assert min(indexes, toasted) > 0
    assert_sizes_are_real(database, found, "sized", "big")
    labels = {"datname": DATABASE, "schemaname": "sized"}
    tables = bytes_of(database, "sized.big", "sized.small")
    assert found.value("pg_schema_table_estimated_bytes", **labels) == tables
    assert found.value("pg_schema_index_estimated_bytes", **labels) == indexes
    assert found.value("pg_schema_toast_estimated_bytes", **labels) >= toasted
    assert found.value("pg_schema_tables", **labels) == 2
    assert found.value("pg_schema_indexes", **labels) == 2
    assert found.value("pg_schema_sequences", **labels) == 1
    assert found.value("pg_schema_unreadable_sequences", **labels) == 1


def assert_sizes_are_real(server: Cluster, found: Page, schema: str, table: str) -> None:
    """Compare the sizes of a table with what its files hold."""
    functions = "pg_total_relation_size($1::text::regclass), pg_indexes_size($1::text::regclass)"
    toast = "SELECT pg_total_relation_size(reltoastrelid) FROM pg_class WHERE oid = $1::text::regclass"
    [real] = server.query(f"SELECT {functions}, ({toast})", f"{schema}.{table}", database=DATABASE)
    names = ("pg_table_total_size_bytes", "pg_table_index_size_bytes", "pg_table_toast_size_bytes")
    assert [found.value(name, schemaname=schema, relname=table) for name in names] == list(real)


def test_a_table_that_was_never_vacuumed_has_its_real_size_at_once(database: Cluster) -> None:
    database.execute(
        "CREATE SCHEMA young; SET search_path = young;"
        "CREATE TABLE grown (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);"
        "ALTER TABLE grown ALTER COLUMN v SET STORAGE EXTERNAL;"
        "INSERT INTO grown SELECT i, repeat('x', 3000) FROM generate_series(1, 2000) AS i;"
        "CREATE TABLE wide (id int, v text) WITH (autovacuum_enabled = off);"
        "INSERT INTO wide SELECT i, repeat('x', 500) FROM generate_series(1, 5000) AS i",
        DATABASE,
    )
    assert database.value("SELECT relpages FROM pg_class WHERE relname = 'wide'", database=DATABASE) == 0
    found = page_when(database, lambda p: value_of(p, "pg_table_total_size_bytes", relname="wide"))
    assert_sizes_are_real(database, found, "young", "grown")
    assert found.value("pg_table_total_size_bytes", relname="wide") > 5000 * 500
    for table in ("grown", "wide"):
        real = database.value("SELECT pg_table_size($1::text::regclass)", f"young.{table}", database=DATABASE)
        assert found.value("pg_table_size_bytes", relname=table) == real
    index = database.value("SELECT pg_relation_size('young.grown_pkey')", database=DATABASE)
    assert found.value("pg_index_size_bytes", indexrelname="grown_pkey") == index


@pytest.mark.parametrize("command", ["TRUNCATE busy", "REINDEX INDEX busy_pkey", "LOCK TABLE busy"])
async def test_a_table_whose_lock_is_taken_or_queued_for_is_not_measured_and_costs_no_other(
    database: Cluster, command: str
) -> None:
    """The last command waits for a reader: whoever measured would queue behind it."""
    create = "CREATE TABLE IF NOT EXISTS {0} AS SELECT i AS id FROM generate_series(1, 2000) AS i"
    for table in ("busy", "quiet"):
        database.execute(create.format(table), DATABASE)
    primary_key = "CREATE UNIQUE INDEX IF NOT EXISTS busy_pkey ON busy (id)"
    database.execute(primary_key, DATABASE)
    async with session(database) as reader, session(database) as writer:
        if command.startswith("LOCK"):
            await reader.execute("BEGIN; SELECT count(*) FROM busy")
        taking = asyncio.create_task(writer.execute(f"BEGIN; {command}"))
        held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted <> $1"
        await until(lambda: database.value(held, command.startswith("LOCK")))
        found = page_of(database)
        await reader.execute("ROLLBACK")
        await taking
        await writer.execute("ROLLBACK")
    for collector in ("table_vacuum", "table_sizes", "indexes"):
        assert found.value("pgvigil_collector_success", collector=collector, datname=DATABASE) == 1
    assert not found.series("pg_table_total_size_bytes", relname="busy")
    assert found.value("pg_table_total_size_bytes", relname="quiet") >= 8 * BLOCK
    assert found.value("pg_table_live_tuples", relname="busy") >= 0
    assert bool(found.series("pg_index_size_bytes", indexrelname="busy_pkey")) == command.startswith("LOCK")
    assert page_of(database).value("pg_table_total_size_bytes", relname="busy") > 0


async def test_what_lacks_a_key_has_the_size_of_its_files_that_of_the_catalog_while_measuring_would_wait(
    database: Cluster,
) -> None:
    database.execute(
        "CREATE SCHEMA raw; SET search_path = raw;"
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);"
        "CREATE TABLE bare (id int REFERENCES parent) PARTITION BY LIST (id);"
        "CREATE TABLE bare_1 PARTITION OF bare FOR VALUES IN (1) WITH (autovacuum_enabled = off);"
        "CREATE INDEX spare ON bare ((id + 1)); INSERT INTO bare SELECT 1 FROM generate_series(1, 20000)",
        DATABASE,
    )
    table, index = database.query(
        "SELECT pg_relation_size(o) FROM unnest(ARRAY['raw.bare_1', 'raw.bare_1_expr_idx']::regclass[]) AS o",
        database=DATABASE,
    )
    whole = database.value("SELECT pg_total_relation_size('raw.bare_1')", database=DATABASE)
    sizes = {
        "pg_table_without_primary_key_bytes": table[0],
        "pg_foreign_key_without_index_bytes": table[0],
        "pg_index_unused_bytes": index[0],
        "pg_partitioned_table_total_size_bytes": whole,
    }
    assert min(sizes.values()) > 10 * BLOCK
    found = page_of(database)
    assert {name: found.value(name, relname="bare") for name in sizes} == sizes
    async with session(database) as client:
        await client.execute("BEGIN; DROP INDEX raw.spare")
        during = page_of(database)
        await client.execute("ROLLBACK")
    for name in sizes:
        assert during.value(name, relname="bare") < 10 * BLOCK  # as of the catalog, which knows nothing of the rows
    database.execute("DROP SCHEMA raw CASCADE", DATABASE)


def test_a_large_table_is_found_after_a_reset_of_statistics_before_any_vacuum(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE forgotten (v text) WITH (autovacuum_enabled = off);"
        "INSERT INTO forgotten SELECT repeat('x', 500) FROM generate_series(1, 5000)",
        DATABASE,
    )
    counted = "SELECT pg_stat_get_live_tuples('forgotten'::regclass)"
    page_when(database, lambda _: database.value(counted, database=DATABASE) > 0)
    database.execute("SELECT pg_stat_reset_single_table_counters('forgotten'::regclass)", DATABASE)
    found = page_when(database, lambda _: database.value(counted, database=DATABASE) == 0)
    assert found.value("pg_table_total_size_bytes", relname="forgotten") > 5000 * 500
    database.execute("DROP TABLE forgotten", DATABASE)


def test_tables_that_grew_are_the_largest_after_a_reset_of_statistics(database: Cluster) -> None:
    """What no row is counted in is measured: heap and TOAST, whatever the last vacuum left in pg_class."""
    database.execute(
        "CREATE TABLE docs (v text) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);"
        "ALTER TABLE docs ALTER v SET STORAGE EXTERNAL;"
        "CREATE TABLE grown (v text) WITH (autovacuum_enabled = off); INSERT INTO grown VALUES ('x')",
        DATABASE,
    )
    for table in ("docs", "grown"):
        database.execute(f"VACUUM {table}", DATABASE)
    database.execute(
        "INSERT INTO docs SELECT repeat('x', 3000) FROM generate_series(1, 2000);"
        "INSERT INTO grown SELECT repeat('x', 500) FROM generate_series(1, 5000);"
        + "".join(
            f"CREATE TABLE small_{i} WITH (autovacuum_enabled = off)"
            " AS SELECT repeat('x', 500) FROM generate_series(1, 500);"
            for i in range(52)
        ),
        DATABASE,
    )
    for i in range(52):
        database.execute(f"VACUUM small_{i}", DATABASE)
    counted = "SELECT pg_stat_get_live_tuples('grown'::regclass)"
    page_when(database, lambda _: database.value(counted, database=DATABASE) > 0)
    database.execute("SELECT pg_stat_reset()", DATABASE)
    found = page_when(database, lambda _: database.value(counted, database=DATABASE) == 0)
    first = [had["relname"] for had, _ in found.series("pg_table_total_size_bytes", datname=DATABASE)][:2]
    assert sorted(first) == ["docs", "grown"]
    tables = ", ".join(["docs", "grown", *(f"small_{i}" for i in range(52))])
    database.execute(f"DROP TABLE {tables}", DATABASE)


async def test_a_locked_partition_costs_the_whole_its_own_part_and_one_being_detached_is_none(
    database: Cluster, major: int
) -> None:
    database.execute(
        "CREATE SCHEMA parts; SET search_path = parts; CREATE TABLE log (id int) PARTITION BY LIST (id);"
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1) WITH (autovacuum_enabled = off);"
        "CREATE TABLE log_2 PARTITION OF log FOR VALUES IN (2) WITH (autovacuum_enabled = off);"
        "INSERT INTO log SELECT 1 + i % 2 FROM generate_series(1, 20000) AS i",
        DATABASE,
    )
    size, metric = "SELECT pg_total_relation_size($1::text::regclass)", "pg_partitioned_table_total_size_bytes"
    sizes = [database.value(size, f"parts.log_{number}", database=DATABASE) for number in (1, 2)]
    assert page_of(database).value(metric, relname="log", schemaname="parts") == sum(sizes) > 40 * BLOCK
    async with session(database) as client:
        await client.execute("BEGIN; LOCK TABLE parts.log_1")
        assert page_of(database).value(metric, relname="log", schemaname="parts") == sizes[1]
        await client.execute("ROLLBACK")
    if major >= 14:
        async with session(database) as reader, session(database) as client:
            await reader.execute("BEGIN; SELECT count(*) FROM parts.log")
            detach = client.execute("ALTER TABLE parts.log DETACH PARTITION parts.log_1 CONCURRENTLY")
            detaching = asyncio.create_task(detach)
            pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
            await until(lambda: database.value(pending, database=DATABASE))
            database.execute(f"SELECT pg_cancel_backend({client.get_server_pid()})")
            with suppress(asyncpg.QueryCanceledError):
                await detaching
            await reader.execute("COMMIT")
        assert page_of(database).value(metric, relname="log", schemaname="parts") == sizes[1]
    database.execute("DROP SCHEMA parts CASCADE", DATABASE)


KEYS = """
    CREATE SCHEMA keys;
    SET search_path = keys;
    CREATE TABLE parent (a int, b int, PRIMARY KEY (a, b));
    CREATE TABLE bare (a int, b int, CONSTRAINT without FOREIGN KEY (a, b) REFERENCES parent);
    CREATE TABLE half (a int, b int, CONSTRAINT half_indexed FOREIGN KEY (a, b) REFERENCES parent);
    CREATE INDEX ON half (a);
    CREATE TABLE included (a int, b int, CONSTRAINT only_included FOREIGN KEY (a, b) REFERENCES parent);
    CREATE INDEX ON included (a) INCLUDE (b);
    CREATE TABLE partial (a int, b int, CONSTRAINT in_part FOREIGN KEY (a, b) REFERENCES parent);
    CREATE INDEX ON partial (a, b) WHERE a > 0;
    CREATE TABLE turned (id int PRIMARY KEY, a int, b int, CONSTRAINT indexed FOREIGN KEY (a, b) REFERENCES parent);
    CREATE INDEX ON turned (b, a, id);
    CREATE TABLE split (a int, b int, CONSTRAINT of_the_whole FOREIGN KEY (a, b) REFERENCES parent)
        PARTITION BY RANGE (a);
    CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (100);
    CREATE TABLE split_2 PARTITION OF split FOR VALUES FROM (100) TO (200);
    INSERT INTO parent SELECT i, i FROM generate_series(1, 150) AS i;
    INSERT INTO split SELECT i, i FROM generate_series(1, 150) AS i;
"""


def test_foreign_keys_without_an_index_are_counted_and_named(database: Cluster) -> None:
    """Of a partitioned table the whole is named, with the size of all its partitions."""
    database.execute(KEYS, DATABASE)
    database.execute("ANALYZE keys.split", DATABASE)
    found = page_of(database)
    without = found.series("pg_foreign_key_without_index_bytes", schemaname="keys")
    assert {(had["relname"], had["conname"]) for had, _ in without} == {
        ("bare", "without"),
        ("half", "half_indexed"),
        ("included", "only_included"),
        ("partial", "in_part"),
        ("split", "of_the_whole"),
    }
    assert without[0][0]["relname"] == "split"
    assert without[0][1] == 2 * BLOCK
    assert found.value("pg_schema_foreign_keys_without_index", schemaname="keys", datname=DATABASE) == len(without)
    lacking = found.series("pg_table_without_primary_key_bytes", schemaname="keys")
    assert {had["relname"] for had, _ in lacking} == {"bare", "half", "included", "partial", "split"}
    assert found.value("pg_schema_tables_without_primary_key", schemaname="keys", datname=DATABASE) == len(lacking)


SERVING: list[tuple[str, bool]] = [
    # an index of the child whose key is (a, b), or b if it has no a, and whether a delete from the parent can use it
    ("CREATE INDEX i ON child (a, b) WHERE a IS NOT NULL", True),
    ("CREATE INDEX i ON child (b, a) WHERE b IS NOT NULL AND a IS NOT NULL", True),
    ("CREATE INDEX i ON child (a, b) WHERE a IS NOT NULL AND c IS NOT NULL", False),
    ("CREATE INDEX i ON child (a, b) WHERE a IS NULL", False),
    ("CREATE INDEX i ON child (a, b) WHERE a IS NOT NULL OR b IS NOT NULL", True),
    ("CREATE INDEX i ON child (a, b) WHERE (a + 1) IS NOT NULL", False),
    ('CREATE INDEX i ON child (b COLLATE "C")', False),
    ("CREATE INDEX i ON child (b)", True),
    ("CREATE INDEX i ON child (b text_pattern_ops, a)", True),
    ("CREATE INDEX i ON child (a, b) WHERE c > 0", False),
]


def scanned(server: Cluster, index: str, within: float) -> bool:
    """Whether statistics count a scan of the index; 13 receives them late."""
    give_up = time.monotonic() + within
    while not (scans := server.value("SELECT pg_stat_get_numscans($1::text::regclass)", index, database=DATABASE)):
        if time.monotonic() > give_up:
            break
        time.sleep(0.1)
    return bool(scans)


def test_an_index_serves_a_foreign_key_when_a_delete_from_the_parent_uses_it(database: Cluster) -> None:
    metric = "pg_foreign_key_without_index_bytes"
    for statement, serves in SERVING:
        key = "a, b" if "a" in statement.split("child (")[1] else "b"
        database.execute(
            f"CREATE TABLE parent (a int, b text, PRIMARY KEY ({key}));"
            f"CREATE TABLE child (a int, b text, c int, FOREIGN KEY ({key}) REFERENCES parent);"
            f"INSERT INTO parent VALUES (1, '1'), (2, '2'); INSERT INTO child VALUES (1, '1', 1); {statement}",
            DATABASE,
        )
        database.execute("SET enable_seqscan = off; DELETE FROM parent WHERE b = '2'", DATABASE)
        found = page_of(database)
        assert scanned(database, "i", within=10 if serves else 0) == serves, statement
        named = bool(found.series(metric, relname="child"))
        assert named == (not serves), statement
        assert found.value("pg_schema_foreign_keys_without_index", schemaname="public", datname=DATABASE) == named
        database.execute("DROP TABLE child, parent", DATABASE)


BY_PARTITION = """
    CREATE SCHEMA leaves; SET search_path = leaves;
    CREATE TABLE parent (a int PRIMARY KEY) PARTITION BY RANGE (a);
    CREATE TABLE parent_1 PARTITION OF parent FOR VALUES FROM (0) TO (10);
    CREATE TABLE parent_2 PARTITION OF parent FOR VALUES FROM (10) TO (20);
    CREATE TABLE child (gone int, b int, a int, CONSTRAINT key FOREIGN KEY (a) REFERENCES parent)
        PARTITION BY RANGE (b);
    ALTER TABLE child DROP COLUMN gone;
    CREATE TABLE child_1 PARTITION OF child FOR VALUES FROM (0) TO (10);
    CREATE TABLE child_2 PARTITION OF child FOR VALUES FROM (10) TO (20) PARTITION BY LIST (b);
    CREATE TABLE child_2_1 PARTITION OF child_2 FOR VALUES IN (11);
    INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (11, 1);
"""

INDEXES: list[tuple[str, bool]] = [
    # what is made of indexes, one after the other, and whether the key has one then in every partition
    ("CREATE INDEX of_1 ON child_1 (a)", False),
    ("CREATE INDEX of_2_1 ON child_2_1 (a) WHERE a IS NOT NULL", True),
    ("CREATE TABLE child_3 PARTITION OF child FOR VALUES FROM (20) TO (30)", False),
    ("CREATE INDEX of_3 ON child_3 (a)", True),
    ("DROP INDEX of_2_1", False),
    ("CREATE INDEX of_2 ON child_2 (a)", True),
    ("CREATE INDEX whole ON ONLY child (a)", True),
    ("DROP INDEX whole, of_1, of_2, of_3", False),
    ("CREATE INDEX whole ON child (a)", True),
]


def test_indexes_of_all_partitions_serve_a_foreign_key_as_one_of_the_whole_does(database: Cluster) -> None:
    database.execute(BY_PARTITION, DATABASE)
    for statement, has_index in INDEXES:
        database.execute(f"SET search_path = leaves; {statement}", DATABASE)
        found = page_of(database)
        named = [had["relname"] for had, _ in found.series("pg_foreign_key_without_index_bytes", schemaname="leaves")]
        assert named == ([] if has_index else ["child"]), statement
        assert found.value("pg_schema_foreign_keys_without_index", schemaname="leaves") == len(named), statement
    database.execute("DROP SCHEMA leaves CASCADE", DATABASE)


def test_an_index_without_the_equality_of_a_foreign_key_does_not_serve_it(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE parent (a jsonb PRIMARY KEY); CREATE TABLE child (a jsonb REFERENCES parent);"
        "CREATE INDEX ON child USING gin (a jsonb_path_ops)",
        DATABASE,
    )
    found = page_of(database)
    assert found.series("pg_foreign_key_without_index_bytes", relname="child")
    assert found.value("pg_schema_foreign_keys_without_index", schemaname="public", datname=DATABASE) == 1
    database.execute("CREATE INDEX ON child USING hash (a)", DATABASE)
    assert not page_of(database).series("pg_foreign_key_without_index_bytes", relname="child")
    database.execute("DROP TABLE child, parent", DATABASE)


def test_a_replica_identity_does_what_a_primary_key_would(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE told (a int NOT NULL); CREATE UNIQUE INDEX told_a ON told (a)",
        DATABASE,
    )
    assert page_of(database).series("pg_table_without_primary_key_bytes", relname="told")
    count = page_of(database).value("pg_schema_tables_without_primary_key", schemaname="public", datname=DATABASE)
    database.execute("ALTER TABLE told REPLICA IDENTITY USING INDEX told_a", DATABASE)
    found = page_of(database)
    assert not found.series("pg_table_without_primary_key_bytes", relname="told")
    assert found.value("pg_schema_tables_without_primary_key", schemaname="public", datname=DATABASE) == count - 1
    database.execute("DROP TABLE told", DATABASE)


def test_a_foreign_key_that_brin_indexes_has_no_index_and_one_that_is_not_enforced_needs_none(
    database: Cluster, major: int
) -> None:
    enforced = ["", "NOT ENFORCED"] if major >= 18 else [""]
    for words in enforced:
        database.execute(
            "CREATE TABLE parent (a int PRIMARY KEY);"
            f"CREATE TABLE child (a int, CONSTRAINT key FOREIGN KEY (a) REFERENCES parent {words});"
            "CREATE INDEX ON child USING brin (a)",
            DATABASE,
        )
        found = page_of(database)
        named = [had["conname"] for had, _ in found.series("pg_foreign_key_without_index_bytes", relname="child")]
        assert named == ([] if words else ["key"])
        count = found.value("pg_schema_foreign_keys_without_index", schemaname="public", datname=DATABASE)
        assert count == len(named)
        database.execute("DROP TABLE child, parent", DATABASE)


def test_foreign_keys_of_another_type_than_they_refer_to_are_named_by_column(database: Cluster) -> None:
    database.execute(
        """
        CREATE SCHEMA typed; SET search_path = typed;
        CREATE DOMAIN whole AS int; CREATE DOMAIN large AS bigint;
        CREATE TABLE parent (id bigint PRIMARY KEY); CREATE TABLE named (name text PRIMARY KEY);
        CREATE TABLE pair (a int, b numeric, PRIMARY KEY (a, b));
        CREATE TABLE short (id int, v text, CONSTRAINT short_key FOREIGN KEY (id) REFERENCES parent);
        CREATE TABLE same (id bigint REFERENCES parent, name varchar(9) REFERENCES named, n large REFERENCES parent);
        CREATE TABLE of_domain (id whole, CONSTRAINT domain_key FOREIGN KEY (id) REFERENCES parent);
        CREATE TABLE second (a int, b int, CONSTRAINT pair_key FOREIGN KEY (a, b) REFERENCES pair);
        CREATE TABLE sliced (id int, CONSTRAINT sliced_key FOREIGN KEY (id) REFERENCES parent) PARTITION BY RANGE (id);
        CREATE TABLE sliced_1 PARTITION OF sliced FOR VALUES FROM (0) TO (900000);
        INSERT INTO parent SELECT generate_series(1, 40000);
        INSERT INTO sliced SELECT generate_series(1, 40000)
        """,
        DATABASE,
    )
    database.execute("ANALYZE typed.sliced_1", DATABASE)
    found = page_of(database).series("pg_foreign_key_mistyped", datname=DATABASE, schemaname="typed")
    labels = ("relname", "conname", "attname", "data_type", "referenced_data_type")
    assert [tuple(had[label] for label in labels) for had, _ in found] == [
        ("sliced", "sliced_key", "id", "integer", "bigint"),
        ("short", "short_key", "id", "integer", "bigint"),
        ("of_domain", "domain_key", "id", "typed.whole", "bigint"),
        ("second", "pair_key", "b", "integer", "numeric"),
    ]
    assert {value for _, value in found} == {1}
    database.execute("DROP SCHEMA typed CASCADE", DATABASE)


def test_no_size_is_negative_where_partitioned_tables_were_analyzed(database: Cluster) -> None:
    """PostgreSQL 14 and later keep -1 pages for them."""
    database.execute(
        "CREATE SCHEMA hollow; SET search_path = hollow; CREATE TABLE other (id int PRIMARY KEY);"
        "CREATE TABLE parent (id int REFERENCES other) PARTITION BY RANGE (id); CREATE INDEX ON parent (id);"
        "CREATE TABLE beside (id int REFERENCES other) PARTITION BY RANGE (id);"
        "CREATE TABLE full_part PARTITION OF parent FOR VALUES FROM (0) TO (10);"
        "INSERT INTO other VALUES (1); INSERT INTO parent VALUES (1);"
        "ANALYZE parent; ANALYZE beside",
        DATABASE,
    )
    found = page_of(database)
    assert found.value("pg_schema_table_estimated_bytes", schemaname="hollow", datname=DATABASE) == BLOCK
    lacking = {had["relname"]: size for had, size in found.series("pg_table_without_primary_key_bytes")}
    assert (lacking["parent"], lacking["beside"]) == (BLOCK, 0)
    assert found.value("pg_foreign_key_without_index_bytes", relname="beside") == 0
    database.execute("DROP SCHEMA hollow CASCADE", DATABASE)


async def test_bloat_is_estimated_where_it_is_asked_for_and_the_tables_may_be_read(database: Cluster) -> None:
    database.execute(
        "CREATE EXTENSION pgstattuple; CREATE TABLE bloated (id int, v text) WITH (autovacuum_enabled = off);"
        "INSERT INTO bloated SELECT i, repeat('x', 50) FROM generate_series(1, 20000) AS i;"
        "CREATE TABLE dense AS TABLE bloated; CREATE TABLE narrowed AS TABLE bloated;"
        "ALTER TABLE narrowed DROP COLUMN v; DELETE FROM bloated WHERE id % 5 > 0",
        DATABASE,
    )
    for table in ("bloated", "dense", "narrowed"):
        database.execute(f"VACUUM ANALYZE {table}", DATABASE)
    collectors = (c.model_copy(update={"enabled": True}) for c in catalog() if c.name == "table_bloat")
    estimating = target(database.dsn(DATABASE, MONITOR), Catalog(tuple(collectors)))
    ratio = "pg_table_bloat_estimate_ratio"
    assert not written(await estimating.scrape(9.0)).series(ratio, relname="bloated")
    await estimating.close()
    database.execute(f"GRANT SELECT ON bloated, dense, narrowed TO {MONITOR}", DATABASE)
    collectors = (c.model_copy(update={"enabled": True}) for c in catalog() if c.name == "table_bloat")
    estimating = target(database.dsn(DATABASE, MONITOR), Catalog(tuple(collectors)))
    found = written(await estimating.scrape(9.0))
    await estimating.close()
    assert not page_of(database).series(ratio)
    free = database.value("SELECT free_percent / 100 FROM pgstattuple('bloated')", database=DATABASE)
    assert found.value(ratio, relname="bloated") == pytest.approx(free, abs=0.1)
    assert found.value(ratio, relname="dense") == pytest.approx(0, abs=0.05)
    assert not found.series(ratio, relname="narrowed")
    size = database.value("SELECT pg_relation_size('bloated')", database=DATABASE)
    assert found.value("pg_table_bloat_estimate_bytes", relname="bloated") == pytest.approx(
        found.value(ratio, relname="bloated") * size
    )


async def test_locked_tables_indexes_and_partitions_are_waited_for_by_nobody(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE locked (id serial PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE locked_1 PARTITION OF locked FOR VALUES FROM (0) TO (9);"
        "CREATE TABLE emptied (id serial PRIMARY KEY);"
        f"GRANT SELECT ON SEQUENCE locked_id_seq, emptied_id_seq TO {MONITOR}",
        DATABASE,
    )
    names = ["table_access", "table_sizes", "schemas", "indexes", "index_advice", "sequences"]
    names += ["foreign_keys_without_index", "foreign_keys_mistyped", "tables_without_primary_key", "partitioned_tables"]
    async with session(database) as client:
        await client.execute(
            "BEGIN; ALTER TABLE locked ADD COLUMN v text; TRUNCATE emptied RESTART IDENTITY; REINDEX TABLE locked_1;"
            "ALTER SEQUENCE locked_id_seq INCREMENT 2"
        )
        found = page_of(database)
        await client.execute("ROLLBACK")
    for name in names:
        assert found.value("pgvigil_collector_success", collector=name, datname=DATABASE) == 1, name
    assert not found.series("pg_sequence_used_ratio", sequencename="locked_id_seq")
    assert page_of(database).series("pg_sequence_used_ratio", sequencename="locked_id_seq")


def test_a_partitioned_table_has_a_size_as_a_whole_and_the_largest_tables_say_what_was_purged(
    database: Cluster,
) -> None:
    database.execute(
        "CREATE SCHEMA whole; SET search_path = whole; CREATE TABLE log (id int PRIMARY KEY, v text)"
        " PARTITION BY RANGE (id);"
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (id);"
        "CREATE TABLE log_1a PARTITION OF log_1 FOR VALUES FROM (0) TO (500);"
        "CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (1000) TO (2000);"
        "CREATE TABLE empty (id int) PARTITION BY RANGE (id);"
        "ALTER TABLE log_2 ALTER v SET STORAGE EXTERNAL;"
        "INSERT INTO log SELECT i, repeat('x', 3000) FROM generate_series(1, 1500) AS i WHERE i < 500 OR i > 1000;"
        "CREATE TABLE plain AS SELECT * FROM log; ANALYZE log; ANALYZE plain",
        DATABASE,
    )
    for relation in ("log_1a", "log_2"):
        database.execute(f"VACUUM whole.{relation}", DATABASE)
    database.execute("DELETE FROM whole.plain WHERE id <= 7; DELETE FROM whole.log WHERE id <= 7", DATABASE)
    purged = "pg_table_purged_tuples_total"
    found = page_when(database, lambda p: value_of(p, purged, relname="plain") == 7)
    real = "SELECT pg_total_relation_size('whole.log_1a') + pg_total_relation_size('whole.log_2')"
    whole = database.value(real, database=DATABASE)
    labels = {"datname": DATABASE, "schemaname": "whole"}
    assert found.value("pg_partitioned_table_total_size_bytes", relname="log", **labels) == whole > 1_000_000
    assert found.value("pg_partitioned_table_partitions", relname="log", **labels) == 2
    assert found.value("pg_partitioned_table_total_size_bytes", relname="empty", **labels) == 0
    assert {had["relname"] for had, _ in found.series("pg_partitioned_table_partitions", **labels)} == {"log", "empty"}
    assert not found.series(purged, relname="log_1a")
    database.execute("DROP SCHEMA whole CASCADE", DATABASE)


def test_rows_in_default_partitions_of_all_levels_are_counted_as_the_statistics_have_them(database: Cluster) -> None:
    database.execute(
        "CREATE SCHEMA stray; SET search_path = stray;"
        "CREATE TABLE plain (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE plain_1 PARTITION OF plain FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE plain_rest PARTITION OF plain DEFAULT;"
        "CREATE TABLE nested (id int, kind int) PARTITION BY RANGE (id);"
        "CREATE TABLE nested_1 PARTITION OF nested FOR VALUES FROM (0) TO (100) PARTITION BY LIST (kind);"
        "CREATE TABLE nested_1_rest PARTITION OF nested_1 DEFAULT;"
        "CREATE TABLE nested_rest PARTITION OF nested DEFAULT PARTITION BY LIST (kind);"
        "CREATE TABLE nested_rest_1 PARTITION OF nested_rest FOR VALUES IN (1);"
        "CREATE TABLE without (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE without_1 PARTITION OF without FOR VALUES FROM (0) TO (100);"
        "INSERT INTO plain SELECT generate_series(1, 120); DELETE FROM plain WHERE id > 115;"
        "INSERT INTO nested SELECT 5, 5 FROM generate_series(1, 4); INSERT INTO nested VALUES (200, 1), (300, 1)",
        DATABASE,
    )
    rows = "pg_partitioned_table_default_estimated_rows"
    found = page_when(database, lambda page: value_of(page, rows, schemaname="stray") == 16 + 6)
    shown = {had["relname"]: value for had, value in found.series(rows, datname=DATABASE, schemaname="stray")}
    assert shown == {"plain": 16, "nested": 6}
    database.execute("ANALYZE stray.plain; SELECT pg_stat_reset()", DATABASE)
    page_when(database, lambda page: value_of(page, rows, schemaname="stray") == 16)  # a crash loses them as well
    database.execute("DROP SCHEMA stray CASCADE", DATABASE)
