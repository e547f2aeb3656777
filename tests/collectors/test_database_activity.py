"""What databases do and how large they are, after a client did so many of each thing."""

import asyncio
import struct
import time
from collections.abc import Callable, Mapping

import asyncpg
import pytest
from module_database import DATABASE, page_of, page_when, session
from pages import MONITOR, Page, page
from patience import until, wait_until

from exporter.demo.cluster import HOST, Cluster

COLLECTORS = ("database_activity", "database_sizes", "database_transactions", "prepared_transactions")

SESSIONS = 1 + 5
"""Sessions in the module's database at most: a client, and those of the exporter."""


def counted(found: Page, *names: str) -> Mapping[str, float]:
    """Some counters of the module's database."""
    return {name: found.value(f"pg_database_{name}_total", datname=DATABASE) for name in names}


def grown(server: Cluster, before: Page, wanted: Mapping[str, float]) -> Page:
    """The first page on which some counters of the module's database have grown by that much at least."""
    start = counted(before, *wanted)

    def there(found: Page) -> bool:
        now = counted(found, *wanted)
        return all(now[name] - start[name] >= wanted[name] for name in wanted)

    return page_when(server, there)


def settled(server: Cluster) -> Page:
    """A page that has what sessions before did.

    They hand in their numbers as they leave, and before PostgreSQL 15 a process of its own adds them up in that order:
    once it has those of one more session, it has all.
    """
    wait_until(lambda: server.value("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = $1", DATABASE))
    server.execute("CREATE TABLE IF NOT EXISTS last_session (id int)", DATABASE)
    counted = "SELECT pg_stat_get_tuples_inserted('last_session'::regclass)"
    before = server.value(counted, database=DATABASE)
    server.execute("INSERT INTO last_session VALUES (1)", DATABASE)
    wait_until(lambda: server.value(counted, database=DATABASE) > before)
    return page_of(server)


async def test_rows_blocks_and_temporary_files_are_counted(database: Cluster) -> None:
    database.execute("CREATE TABLE item (id int, v text)", DATABASE)
    before = settled(database)
    async with session(database) as client:
        await client.execute("SET work_mem = '64kB'")
        await client.execute("INSERT INTO item SELECT id, 'v' FROM generate_series(1, 1000) AS id")
        await client.execute("UPDATE item SET v = 'w' WHERE id <= 300; DELETE FROM item WHERE id > 800")
        await client.fetch("SELECT count(*) FROM (SELECT id FROM generate_series(1, 200000) AS id ORDER BY -id) AS s")
    wanted = {"tuples_inserted": 1000, "tuples_updated": 300, "tuples_deleted": 200, "temp_bytes": 2_000_000}
    after = grown(database, before, wanted)
    did = {name: counted(after, name)[name] - counted(before, name)[name] for name in wanted}
    assert {name: did[name] for name in wanted if name != "temp_bytes"} == {
        "tuples_inserted": 1000,
        "tuples_updated": 300,
        "tuples_deleted": 200,
    }
    assert did["temp_bytes"] < 20_000_000
    assert counted(after, "temp_files")["temp_files"] - counted(before, "temp_files")["temp_files"] >= 1
    assert after.value("pg_database_block_read_seconds_total", datname=DATABASE) >= 0


def test_blocks_and_rows_are_those_of_the_view(database: Cluster) -> None:
    """Sessions that leave hand in their numbers meanwhile, so the page lies between two looks at the view."""
    names = ("tuples_returned", "tuples_fetched", "blocks_hit", "blocks_read", "conflicts")
    sql = "SELECT tup_returned, tup_fetched, blks_hit, blks_read, conflicts FROM pg_stat_database WHERE datname = $1"
    [before] = database.query(sql, DATABASE)
    found = counted(page_of(database), *names)
    [after] = database.query(sql, DATABASE)
    assert all(low <= found[name] <= high for name, low, high in zip(names, before, after, strict=True))
    assert found["blocks_hit"] > 0 or database.value("SHOW server_version_num") < "150000"


def test_shared_catalogs_have_a_row_without_a_database_and_templates_that_take_no_connection_have_none(
    database: Cluster,
) -> None:
    found = page_of(database)
    names = {labels["datname"] for labels, _ in found.series("pg_database_blocks_hit_total")}
    assert {"", DATABASE, "postgres", "template1"} <= names
    assert "template0" not in names


async def test_sessions_are_counted_by_how_they_end(database: Cluster, major: int) -> None:
    if major < 14:
        assert page_of(database).series("pg_database_sessions_total") == []
        return
    before = settled(database)
    async with session(database):
        pass
    await abandon(database)
    await kill(database)
    await break_the_rules(database)
    wanted = {"sessions": 4, "sessions_abandoned": 1, "sessions_killed": 1, "sessions_fatal": 1}
    after = grown(database, before, wanted)
    start, end = counted(before, *wanted), counted(after, *wanted)
    ended = {name: end[name] - start[name] for name in wanted if name != "sessions"}
    assert ended == {"sessions_abandoned": 1, "sessions_killed": 1, "sessions_fatal": 1}


async def abandon(server: Cluster) -> None:
    """Log in and hang up without the word of farewell that every driver says."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    login = struct.pack("!i", 196608) + f"user\0postgres\0database\0{DATABASE}\0\0".encode()
    writer.write(struct.pack("!i", len(login) + 4) + login)
    await reader.readuntil(b"Z\0\0\0\x05I")
    writer.close()


async def kill(server: Cluster) -> None:
    async with session(server) as client:
        server.execute(f"SELECT pg_terminate_backend({client.get_server_pid()})")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await client.execute("SELECT 1")


async def break_the_rules(server: Cluster) -> None:
    async with session(server) as client:
        await client.execute("SET idle_in_transaction_session_timeout = '20ms'; BEGIN")
        await until(client.is_closed)


async def test_the_time_of_sessions_is_counted_by_what_they_did(database: Cluster, major: int) -> None:
    if major < 14:
        return
    started = time.monotonic()
    before = settled(database)
    async with session(database) as client:
        await client.execute("SELECT pg_sleep(0.5)")
        await client.execute("BEGIN")
        await asyncio.sleep(0.6)
        await client.execute("COMMIT")
    wanted = {"session_seconds": 1.1, "active_seconds": 0.5, "idle_in_transaction_seconds": 0.6}
    after = grown(database, before, wanted)
    most = SESSIONS * (time.monotonic() - started)
    start, end = counted(before, *wanted), counted(after, *wanted)
    for name, least in wanted.items():
        assert least <= end[name] - start[name] < most, name


async def test_parallel_workers_are_counted(server18: Cluster) -> None:
    async with session(server18, "postgres") as client:
        before = page_of(server18, "postgres")
        await client.execute("SET debug_parallel_query = on")
        await client.fetch("SELECT count(*) FROM pg_class")
    metrics = [f"pg_database_parallel_workers_{name}_total" for name in ("to_launch", "launched")]
    one_more = [before.value(metric, datname="postgres") + 1 for metric in metrics]
    page_when(server18, lambda p: [p.value(metric, datname="postgres") for metric in metrics] == one_more, "postgres")


def corrupt(server: Cluster, path: str) -> None:
    """Turn over some bytes of the first block of a table."""
    with (server.data / path).open("r+b") as file:
        file.seek(4000)
        file.write(b"\xde\xad\xbe\xef")


def test_a_damaged_block_is_counted(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    server.execute("CREATE TABLE damaged AS SELECT repeat('x', 4000) AS v")
    assert page_of(server, "postgres").value("pg_database_checksum_failures_total", datname="postgres") == 0
    path = str(server.value("SELECT pg_relation_filepath('damaged')"))
    server.stop()
    corrupt(server, path)
    server.start()
    read_at = time.time()
    with pytest.raises(asyncpg.DataCorruptedError):
        server.value("SELECT count(*) FROM damaged WHERE v <> ''")
    found = page_of(server, "postgres")
    assert found.value("pg_database_checksum_failures_total", datname="postgres") == 1
    last = found.value("pg_database_checksum_last_failure_timestamp_seconds", datname="postgres")
    assert read_at <= last <= time.time()


def test_without_checksums_and_timing_their_series_are_missing(cluster: Callable[..., Cluster]) -> None:
    server = cluster(13, {"track_io_timing": "off"})
    found = page_of(server, "postgres")
    assert found.series("pg_database_blocks_hit_total", datname="postgres")
    for name in ("checksum_failures", "block_read_seconds", "block_write_seconds", "session_seconds"):
        assert found.series(f"pg_database_{name}_total") == []


def test_the_size_of_a_database_grows_with_its_tables(database: Cluster) -> None:
    before = page_of(database).value("pg_database_size_bytes", datname=DATABASE)
    database.execute("CREATE TABLE large AS SELECT id FROM generate_series(1, 200000) AS id", DATABASE)
    after = page_of(database).value("pg_database_size_bytes", datname=DATABASE)
    size = database.value("SELECT pg_total_relation_size('large')", database=DATABASE)
    assert size > 7_000_000
    assert after - before == pytest.approx(size, abs=200_000)
    assert after == pytest.approx(database.value("SELECT pg_database_size($1::text::name)", DATABASE), abs=200_000)


def test_prepared_transactions_are_counted_with_their_age(database: Cluster) -> None:
    database.execute("CREATE TABLE locked (); BEGIN; LOCK TABLE locked; PREPARE TRANSACTION 'forgotten'", DATABASE)
    try:
        prepared = database.value("SELECT extract(epoch FROM prepared)::float8 FROM pg_prepared_xacts")
        asked_at = time.time()
        found = page_of(database)
        assert found.value("pg_prepared_transactions", datname=DATABASE) == 1
        age = found.value("pg_prepared_transactions_oldest_age_seconds", datname=DATABASE)
        assert asked_at <= prepared + age <= time.time()
        assert 0 < found.value("pg_prepared_transactions_oldest_xid_age", datname=DATABASE) < 1000
        assert found.value("pg_prepared_transactions", datname="postgres") == 0
        assert found.series("pg_prepared_transactions_oldest_age_seconds", datname="postgres") == []
        database.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
        closed = page_of(database, "postgres")
        database.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")
        assert closed.value("pg_prepared_transactions", datname=DATABASE) == 1
    finally:
        database.execute("ROLLBACK PREPARED 'forgotten'", DATABASE)


def statistics_began(server: Cluster) -> float:
    """Since when the page says that statistics count; 13 and 14 know a database only after its first session."""
    for _ in range(50):
        found = page(server.dsn(user=MONITOR)).series("pg_database_stats_reset_timestamp_seconds", datname="postgres")
        if found:
            return found[0][1]
        time.sleep(0.2)
    raise AssertionError("no series")


def test_statistics_that_began_anew_after_a_crash_say_when(cluster: Callable[..., Cluster], major: int) -> None:
    server = cluster(major)
    began = statistics_began(server)
    time.sleep(1.1)
    server.stop("immediate")
    crashed = time.time()
    server.start()
    assert began < crashed <= statistics_began(server) <= time.time()
