"""Tablespaces, and what shared buffers hold."""

from pathlib import Path

import pytest
from module_database import DATABASE, page_of
from pages import MONITOR, page

from exporter.demo.build import hand_over
from exporter.demo.cluster import Cluster


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
