"""Databases of every encoding beside each other: bytes that one cannot read cost themselves, never the page."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import psycopg
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
    "bytes": {"caf\ufffde9", "caf\ufffde8", "caf\ufffdef\ufffdbf\ufffdbde9", "日本", "plain"},
    "japan": {"日本"},
    "windows": {"café€"},
}
"""The tables of each: as they are called, with a mark and two digits for a byte that belongs to no encoding."""

BYTES = {"caf\ufffde9": b"caf\xe9", "caf\ufffde8": b"caf\xe8", "caf\ufffdef\ufffdbf\ufffdbde9": "caf\ufffde9".encode()}
"""Names, and their bytes: the last one has such a mark itself."""


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
        for name in names - {*BYTES}:
            server.execute(f'CREATE TABLE "{name}" (id int PRIMARY KEY)', database)
    for odd in BYTES.values():
        server.execute(of_bytes(b'CREATE TABLE "%b" (id int PRIMARY KEY)' % odd), "bytes")
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


@pytest.fixture(scope="module")
def odd_names(babel: Cluster) -> Iterator[Cluster]:
    """Databases and roles of any bytes, two of which differ in one byte that is no UTF-8; one table in each."""
    for number, name in enumerate(BYTES.values()):
        babel.execute(f"CREATE DATABASE odd{number} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        babel.execute(f"CREATE TABLE of_{number} (id int)", f"odd{number}")
        babel.execute(of_bytes(b'ALTER DATABASE odd%d RENAME TO "%b"' % (number, name)), "bytes")
        babel.execute(of_bytes(b'CREATE ROLE "%b" LOGIN CONNECTION LIMIT %d' % (name, number + 1)), "bytes")
    yield babel
    for number, name in enumerate(BYTES.values()):
        babel.execute(of_bytes(b'ALTER DATABASE "%b" RENAME TO odd%d' % (name, number)), "bytes")
        babel.execute(f"DROP DATABASE odd{number} WITH (FORCE)")
        babel.execute(of_bytes(b'DROP ROLE "%b"' % name), "bytes")


SHOWN = {"latin": ["café", "cafè", "cafï¿½e9"], "windows": ["café", "cafè", "cafï¿½e9"]}
"""Those names as sessions in databases of other encodings read them."""


@pytest.mark.parametrize("database", DATABASES)
async def test_names_that_differ_in_a_byte_have_series_of_their_own_and_their_databases_are_visited(
    odd_names: Cluster, database: str
) -> None:
    found = page(odd_names.dsn(database, MONITOR))
    for number, name in enumerate(SHOWN.get(database, BYTES)):
        tables = {labels["relname"] for labels, _ in found.series("pg_table_size_bytes", datname=name)}
        assert f"of_{number}" in tables, name
        assert found.value("pg_database_size_bytes", datname=name) > 0
        assert found.value("pg_roles_connection_limit", rolname=name) == number + 1


async def test_a_database_of_any_bytes_can_be_the_dsns(odd_names: Cluster) -> None:
    async with await Postgres(SecretStr(odd_names.dsn("caf\ufffde8", MONITOR))).connect() as session:
        [row] = await session.rows("SELECT current_database()::text AS name", 5)
    assert row["name"] == "cafè"


@pytest.mark.parametrize(("encoding", "lead"), [("EUC_TW", b"\xc5"), ("MULE_INTERNAL", b"\x81")])
async def test_names_of_an_encoding_that_python_lacks_stay_apart(babel: Cluster, encoding: str, lead: bytes) -> None:
    babel.execute(f"CREATE DATABASE other ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        with psycopg.connect(babel.dsn("other"), autocommit=True) as client:
            client.pgconn.exec_(b"SET client_encoding = 'SQL_ASCII'")
            for last in (b"\xe8", b"\xe9"):
                client.pgconn.exec_(b'CREATE TABLE "%b" (id int)' % (lead + last))
        for database in ("postgres", "other"):
            found = page(babel.dsn(database, MONITOR))
            shown = {
                labels["relname"]
                for labels, _ in found.series("pg_table_size_bytes", datname="other", schemaname="public")
            }
            assert shown == {f"\ufffd{lead.hex()}\ufffd{last}" for last in ("e8", "e9")}
            assert [labels for labels, value in found.series("pgvigil_collector_success") if not value] == []
    finally:
        babel.execute("DROP DATABASE other WITH (FORCE)")


@given(
    st.one_of(
        st.binary(),
        st.lists(st.sampled_from([b"\xe9", b"e9", "\ufffd".encode(), b"\xef", b"\xbf\xbd", b"\\xe9"])).map(b"".join),
    )
)
def test_any_bytes_are_told_apart_and_can_be_told_from_their_text(raw: bytes) -> None:
    text = text_codec.decoder()(raw)
    assert text_codec.unmarked(text.encode()) == raw
    if "\ufffd" not in text:
        assert text.encode() == raw


@pytest.mark.parametrize(
    ("codec", "raw", "text"),
    [
        ("euc_jp", "日本".encode("euc_jp"), "日本"),
        ("euc_jp", "日本".encode("euc_jp") + b"\xff", "日本\ufffdff"),
        ("euc_jp", "é日".encode(), "é日"),
        ("cp1252", b"caf\xe9\x81", "café\ufffd81"),
    ],
)
def test_a_byte_that_is_not_in_the_encoding_costs_only_itself(codec: str, raw: bytes, text: str) -> None:
    assert text_codec.decoder(codec)(raw) == text


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
