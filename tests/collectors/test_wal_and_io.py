"""WAL, checkpoints, archiving and I/O, on servers that wrote, flushed and failed to archive on purpose."""

import os
import time
from collections.abc import Callable

import pytest
from module_database import DATABASE, page_when, session
from pages import MONITOR, Page, page
from patience import wait_until
from standby import clone_standby

from exporter.demo.cluster import Cluster

COLLECTORS = (
    "archiver",
    "archiver_backlog",
    "bgwriter",
    "checkpointer",
    "io",
    "recovery_prefetch",
    "slru",
    "wal",
    "wal_directory",
    "wal_writes",
)


def scraped(server: Cluster) -> Page:
    return page(server.dsn(user=MONITOR))


def wal(size: int) -> str:
    """A transaction that writes that much WAL."""
    return f"SELECT txid_current(), pg_logical_emit_message(true, 'test', repeat('x', {size}))"


async def test_the_bytes_of_wal_are_counted(server: Cluster, major: int) -> None:
    if major < 14:
        assert scraped(server).series("pg_wal_bytes_total") == []
        return
    before = scraped(server)
    server.execute(wal(5_000_000))
    start = before.value("pg_wal_bytes_total")
    after = page_when(server, lambda p: p.value("pg_wal_bytes_total") - start > 5_000_000, "postgres")
    assert after.value("pg_wal_bytes_total") - start < 6_000_000
    assert 2 <= after.value("pg_wal_records_total") - before.value("pg_wal_records_total") < 5000
    assert after.value("pg_wal_writes_total") > before.value("pg_wal_writes_total")
    assert after.value("pg_wal_buffers_full_total") > before.value("pg_wal_buffers_full_total")  # wal_buffers is 1 MB


@pytest.mark.parametrize("major", [14, 17, 18])
async def test_whole_pages_and_the_time_of_flushes_are_counted(cluster: Callable[..., Cluster], major: int) -> None:
    server = cluster(major, {"fsync": "on", "full_page_writes": "on", "track_wal_io_timing": "on"})
    server.execute("CREATE TABLE page AS SELECT id, 0 AS n FROM generate_series(1, 5000) AS id")
    pages = server.value("SELECT count(DISTINCT (ctid::text::point)[0]) FROM page")
    server.execute("CHECKPOINT")
    before = scraped(server)
    server.execute("UPDATE page SET n = 1")
    start = before.value("pg_wal_full_page_images_total")
    after = page_when(server, lambda p: p.value("pg_wal_full_page_images_total") - start >= pages, "postgres")
    assert after.value("pg_wal_full_page_images_total") - start < 5 * pages
    after = page_when(server, lambda p: p.value("pg_wal_syncs_total") > before.value("pg_wal_syncs_total"), "postgres")
    assert 0 < after.value("pg_wal_sync_seconds_total") < 30
    assert 0 < after.value("pg_wal_write_seconds_total") < 30


def test_the_files_of_wal_are_counted_and_measured(server: Cluster) -> None:
    found = scraped(server)
    count, size = server.query("SELECT count(*), sum(size)::bigint FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'")[
        0
    ]
    assert found.value("pg_wal_segments") == count
    assert found.value("pg_wal_size_bytes") == size == count * 16 * 1024 * 1024


async def test_a_checkpoint_by_command_is_counted_and_ends_what_recovery_has_to_replay(
    server: Cluster, major: int
) -> None:
    asked = scraped(server).value("pg_checkpointer_requested_total")
    server.execute("CHECKPOINT")  # the next by time is five minutes away
    page_when(server, lambda p: p.value("pg_checkpointer_requested_total") > asked, "postgres")
    began_at = time.time()
    server.execute("SELECT pg_stat_reset_shared('bgwriter')")  # to 14, numbers arrive late: those before it are there
    before = page_when(server, lambda p: p.value("pg_bgwriter_stats_reset_timestamp_seconds") >= began_at, "postgres")
    server.execute("CREATE TABLE dirty AS SELECT id FROM generate_series(1, 50000) AS id")
    server.execute(wal(3_000_000))
    assert scraped(server).value("pg_checkpointer_redo_bytes") > 3_000_000
    asked_at = int(time.time())  # as PostgreSQL writes it down
    server.execute("CHECKPOINT; DROP TABLE dirty")
    requested = before.value("pg_checkpointer_requested_total")
    after = page_when(server, lambda p: p.value("pg_checkpointer_requested_total") > requested, "postgres")
    assert after.value("pg_checkpointer_requested_total") == requested + 1
    assert after.value("pg_checkpointer_redo_bytes") < 1_000_000
    assert asked_at <= after.value("pg_checkpointer_last_checkpoint_timestamp_seconds") <= time.time()
    written = after.value("pg_checkpointer_buffers_written_total") - before.value(
        "pg_checkpointer_buffers_written_total"
    )
    assert 100 < written < 4096
    assert 0 < after.value("pg_checkpointer_write_seconds_total") < 60
    assert 0 <= after.value("pg_checkpointer_sync_seconds_total") < 60
    assert after.value("pg_checkpointer_timed_total") == before.value("pg_checkpointer_timed_total")
    if major >= 18:
        assert after.value("pg_checkpointer_done_total") == before.value("pg_checkpointer_done_total") + 1


@pytest.mark.parametrize("major", [15, 17, 18])
async def test_a_standby_counts_restartpoints_and_blocks_read_ahead(
    servers: Callable[[int], Cluster], major: int
) -> None:
    primary = servers(major)
    primary.execute("CREATE TABLE ahead AS SELECT id FROM generate_series(1, 20000) AS id")
    with clone_standby(primary) as standby:
        primary.execute("UPDATE ahead SET id = id; CHECKPOINT")
        end = str(primary.value("SELECT pg_current_wal_lsn()::text"))

        wait_until(lambda: standby.value("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end))
        before = scraped(standby)
        standby.execute("CHECKPOINT")
        seen = "pg_checkpointer_restartpoints_requested_total" if major >= 17 else "pg_checkpointer_requested_total"
        after = page_when(standby, lambda p: p.value(seen) > before.value(seen), "postgres")
        assert after.value(seen) == before.value(seen) + 1
        if major >= 17:
            done = "pg_checkpointer_restartpoints_done_total"
            assert after.value(done) == before.value(done) + 1
        looked_at = sum(
            after.value(f"pg_recovery_prefetch_{what}_total")
            for what in ("prefetched", "hit", "skip_init", "skip_new", "skip_fpw", "skip_rep")
        )
        assert looked_at > 0
        assert after.value("pg_recovery_prefetch_io_depth") >= 0
        assert [labels for labels, value in after.series("pgvigil_collector_success") if not value] == []
    primary.execute("DROP TABLE ahead")
    assert scraped(primary).series("pg_recovery_prefetch_hit_total") == []


async def test_the_background_writers_counters_are_those_of_the_view(database: Cluster, major: int) -> None:
    before = scraped(database).value("pg_stat_bgwriter_buffers_alloc_total")
    database.execute("CREATE TABLE allocated AS SELECT id FROM generate_series(1, 100000) AS id", DATABASE)
    after = page_when(database, lambda p: p.value("pg_stat_bgwriter_buffers_alloc_total") - before > 10, "postgres")
    columns = ["buffers_clean", "maxwritten_clean"] + (
        ["buffers_backend", "buffers_backend_fsync"] if major < 17 else []
    )
    [row] = database.query(f"SELECT {', '.join(columns)} FROM pg_stat_bgwriter")
    for column, value in zip(columns, row, strict=True):
        assert after.value(f"pg_stat_bgwriter_{column}_total") == pytest.approx(value, abs=50)
    assert bool(after.series("pg_stat_bgwriter_buffers_backend_total")) == (major < 17)


async def test_small_caches_have_the_same_names_on_all_versions(database: Cluster) -> None:
    before = scraped(database)
    assert {labels["name"] for labels, _ in before.series("pg_slru_blocks_hit_total")} == {
        "commit_timestamp",
        "multixact_member",
        "multixact_offset",
        "notify",
        "serializable",
        "subtransaction",
        "transaction",
        "other",
    }
    start = before.value("pg_slru_blocks_hit_total", name="transaction")
    async with session(database) as client:
        await client.execute("CREATE TABLE hint AS SELECT id FROM generate_series(1, 10) AS id")
        await client.execute("DO $$ BEGIN FOR i IN 1..100 LOOP UPDATE hint SET id = i; COMMIT; END LOOP; END $$")
    page_when(database, lambda p: p.value("pg_slru_blocks_hit_total", name="transaction") > start, "postgres")


def total(found: Page, name: str, **labels: object) -> float:
    return sum(value for _, value in found.series(name, **labels))


async def test_io_is_counted_by_who_did_it(database: Cluster, major: int) -> None:
    if major < 16:
        assert scraped(database).series("pg_io_reads_total") == []
        return
    sessions = {"backend_type": "client backend", "object": "relation"}
    before = scraped(database)
    async with session(database) as client:
        await client.execute("CREATE TABLE extended AS SELECT id FROM generate_series(1, 500000) AS id")
        size = await client.fetchval("SELECT pg_relation_size('extended')")
    start = total(before, "pg_io_extend_bytes_total", **sessions)
    after = page_when(database, lambda p: total(p, "pg_io_extend_bytes_total", **sessions) - start >= size, "postgres")
    assert total(after, "pg_io_extend_bytes_total", **sessions) - start == pytest.approx(size, abs=1_000_000)
    assert total(after, "pg_io_extend_seconds_total", **sessions) > total(
        before, "pg_io_extend_seconds_total", **sessions
    )
    assert total(after, "pg_io_hits_total", **sessions) > total(before, "pg_io_hits_total", **sessions)


@pytest.mark.parametrize("major", [16, 17, 18])
def test_only_what_was_active_has_series_of_io(servers: Callable[[int], Cluster], major: int) -> None:
    found = scraped(servers(major))
    counts = [
        f"pg_io_{what}_total" for what in ("reads", "writes", "writebacks", "extends", "hits", "evictions", "fsyncs")
    ]
    active = {tuple(labels.values()) for name in counts for labels, value in found.series(name) if value}
    seen = {tuple(labels.values()) for name in counts for labels, _ in found.series(name)}
    assert seen == active
    assert "standalone backend" not in {backend for backend, *_ in seen}
    assert found.series("pg_io_read_seconds_total", object="relation")
    if major >= 18:
        assert total(found, "pg_io_write_bytes_total", object="wal") > 0
        assert found.series("pg_io_write_seconds_total", object="wal") == []  # track_wal_io_timing is off


def test_a_server_that_does_not_archive_says_so(server: Cluster) -> None:
    found = scraped(server)
    assert found.value("pg_archiver_enabled") == 0
    assert found.value("pg_archiver_failing") == 0
    assert found.series("pg_archiver_ready_files") == []


@pytest.mark.parametrize("major", [13, 18])
async def test_archiving_that_fails_leaves_a_backlog_which_goes_when_it_works(
    cluster: Callable[..., Cluster], major: int
) -> None:
    started_at = time.time()
    server = cluster(major, {"archive_mode": "on", "archive_command": "/bin/false"})
    for _ in range(2):
        server.execute(wal(1000))
        server.execute("SELECT pg_switch_wal()")
    ready = sorted((server.data / "pg_wal" / "archive_status").glob("*.ready"))
    began_at = int(time.time())  # as PostgreSQL reads it
    os.utime(ready[0], (began_at - 1000, began_at - 1000))
    failing = page_when(server, lambda p: p.value("pg_archiver_failing"), "postgres")
    assert failing.value("pg_archiver_enabled") == 1
    assert failing.value("pg_archiver_ready_files") == 2
    assert failing.value("pg_archiver_ready_bytes") == 2 * 16 * 1024 * 1024
    assert 1000 <= failing.value("pg_archiver_ready_oldest_age_seconds") <= 1000 + time.time() - began_at
    assert failing.value("pg_archiver_failed_total") >= 1
    assert failing.value("pg_archiver_archived_total") == 0
    assert started_at <= failing.value("pg_archiver_last_failed_timestamp_seconds") <= time.time()
    assert failing.series("pg_archiver_last_archived_age_seconds") == []
    server.execute("ALTER SYSTEM SET archive_command = '/bin/true'")
    server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.value("SHOW archive_command") == "/bin/true")
    mended_at = time.time()
    server.execute(wal(1000))
    server.execute("SELECT pg_switch_wal()")

    def caught_up(found: Page) -> bool:
        return found.value("pg_archiver_archived_total") >= 3 and found.value("pg_archiver_ready_files") == 0

    working = page_when(server, caught_up, "postgres")
    assert working.value("pg_archiver_failing") == 0
    assert working.value("pg_archiver_ready_oldest_age_seconds") == 0
    assert 0 <= working.value("pg_archiver_last_archived_age_seconds") <= time.time() - mended_at
    assert mended_at <= working.value("pg_archiver_last_archived_timestamp_seconds") <= time.time()
