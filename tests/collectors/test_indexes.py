"""Indexes that are used, unused, superfluous or left behind invalid."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import asyncpg
import pytest
from module_database import DATABASE, page_of, page_when, session
from pages import MONITOR, Page, page
from patience import until, wait_until

from exporter.demo.cluster import Cluster

COLLECTORS = ("index_advice", "index_bloat", "indexes", "progress", "schemas", "table_vacuum")


def bytes_of(server: Cluster, index: str) -> int:
    return 8192 * int(server.value("SELECT relpages FROM pg_class WHERE relname = $1", index, database=DATABASE))


def advised(found: Page, relname: str) -> Mapping[str, Mapping[str, str]]:
    """Of a table, what is said of each index: `unused`, `duplicate` of whom, `redundant` because of whom."""
    said: dict[str, dict[str, str]] = {}
    for what, label in (("unused", ""), ("duplicate", "duplicate_of"), ("redundant", "covered_by")):
        for had, _ in found.series(f"pg_index_{what}_bytes", relname=relname, datname=DATABASE):
            said.setdefault(had["indexrelname"], {})[what] = had.get(label, "")
    return said


def test_scans_blocks_and_size_of_an_index(database: Cluster, major: int) -> None:
    began_at = time.time()
    database.execute(
        "CREATE TABLE scanned (id int PRIMARY KEY, v int) WITH (autovacuum_enabled = off);"
        "INSERT INTO scanned SELECT i, i FROM generate_series(1, 5000) AS i",
        DATABASE,
    )
    database.execute("VACUUM scanned", DATABASE)
    query = "SELECT v FROM scanned WHERE id BETWEEN 11 AND 20;"
    database.execute("SET enable_seqscan = off; SET enable_bitmapscan = off;" + query * 3, DATABASE)
    labels = {"datname": DATABASE, "schemaname": "public", "relname": "scanned", "indexrelname": "scanned_pkey"}
    found = page_when(database, lambda p: p.value("pg_index_scans_total", **labels) == 3)
    assert found.value("pg_index_tuples_read_total", **labels) == 30
    assert found.value("pg_index_tuples_fetched_total", **labels) == 30
    assert found.value("pg_index_size_bytes", **labels) == database.value(
        "SELECT pg_relation_size('scanned_pkey')", database=DATABASE
    )
    [blocks] = database.query(
        "SELECT idx_blks_read, idx_blks_hit FROM pg_statio_user_indexes WHERE indexrelname = 'scanned_pkey'",
        database=DATABASE,
    )
    shown = [found.value(f"pg_index_blocks_{what}_total", **labels) for what in ("read", "hit")]
    assert shown == list(blocks)
    last = found.series("pg_index_last_scan_timestamp_seconds", **labels)
    assert [began_at <= value <= time.time() for _, value in last] == [True] * (major >= 16)
    assert not found.series("pg_index_invalid", **labels)


async def test_an_index_that_a_failed_build_left_behind_is_told_from_one_being_built(database: Cluster) -> None:
    """Incident 4: CREATE INDEX CONCURRENTLY waits for an open transaction, is ended, and leaves its index invalid."""
    database.execute("CREATE TABLE orders (id int, v int); INSERT INTO orders SELECT 1, 1", DATABASE)
    labels = {"datname": DATABASE, "relname": "orders", "indexrelname": "nightly"}
    async with session(database) as writer, session(database) as builder, session(database) as watch:
        await writer.execute("BEGIN; INSERT INTO orders VALUES (2, 2)")
        building = asyncio.create_task(builder.execute("CREATE INDEX CONCURRENTLY nightly ON orders (id)"))
        waiting = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
        await until(lambda: watch.fetchval(waiting))
        during = page_of(database)
        await watch.execute(f"SELECT pg_cancel_backend({builder.get_server_pid()})")
        with suppress(asyncpg.QueryCanceledError):
            await building
        await writer.execute("ROLLBACK")
    after = page_of(database)
    assert during.value("pg_index_invalid", **labels) == 0
    assert after.value("pg_index_invalid", **labels) == 1
    assert after.value("pg_index_ready", **labels) == 0
    assert after.value("pg_schema_invalid_indexes", schemaname="public", datname=DATABASE) == 1
    assert after.samples["pg_index_size_bytes"][0][0]["indexrelname"] == "nightly"
    phase = during.labels("pg_progress_phase", relname="public.orders")
    assert phase["phase"] == "waiting for writers before build"
    assert phase["command"] == "CREATE INDEX CONCURRENTLY"
    assert phase["indexrelname"] == "public.nightly"
    assert during.value("pg_progress_total_lockers", relname="public.orders") == 1
    assert during.value("pg_progress_done_lockers", relname="public.orders") == 0
    database.execute("DROP INDEX nightly", DATABASE)
    assert not page_of(database).series("pg_index_invalid", **labels)


async def test_a_role_that_may_not_see_a_build_is_told_so(database: Cluster) -> None:
    """It does not see which index is built, only by the locks that it is none of another table."""
    database.execute(
        "CREATE TABLE watched AS SELECT 1 AS id; CREATE TABLE doubled AS SELECT 1 AS id FROM generate_series(1, 2);"
        "CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        " 'BEGIN PERFORM pg_sleep(60); RETURN 1; END'; CREATE ROLE stranger LOGIN",
        DATABASE,
    )
    with suppress(asyncpg.UniqueViolationError):
        database.execute("CREATE UNIQUE INDEX CONCURRENTLY left_behind ON doubled (id)", DATABASE)
    builds = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE $1"
    pages = []
    try:
        async with session(database) as writer, session(database) as builder, session(database) as watch:
            await writer.execute("BEGIN; INSERT INTO watched VALUES (1)")
            for what, phase in (
                ("CONCURRENTLY in_work ON watched (id)", "waiting%"),
                ("ON watched (slow(id))", "build%"),
            ):
                building = asyncio.create_task(builder.execute(f"CREATE INDEX {what}"))
                await until(partial(watch.fetchval, builds, phase))
                pages.append(page(database.dsn(DATABASE, "stranger")))
                await writer.execute("ROLLBACK")
                await watch.execute(f"SELECT pg_cancel_backend({builder.get_server_pid()})")
                await asyncio.gather(building, return_exceptions=True)
                await watch.execute("DROP INDEX IF EXISTS in_work")
    finally:
        database.execute("DROP TABLE watched, doubled; DROP FUNCTION slow; DROP ROLE stranger", DATABASE)
    concurrent, plain = pages
    of = {"collector": "indexes", "datname": DATABASE}
    assert concurrent.value("pgvigil_collector_errors_total", **of, reason="permission") == 1
    assert not concurrent.series("pg_index_invalid")
    assert plain.value("pgvigil_collector_success", **of) == 1
    assert plain.value("pg_index_invalid", datname=DATABASE) == 1


async def test_an_index_left_behind_stays_so_while_somebody_comments_on_it(database: Cluster) -> None:
    database.execute("CREATE TABLE noted (id int); CREATE INDEX noted_id ON noted (id)", DATABASE)
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'noted_id'::regclass", DATABASE)
    async with session(database) as client:
        await client.execute("BEGIN; COMMENT ON INDEX noted_id IS 'to be built again'")
        assert page_of(database).value("pg_index_invalid", indexrelname="noted_id") == 1
        await client.execute("ROLLBACK")
    database.execute("DROP TABLE noted", DATABASE)


def test_the_index_of_a_foreign_key_is_not_called_unused(database: Cluster) -> None:
    """No delete from the parent has needed it yet; without it each one would read the whole table."""
    database.execute(
        "CREATE TABLE author (id int PRIMARY KEY); CREATE TABLE book (id int, author int REFERENCES author);"
        "CREATE INDEX book_author ON book (author); CREATE INDEX book_id ON book (id)",
        DATABASE,
    )
    assert advised(page_of(database), "book") == {"book_id": {"unused": ""}}
    database.execute("DROP TABLE book, author", DATABASE)


async def test_an_index_that_is_being_dropped_is_not_called_left_behind(database: Cluster) -> None:
    """DROP INDEX CONCURRENTLY marks it invalid first, then waits for whoever may still read it, and has no progress."""
    database.execute("CREATE TABLE dropped (id int); CREATE INDEX outgoing ON dropped (id)", DATABASE)
    labels = {"datname": DATABASE, "relname": "dropped", "indexrelname": "outgoing"}
    invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('outgoing') AND NOT indisvalid"
    async with session(database) as reader, session(database) as deploy, session(database) as watch:
        await reader.execute("BEGIN; SELECT * FROM dropped")
        dropping = asyncio.create_task(deploy.execute("DROP INDEX CONCURRENTLY outgoing"))
        await until(lambda: watch.fetchval(invalid))
        during = page_of(database)
        await watch.execute(f"SELECT pg_cancel_backend({deploy.get_server_pid()})")
        with suppress(asyncpg.QueryCanceledError):
            await dropping
        await reader.execute("ROLLBACK")
    assert during.value("pg_index_invalid", **labels) == 0
    assert page_of(database).value("pg_index_invalid", **labels) == 1
    database.execute("DROP TABLE dropped", DATABASE)


ADVICE: list[tuple[str, dict[str, dict[str, str]]]] = [
    ("CREATE INDEX i ON t (a)", {"i": {"unused": ""}}),
    ("CREATE UNIQUE INDEX i ON t (a)", {}),
    ("ALTER TABLE t ADD CONSTRAINT i EXCLUDE USING btree (a WITH =)", {}),
    ("CREATE INDEX i ON t (a); CREATE INDEX j ON t (a)", {"i": {"unused": ""}, "j": {"unused": "", "duplicate": "i"}}),
    ("CREATE INDEX i ON t (id)", {"i": {"unused": "", "duplicate": "t_pkey"}}),
    ("CREATE INDEX i ON t (a); CREATE UNIQUE INDEX j ON t (a)", {"i": {"unused": "", "duplicate": "j"}}),
    ("CREATE UNIQUE INDEX i ON t (a); CREATE UNIQUE INDEX j ON t (a)", {"j": {"duplicate": "i"}}),
    (
        "CREATE INDEX i ON t (lower(v)); CREATE INDEX j ON t  (  lower(v) )",
        {"i": {"unused": ""}, "j": {"unused": "", "duplicate": "i"}},
    ),
    ("CREATE INDEX i ON t (lower(v)); CREATE INDEX j ON t (upper(v))", {"i": {"unused": ""}, "j": {"unused": ""}}),
    ("CREATE INDEX i ON t (a) WHERE b > 0; CREATE INDEX j ON t (a)", {"i": {"unused": ""}, "j": {"unused": ""}}),
    ("CREATE INDEX i ON t (v); CREATE INDEX j ON t (v text_pattern_ops)", {"i": {"unused": ""}, "j": {"unused": ""}}),
    ("CREATE INDEX i ON t (v); CREATE INDEX j ON t USING hash (v)", {"i": {"unused": ""}, "j": {"unused": ""}}),
    (
        "CREATE INDEX i ON t (a); CREATE INDEX j ON t (a, b)",
        {"i": {"unused": "", "redundant": "j"}, "j": {"unused": ""}},
    ),
    ("CREATE INDEX i ON t (b); CREATE INDEX j ON t (a, b)", {"i": {"unused": ""}, "j": {"unused": ""}}),
    ("CREATE INDEX i ON t (a DESC); CREATE INDEX j ON t (a, b)", {"i": {"unused": ""}, "j": {"unused": ""}}),
    ("CREATE UNIQUE INDEX i ON t (a); CREATE INDEX j ON t (a, b)", {"j": {"unused": ""}}),
    (
        "CREATE INDEX i ON t (a) INCLUDE (v); CREATE INDEX j ON t (a, b)",
        {"i": {"unused": ""}, "j": {"unused": ""}},
    ),
    (
        "CREATE INDEX i ON t (a) INCLUDE (v); CREATE INDEX j ON t (a, v)",
        {"i": {"unused": "", "redundant": "j"}, "j": {"unused": ""}},
    ),
    ("CREATE INDEX i ON t (a); ALTER TABLE t CLUSTER ON i", {}),
    # what follows differs in a parameter, or is needed
    (
        "CREATE INDEX i ON t USING gist (k ts (siglen=12)); CREATE INDEX j ON t USING gist (k ts (siglen=256))",
        {"i": {"unused": ""}, "j": {"unused": ""}},
    ),
    (
        "CREATE INDEX i ON t USING brin (a) WITH (pages_per_range=4); CREATE INDEX j ON t USING brin (a)",
        {"i": {"unused": ""}, "j": {"unused": ""}},
    ),
    (
        "CREATE INDEX i ON t (a) WITH (fillfactor=50); CREATE INDEX j ON t (a) WITH (fillfactor=90)",
        {"i": {"unused": ""}, "j": {"unused": ""}},
    ),
    (
        "CREATE INDEX i ON t USING gin (k) WITH (fastupdate=off); CREATE INDEX j ON t USING gin (k)",
        {"i": {"unused": ""}, "j": {"unused": ""}},
    ),
    (
        "CREATE INDEX i ON t USING gist (k ts (siglen=12)); CREATE INDEX j ON t USING gist (k ts (siglen=12))",
        {"i": {"unused": ""}, "j": {"unused": "", "duplicate": "i"}},
    ),
    (
        (
            "CREATE INDEX i ON t (a) WITH (fillfactor=50, deduplicate_items=off);"
            "CREATE INDEX j ON t (a) WITH (deduplicate_items=off, fillfactor=50)"
        ),
        {"i": {"unused": ""}, "j": {"unused": "", "duplicate": "i"}},
    ),
    ("ALTER TABLE t ADD CONSTRAINT i UNIQUE (a); ALTER TABLE t ADD CONSTRAINT j UNIQUE (a)", {}),
    ("CREATE UNIQUE INDEX i ON t (id); ALTER TABLE t REPLICA IDENTITY USING INDEX i", {}),
    (
        r"CREATE INDEX i ON t (regexp_replace(v, '\d', '')); CREATE INDEX j ON t ( regexp_replace( v, '\d', '' ) )",
        {"i": {"unused": ""}, "j": {"unused": "", "duplicate": "i"}},
    ),
]


def test_an_index_on_a_part_of_a_foreign_key_serves_its_deletes(database: Cluster) -> None:
    database.execute(
        """
        CREATE TABLE owners (y int, z int, PRIMARY KEY (y, z));
        INSERT INTO owners SELECT g, 1 FROM generate_series(1, 20000) AS g;
        CREATE TABLE owned (id int, y int, z int, FOREIGN KEY (y, z) REFERENCES owners);
        INSERT INTO owned SELECT g, g, 1 FROM generate_series(101, 20000) AS g;
        CREATE INDEX owned_y ON owned (y);
        CREATE INDEX owned_id ON owned (id, y);
        ANALYZE owned;
        """,
        DATABASE,
    )
    assert advised(page_of(database), "owned") == {"owned_id": {"unused": ""}}
    database.execute("DELETE FROM owners WHERE y = 7", DATABASE)
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'owned_y'"
    wait_until(lambda: database.value(scans, database=DATABASE) == 1)


def test_nothing_is_called_unused_or_free_of_dead_rows_while_nothing_is_counted(
    cluster: Callable[..., Cluster],
) -> None:
    server = cluster(settings={"track_counts": "off"})
    server.execute("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 99999); CREATE INDEX i ON t (a)")
    server.execute("DELETE FROM t WHERE a < 50000; ANALYZE t")
    found = page(server.dsn(user=MONITOR))
    assert found.series("pg_index_unused_bytes", indexrelname="i") == []
    assert found.series("pg_table_dead_tuples", relname="t") == []
    assert found.series("pg_table_live_tuples", relname="t") == []
    assert found.value("pg_table_autovacuum_disabled", relname="t") == 1
    server.execute("ALTER SYSTEM SET track_counts = on")
    server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.value("SHOW track_counts") == "on")
    found = page(server.dsn(user=MONITOR))
    assert found.series("pg_index_unused_bytes", indexrelname="i") != []
    assert found.series("pg_table_dead_tuples", relname="t") != []


def test_unused_duplicate_and_redundant_indexes_are_named(database: Cluster) -> None:
    schemas = []
    for number, (statements, _) in enumerate(ADVICE):
        table = f"t{number}"
        in_case = statements.replace(" t ", f" {table} ").replace(" i ", f" i{number} ").replace(" j ", f" j{number} ")
        in_case = in_case.replace("(k ts (", "(k tsvector_ops (")
        in_case = re.sub(r" (ON|INDEX) i$", rf" \1 i{number}", in_case)
        schemas.append(f"CREATE TABLE {table} (id int PRIMARY KEY, a int, b int, v text, k tsvector); {in_case}")
    database.execute(";".join(schemas), DATABASE)
    found = page_of(database)
    for number, (statements, expected) in enumerate(ADVICE):
        own = {
            f"{index}{number}": {what: name and name.replace("t_", f"t{number}_") for what, name in said.items()}
            for index, said in expected.items()
        }
        own = {
            index: {what: f"{name}{number}" if name in ("i", "j") else name for what, name in said.items()}
            for index, said in own.items()
        }
        assert advised(found, f"t{number}") == own, statements


def test_what_an_unused_index_would_free_is_its_size_and_a_scan_makes_it_used(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE idle (a int, b int) WITH (autovacuum_enabled = off);"
        "INSERT INTO idle SELECT i, i FROM generate_series(1, 30000) AS i; CREATE INDEX idle_a ON idle (a)",
        DATABASE,
    )
    before = page_of(database)
    assert before.value("pg_index_unused_bytes", indexrelname="idle_a") == bytes_of(database, "idle_a") > 500_000
    assert before.samples["pg_index_unused_bytes"][0][0]["indexrelname"] == "idle_a"
    database.execute("SET enable_seqscan = off; SELECT b FROM idle WHERE a = 7", DATABASE)
    page_when(database, lambda p: not p.series("pg_index_unused_bytes", indexrelname="idle_a"))


@pytest.mark.parametrize("longer", ["a", "a, b"])
def test_what_is_to_take_over_from_an_index_in_use_is_not_called_unused(database: Cluster, longer: str) -> None:
    """Else whoever followed both pieces of advice had neither."""
    database.execute(
        "DROP TABLE IF EXISTS kept CASCADE; CREATE TABLE kept (a int, b int) WITH (autovacuum_enabled = off);"
        f"INSERT INTO kept SELECT i, i FROM generate_series(1, 3000) AS i; CREATE INDEX keep ON kept ({longer});",
        DATABASE,
    )
    database.execute("CREATE INDEX busy ON kept (a); ANALYZE kept", DATABASE)
    assert page_of(database).series("pg_index_unused_bytes", relname="kept", indexrelname="keep")
    with_only_busy = "BEGIN; DROP INDEX keep; SET LOCAL enable_seqscan = off; SELECT b FROM kept WHERE a = 7; ROLLBACK"
    database.execute(with_only_busy, DATABASE)
    used = "SELECT pg_stat_get_numscans('busy'::regclass)"
    if not database.value(used, database=DATABASE):  # a transaction that rolls back counts its scans all the same
        page_when(database, lambda _: database.value(used, database=DATABASE) > 0)
    found = page_of(database)
    what = "duplicate" if longer == "a" else "redundant"
    assert found.series(f"pg_index_{what}_bytes", relname="kept", indexrelname="busy")
    assert not found.series("pg_index_unused_bytes", relname="kept", indexrelname="keep")


def test_the_index_of_a_partitioned_table_counts_as_one(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE parted (id int, v int) PARTITION BY RANGE (id);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200);"
        "INSERT INTO parted SELECT i, i FROM generate_series(1, 150) AS i;"
        "CREATE INDEX parted_id ON parted (id); CREATE INDEX parted_v ON parted (v)",
        DATABASE,
    )
    database.execute("SET enable_seqscan = off; SELECT v FROM parted WHERE id = 120", DATABASE)
    unused = "pg_index_unused_bytes"
    found = page_when(database, lambda p: not p.series(unused, indexrelname="parted_id"))
    tables = {had["relname"]: had["indexrelname"] for had, _ in found.series(unused) if "parted" in had["relname"]}
    assert tables == {"parted": "parted_v"}
    sizes = sum(bytes_of(database, f"parted_{n}_v_idx") for n in (1, 2))
    assert found.value(unused, indexrelname="parted_v") == sizes > 0


async def test_an_index_that_is_being_rebuilt_is_neither_invalid_nor_superfluous(database: Cluster) -> None:
    """REINDEX TABLE CONCURRENTLY works on all indexes at once, those of the TOAST table included."""
    database.execute(
        "CREATE TABLE rebuilt (id int, v text); INSERT INTO rebuilt VALUES (1, 'x');"
        "CREATE INDEX rebuilt_a ON rebuilt (id); CREATE INDEX rebuilt_b ON rebuilt (id);"
        "CREATE TABLE beside (id int); CREATE INDEX left_behind ON beside (id)",
        DATABASE,
    )
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'left_behind'::regclass", DATABASE)
    waits = "SELECT phase FROM pg_stat_progress_create_index WHERE phase = $1"
    pages = {}
    async with (
        session(database) as writer,
        session(database) as reader,
        session(database) as builder,
        session(database) as watch,
    ):
        await writer.execute("BEGIN; INSERT INTO rebuilt VALUES (2, 'y')")
        building = asyncio.create_task(builder.execute("REINDEX TABLE CONCURRENTLY rebuilt"))
        await until(lambda: watch.fetchval(waits, "waiting for writers before build"))
        pages["_ccnew"] = page_of(database)
        await reader.execute("BEGIN; SELECT * FROM rebuilt")
        await writer.execute("COMMIT")
        await until(lambda: watch.fetchval(waits, "waiting for readers before marking dead"))
        pages["_ccold"] = page_of(database)
        await reader.execute("COMMIT")
        await building
    for suffix, found in pages.items():
        built = {had["indexrelname"]: value for had, value in found.series("pg_index_invalid", datname=DATABASE)}
        toast = {name: built.pop(name) for name in list(built) if name.startswith("pg_toast")}
        assert built == {f"rebuilt_a{suffix}": 0, f"rebuilt_b{suffix}": 0, "left_behind": 1}
        assert list(toast.values()) == [0]
        assert advised(found, "rebuilt") == {}
    assert advised(page_of(database), "rebuilt")["rebuilt_b"]["duplicate"] == "rebuilt_a"
    database.execute("DROP TABLE rebuilt, beside", DATABASE)


def test_an_index_that_is_needed_on_one_partition_is_not_called_superfluous(database: Cluster) -> None:
    database.execute(
        "CREATE TABLE halves (id int NOT NULL) PARTITION BY RANGE (id);"
        "CREATE TABLE halves_1 PARTITION OF halves FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE halves_2 PARTITION OF halves FOR VALUES FROM (100) TO (200);"
        "CREATE INDEX halves_a ON halves (id); CREATE INDEX halves_b ON halves (id);"
        "ALTER TABLE halves_2 CLUSTER ON halves_2_id_idx1",
        DATABASE,
    )
    assert advised(page_of(database), "halves") == {"halves_a": {"unused": "", "duplicate": "halves_b"}}
    database.execute("DROP TABLE halves", DATABASE)
