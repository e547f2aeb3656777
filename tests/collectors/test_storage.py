"""Tablespaces, and what shared buffers hold."""

from pathlib import Path

import pytest
from module_database import DATABASE, page_of
from pages import MONITOR, Page, catalog, named, page, scraped, target, written

from exporter.catalog.model import Catalog
from exporter.demo.build import hand_over
from exporter.demo.cluster import Cluster

COLLECTORS = ("buffer_cache", "buffer_cache_databases", "buffer_cache_relations", "shared_memory", "tablespaces")


def test_a_tablespace_tells_its_size_and_place(database: Cluster) -> None:
    place = database.folder / "space"
    place.mkdir(exist_ok=True)
    hand_over(place)
    database.execute(f"CREATE TABLESPACE space LOCATION '{place}'")
    try:
        database.execute("CREATE TABLE there TABLESPACE space AS SELECT generate_series(1, 10000) AS id", DATABASE)
        found = page_of(database)
        size = database.value("SELECT pg_tablespace_size('space')")
        assert found.value("pg_tablespace_size_bytes", spcname="space") == size > 300_000
        assert Path(found.labels("pg_tablespace_info", spcname="space")["location"]) == place
        assert found.labels("pg_tablespace_info", spcname="pg_default")["location"] == str(database.data)
        default = database.value("SELECT pg_tablespace_size('pg_default')")
        assert found.value("pg_tablespace_size_bytes", spcname="pg_default") == pytest.approx(default, rel=0.01)
    finally:
        database.execute("DROP TABLE IF EXISTS there", DATABASE)
        database.execute("DROP TABLESPACE space")


def test_a_tablespace_whose_link_is_gone_costs_only_its_own_series(database: Cluster) -> None:
    places = {name: database.folder / name for name in ("kept", "gone")}
    for name, place in places.items():
        place.mkdir()
        hand_over(place)
        database.execute(f"CREATE TABLESPACE {name} LOCATION '{place}'")
    link = database.data / "pg_tblspc" / str(database.value("SELECT oid FROM pg_tablespace WHERE spcname = 'gone'"))
    target = link.readlink()
    link.unlink()
    try:
        found = page_of(database)
    finally:
        link.symlink_to(target)
        for name in places:
            database.execute(f"DROP TABLESPACE {name}")
    assert found.value("pgvigil_collector_success", collector="tablespaces") == 1
    for metric in ("pg_tablespace_size_bytes", "pg_tablespace_info"):
        assert {labels["spcname"] for labels, _ in found.series(metric)} == {"pg_default", "pg_global", "kept"}


def test_the_summary_of_shared_buffers_adds_up(server: Cluster, major: int) -> None:
    found = page(server.dsn(user=MONITOR))
    if major < 16:
        assert not found.series("pg_buffer_cache_used_buffers")
        return
    used, unused = (found.value(f"pg_buffer_cache_{what}_buffers") for what in ("used", "unused"))
    assert used + unused == 32 * 1024 * 1024 / 8192
    assert used > 100
    assert 0 <= found.value("pg_buffer_cache_dirty_buffers") <= used
    assert found.value("pg_buffer_cache_pinned_buffers") >= 0
    assert 0 < found.value("pg_buffer_cache_usage_count_mean") <= 5


def test_shared_memory_adds_up_to_the_segment(server: Cluster, major: int) -> None:
    found = page(server.dsn(user=MONITOR))
    if major < 15:
        assert not found.series("pg_shared_memory_bytes")
        return
    by_name = {labels["name"]: value for labels, value in found.series("pg_shared_memory_bytes")}
    rest = found.value("pgvigil_collector_truncated_value", metric="pg_shared_memory_bytes")
    whole = server.value("SELECT sum(allocated_size)::bigint FROM pg_shmem_allocations")
    assert sum(by_name.values()) + rest == whole
    assert by_name["Buffer Blocks"] >= 32 * 1024 * 1024
    assert len(by_name) == 10


async def test_what_is_unused_of_shared_memory_is_shown_however_little_it_is(server18: Cluster) -> None:
    """It matters when it is next to nothing."""
    one = Catalog((named(catalog(), "shared_memory").model_copy(update={"limit": 1}),))
    watched = target(server18.dsn(user=MONITOR), one)
    try:
        [(labels, _)] = (await scraped(watched)).series("pg_shared_memory_bytes")
    finally:
        await watched.close()
    assert labels["name"] == "<unused>"


async def test_shared_buffers_by_database_and_by_relation(server: Cluster) -> None:
    server.execute("CREATE DATABASE cached")
    try:
        server.execute("CREATE EXTENSION pg_buffercache", "cached")
        server.execute("CREATE TABLE held AS SELECT id, repeat('x', 500) FROM generate_series(1, 5000) AS id", "cached")
        server.execute("CREATE INDEX held_id ON held (id)", "cached")
        server.execute("CHECKPOINT", "cached")
        server.execute(
            "SELECT count(*) FROM held; SET enable_seqscan = off; SELECT id FROM held WHERE id < 2000", "cached"
        )
        found = await switched_on(server, "buffer_cache_databases", "buffer_cache_relations")
        size = server.value("SELECT pg_relation_size('held')", database="cached")
        used = server.value("SELECT count(*) FROM pg_buffercache WHERE relfilenode IS NOT NULL", database="cached")
        relations = found.series("pg_buffer_cache_relation_bytes", datname="cached")
        bytes_of = {(labels["relname"], labels["relkind"]): value for labels, value in relations}
        assert size <= bytes_of["held", "table"] <= size + 8 * 8192  # with the maps of free space and visibility
        assert bytes_of["held_id", "index"] > 0
        assert found.value("pg_buffer_cache_relation_dirty_bytes", relname="held_id") == 0
        assert 0 < found.value("pg_buffer_cache_relation_usage_count_mean", relname="held") <= 5
        by_database = {labels["datname"]: value for labels, value in found.series("pg_buffer_cache_database_bytes")}
        assert {"", "cached", "postgres"} <= by_database.keys()
        rest = found.value(
            "pgvigil_collector_truncated_value", datname="cached", metric="pg_buffer_cache_relation_bytes"
        )
        assert sum(bytes_of.values()) + rest == pytest.approx(by_database["cached"], rel=0.05)
        assert sum(by_database.values()) == pytest.approx(used * 8192, rel=0.05)
    finally:
        server.execute("DROP DATABASE cached")


async def switched_on(server: Cluster, *names: str) -> Page:
    """A page of collectors that are off by default."""
    ours = tuple(each.model_copy(update={"enabled": True}) for each in catalog() if each.name in names)
    watched = target(server.dsn("cached", user=MONITOR), Catalog(ours))
    try:
        return written(await watched.scrape(9.0))
    finally:
        await watched.close()
