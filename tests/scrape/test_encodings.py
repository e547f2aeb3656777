"""Databases of every encoding beside each other: bytes that one cannot read cost themselves, never the page."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from clients import client, waiting
from hypothesis import given
from hypothesis import strategies as st
from pages import MONITOR, page, scraped, target
from pydantic import SecretStr

from exporter.connections import text_codec
from exporter.connections.postgres import Postgres
from exporter.connections.postgres_session import PostgresSession
from exporter.demo.cluster import Cluster
from exporter.errors import QueryError
from exporter.watch.loop import WatchOptions

DATABASES = {"postgres": "UTF8", "latin": "LATIN1", "bytes": "SQL_ASCII", "japan": "EUC_JP", "windows": "WIN1252"}

NAMES = {
    "postgres": {"café日本"},
    "latin": {"café"},
    "bytes": {"caf\ufffd", "日本", "plain"},
    "japan": {"日本"},
    "windows": {"café€"},
}
"""The tables of each: as they are called, with a replacement character for a byte that belongs to no encoding."""


def of_bytes(sql: bytes) -> str:
    """Run a statement of any bytes, which only a database of SQL_ASCII does."""
    return f"DO $$ BEGIN EXECUTE convert_from('\\x{sql.hex()}', 'SQL_ASCII'); END $$"


@pytest.fixture(scope="module", params=[pytest.param(13, marks=pytest.mark.full), 18])
def babel(request: pytest.FixtureRequest, servers: Callable[[int], Cluster]) -> Iterator[Cluster]:
    """A server with a database of each encoding, a table or more in each, and a gid of two."""
    server = servers(request.param)
    others = list(DATABASES)[1:]
    for database in others:
        server.execute(f"CREATE DATABASE {database} ENCODING '{DATABASES[database]}' LOCALE 'C' TEMPLATE template0")
    for database, names in NAMES.items():
        for name in names - {"caf\ufffd"}:
            server.execute(f'CREATE TABLE "{name}" (id int PRIMARY KEY)', database)
    server.execute(of_bytes(b'CREATE TABLE "caf\xe9" (id int PRIMARY KEY)'), "bytes")
    server.execute(of_bytes(b"COMMENT ON TABLE plain IS '\xe9'"), "bytes")
    server.execute("BEGIN; PREPARE TRANSACTION 'é'", "latin")
    yield server
    server.execute("ROLLBACK PREPARED 'é'", "latin")
    server.execute('DROP TABLE "café日本"')
    for database in others:
        server.execute(f"DROP DATABASE {database} WITH (FORCE)")


async def odd_queries(server: Cluster, stack: AsyncExitStack) -> None:
    """Leave sessions whose last queries have bytes of their databases' encodings, one of them in a transaction."""
    for database, text in [("latin", "é"), ("windows", "€"), ("japan", "日本"), ("postgres", "Áü日本")]:
        session = await stack.enter_async_context(client(server, f"odd {database}", database))
        await session.execute(f"BEGIN; SELECT '{text}'")
    session = await stack.enter_async_context(client(server, "odd bytes", "bytes"))
    await session.execute("SET client_encoding = 'LATIN1'")
    await session.execute("SELECT 'é' || '" + "é" * 3000 + "'")


@pytest.mark.parametrize("database", DATABASES)
async def test_every_collector_succeeds_and_every_table_is_there(babel: Cluster, database: str) -> None:
    async with AsyncExitStack() as stack:
        await odd_queries(babel, stack)
        found = page(babel.dsn(database, MONITOR))
    failed = [labels for labels, value in found.series("pgvigil_collector_success") if not value]
    assert failed == []
    for name, tables in NAMES.items():
        shown = {labels["relname"] for labels, _ in found.series("pg_table_size_bytes", datname=name)}
        assert shown >= tables, name


@pytest.mark.parametrize("database", DATABASES)
async def test_an_incident_is_recorded_beside_queries_of_other_encodings(babel: Cluster, database: str) -> None:
    watched = target(babel.dsn(database, MONITOR), watch=WatchOptions(interval=0.2, lock_wait=0.5))
    async with AsyncExitStack() as stack:
        await odd_queries(babel, stack)
        holder = await stack.enter_async_context(client(babel, "holder", "latin"))
        await holder.execute("BEGIN; LOCK TABLE \"café\"; SELECT 'é'")
        await stack.enter_async_context(waiting(babel, "waiter", "SELECT 'é' FROM \"café\"", "latin"))
        watched.start()
        try:
            await asyncio.sleep(2)
            found = await scraped(watched)
        finally:
            await watched.close()
    assert found.value("pgvigil_incidents_total", kind="lock_wait") == 1
    assert found.value("pgvigil_collector_success", collector="wait_sampler") == 1


@pytest.mark.parametrize(
    ("database", "sql", "text"),
    [
        ("japan", "SELECT relname AS text FROM pg_class WHERE relname = $1", "日本"),
        ("postgres", "SELECT $1::text AS text", "é日本"),
        ("latin", "SELECT $1::text AS text", "é"),
        ("japan", "SELECT ARRAY[$1::text, 'b']::varchar[] AS text", "日本"),
        ("bytes", "SELECT to_json(ARRAY[$1::text]) ->> 0 AS text", "日本"),
    ],
)
async def test_parameters_and_values_are_of_the_databases_encoding(
    babel: Cluster, database: str, sql: str, text: str
) -> None:
    session: PostgresSession
    async with await Postgres(SecretStr(babel.dsn(database, MONITOR))).connect() as session:
        [row] = await session.rows(sql, 5, text)
    assert row["text"] in (text, [text, "b"])


@pytest.mark.parametrize("database", DATABASES)
async def test_an_error_message_of_any_bytes_costs_its_query_only(babel: Cluster, database: str) -> None:
    raise_odd = "SELECT * FROM public.odd(false)"
    babel.execute(
        "CREATE FUNCTION odd(bool) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN"
        " RAISE NOTICE 'é'; RAISE EXCEPTION 'é' USING errcode = '42501'; END $f$",
        database,
    )
    async with await Postgres(SecretStr(babel.dsn(database, MONITOR))).connect() as session:
        for _ in range(2):
            with pytest.raises(QueryError, match="SQLSTATE 42501") as caught:
                await session.fetch(raise_odd, 5)
            assert (caught.value.reason, session.is_usable) == ("permission", True)
        [row] = await session.rows("SELECT repeat($1, 1000000) AS text", 5, "é")
    assert row["text"] == "é" * 1_000_000
    babel.execute("DROP FUNCTION odd", database)


class Driver(asyncio.Protocol):
    """What the driver gets."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.got.append(data)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


@given(
    st.lists(st.tuples(st.sampled_from([b"D", b"E", b"N", b"Z"]), st.binary(max_size=40))),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_messages_reach_the_driver_whole_and_in_order_however_they_arrive(
    messages: list[tuple[bytes, bytes]], steps: list[int]
) -> None:
    stream, driver = b"".join(message(*each) for each in messages), Driver()
    readable, at = text_codec._Readable(driver), 0
    for step in itertools.cycle(steps):
        if at >= len(stream):
            break
        readable.data_received(stream[at : at + step])
        at += step
    got = b"".join(driver.got)
    assert len(got) == len(stream)
    for kind, body in messages:
        size = len(body) + 5
        if kind in b"EN":
            got[5:size].decode()
            assert got[:5] == message(kind, body)[:5]
            assert all(new in (old, ord("?")) for new, old in zip(got[5:size], body, strict=True))
        else:
            assert got[:size] == message(kind, body)
        got = got[size:]


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("UTF8", "utf-8"),
        ("LATIN1", "utf-8"),
        ("LATIN9", "iso8859-15"),
        ("WIN1251", "cp1251"),
        ("WIN866", "cp866"),
        ("KOI8R", "koi8-r"),
        ("ISO_8859_5", "iso8859-5"),
        ("EUC_JP", "euc_jp"),
        ("EUC_CN", "gb2312"),
        ("EUC_KR", "euc_kr"),
        ("EUC_JIS_2004", "euc_jis_2004"),
        ("EUC_TW", "utf-8"),
        ("MULE_INTERNAL", "utf-8"),
        ("SQL_ASCII", "utf-8"),
    ],
)
def test_each_encoding_has_its_codec(encoding: str, codec: str) -> None:
    assert text_codec._codec_of(encoding) == codec
