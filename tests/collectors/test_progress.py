"""Long commands that are running, held up on purpose, and how far they are."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from module_database import DATABASE, page_of, session
from pages import Page
from patience import until

from exporter.demo.cluster import Cluster

COLLECTORS = ("progress",)

SLOW = """
    CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(CASE WHEN i > 3000 THEN 100 ELSE 0 END); RETURN i; END $$;
    CREATE TABLE big AS SELECT i AS id FROM generate_series(1, 10000) AS i;
"""


@asynccontextmanager
async def running(server: Cluster, statement: str, view: str, condition: str) -> AsyncIterator[Any]:
    """A statement in the middle of its work, which is cancelled in the end."""
    async with session(server) as worker, session(server) as watch:
        task = asyncio.create_task(worker.execute(statement))
        try:
            await until(lambda: watch.fetchval(f"SELECT count(*) FROM {view} WHERE {condition}"))
            yield watch
        finally:
            await watch.execute(f"SELECT pg_cancel_backend({worker.get_server_pid()})")
            with suppress(asyncpg.QueryCanceledError):
                await task


def test_nothing_runs_and_nothing_is_shown(database: Cluster) -> None:
    assert not [name for name in page_of(database).samples if name.startswith("pg_progress_")]


async def test_an_index_build_shows_its_share_of_the_blocks(database: Cluster) -> None:
    """Incident 2: hours of building an index, watched through phase and percentage."""
    database.execute(SLOW, DATABASE)
    started = time.monotonic()
    view, condition = "pg_stat_progress_create_index", "blocks_done = 13"  # where row 3001 is
    async with running(database, "CREATE INDEX building ON big (slow(id))", view, condition) as watch:
        [row] = await watch.fetch(f"SELECT * FROM {view}")
        found = page_of(database)
    labels = {"datname": DATABASE, "relname": "public.big", "command": "CREATE INDEX"}
    assert found.value("pg_progress_done_blocks", **labels) == row["blocks_done"]
    assert found.value("pg_progress_total_blocks", **labels) == row["blocks_total"] > row["blocks_done"]
    assert found.value("pg_progress_phase", phase=row["phase"], **labels) == 1
    assert row["phase"] == "building index: scanning table"
    assert 0 < found.value("pg_progress_seconds", **labels) < time.monotonic() - started
    assert found.value("pg_progress_processes", **labels) == 1
    assert not found.series("pg_progress_total_lockers")


async def test_a_rewrite_of_a_table_shows_its_share_of_the_blocks(database: Cluster) -> None:
    """VACUUM FULL is held up by the index that it has to build anew."""
    database.execute(
        "CREATE FUNCTION slower(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i';"
        "CREATE TABLE rewritten AS SELECT i AS id FROM generate_series(1, 3000) AS i;"
        "CREATE INDEX ON rewritten (slower(id));"
        "CREATE OR REPLACE FUNCTION slower(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(100); RETURN i; END $$",
        DATABASE,
    )
    view, condition = "pg_stat_progress_cluster", "phase = 'rebuilding index'"
    async with running(database, "VACUUM FULL rewritten", view, condition) as watch:
        [row] = await watch.fetch(f"SELECT * FROM {view}")
        found = page_of(database)
    labels = {"datname": DATABASE, "relname": "public.rewritten", "command": "VACUUM FULL"}
    assert found.value("pg_progress_phase", phase="rebuilding index", **labels) == 1
    assert found.value("pg_progress_total_blocks", **labels) == row["heap_blks_total"] > 0
    assert found.value("pg_progress_done_blocks", **labels) == row["heap_blks_scanned"]
    assert found.value("pg_progress_done_tuples", **labels) == row["heap_tuples_written"] == 3000


async def test_an_analyze_shows_its_share_of_the_sample(database: Cluster) -> None:
    database.execute("CREATE TABLE sampled AS TABLE big", DATABASE)
    slowly = "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; SET vacuum_cost_page_hit = 100"
    view, condition = "pg_stat_progress_analyze", "sample_blks_scanned > 2"
    async with running(database, f"{slowly}; ANALYZE sampled", view, condition) as watch:
        found = page_of(database)
        blocks = await watch.fetchval("SELECT pg_relation_size('sampled') / 8192")
    labels = {"datname": DATABASE, "relname": "public.sampled", "command": "ANALYZE"}
    assert found.value("pg_progress_phase", phase="acquiring sample rows", **labels) == 1
    assert found.value("pg_progress_total_blocks", **labels) == blocks
    assert 2 < found.value("pg_progress_done_blocks", **labels) < blocks


async def copying(database: Cluster, table: str, rows: int, copies: int) -> Page:
    """A page made while clients have sent so many rows each and mean to send more."""
    sent = [asyncio.Event() for _ in range(copies)]
    enough = asyncio.Event()

    async def lines(one: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"1\n" * rows
        one.set()
        await enough.wait()

    async with session(database) as watch:
        sessions = [await asyncpg.connect(database.dsn(DATABASE)) for _ in sent]
        tasks = [
            asyncio.create_task(one.copy_to_table(table, source=lines(event)))
            for one, event in zip(sessions, sent, strict=True)
        ]
        for event in sent:
            await event.wait()
        await until(
            lambda: watch.fetchval("SELECT sum(tuples_processed) >= $1 FROM pg_stat_progress_copy", rows * copies * 0.9)
        )
        found = page_of(database)
        enough.set()
        await asyncio.gather(*tasks)
        for one in sessions:
            await one.close()
    return found


async def test_copies_into_one_table_are_added_up(database: Cluster, major: int) -> None:
    if major < 14:
        return  # it does not report COPY
    database.execute("CREATE TABLE copied (id int)", DATABASE)
    found = await copying(database, "copied", 100_000, 2)
    labels = {"datname": DATABASE, "relname": "public.copied", "command": "COPY FROM"}
    assert found.value("pg_progress_processes", **labels) == 2
    assert 180_000 <= found.value("pg_progress_done_tuples", **labels) <= 200_000
    assert 360_000 <= found.value("pg_progress_done_bytes", **labels) <= 400_000
    assert not found.series("pg_progress_total_bytes")
    assert not found.series("pg_progress_phase")


async def test_a_base_backup_shows_how_much_it_has_sent(database: Cluster, major: int) -> None:
    """It is throttled, and read by nobody."""
    command = "BASE_BACKUP MAX_RATE 32" if major < 15 else "BASE_BACKUP (MAX_RATE 32, CHECKPOINT 'fast')"
    command = f"{command} FAST PROGRESS" if major < 15 else command.replace(")", ", PROGRESS true)")
    sender = await replication_connection(database)
    try:
        sender.write(message(b"Q", command.encode() + b"\0"))
        async with session(database) as watch:
            await until(lambda: watch.fetchval("SELECT sum(backup_streamed) > 0 FROM pg_stat_progress_basebackup"))
            found = page_of(database)
            total = await watch.fetchval("SELECT backup_total FROM pg_stat_progress_basebackup")
    finally:
        sender.close()
    labels = {"command": "BASE_BACKUP", "datname": "", "relname": ""}
    assert found.value("pg_progress_phase", phase="streaming database files", **labels) == 1
    assert found.value("pg_progress_total_bytes", **labels) == total
    assert 0 < found.value("pg_progress_done_bytes", **labels) < total


def message(kind: bytes, body: bytes) -> bytes:
    """One message of PostgreSQL's protocol."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


async def replication_connection(server: Cluster) -> asyncio.StreamWriter:
    """A connection that takes replication commands, which the driver has none of."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    parameters = b"\x00\x03\x00\x00user\0postgres\0replication\0true\0\0"
    writer.write(message(b"", parameters))
    while (kind := await reader.readexactly(1)) != b"Z":
        assert kind != b"E"
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
    return writer
