"""The text of each statement that has series of its own is on the page, and no literal with it."""

import asyncio
import re
import time
from collections.abc import Callable

import pytest
from clients import client
from fake_session import FakeServer, collector, job, scraping
from pages import MONITOR, Page, catalog, named, scraped, target
from patience import until
from serving import run
from virtual_time import in_virtual_time

from exporter.catalog.model import Catalog, Collector
from exporter.demo.cluster import Cluster
from exporter.errors import ConnectError, QueryError
from exporter.planning.server import Extension
from exporter.scrape.statement_texts import GONE_SECONDS, NO_TEXT, READ_SECONDS, Texts
from exporter.scrape.target import Target

INFO = "pg_statement_info"
CALLS = "pg_statements_calls_total"
SECRET = "zq7xxsecret"


def statements(limit: int = 40) -> Catalog:
    return Catalog((named(catalog(), "statements").model_copy(update={"limit": limit, "cache": 0}),))


def members(found: Page) -> set[tuple[str, str, str]]:
    """Database, user and query identifier of the statements with series of their own."""
    shown = (labels for labels, _ in found.series(CALLS) if labels["queryid"] not in ("pgvigil", "other"))
    return {(labels["datname"], labels["usename"], labels["queryid"]) for labels in shown}


async def with_texts(of: Target, *wanted: str) -> Page:
    """A page that has the texts of statements with all of these parts; what runs meanwhile may still lack its own."""

    async def whole() -> Page | None:
        found = await scraped(of)
        of.texts.read_newcomers()
        texts = [labels["query"] for labels, _ in found.series(INFO)]
        return found if all(any(part in text for text in texts) for part in wanted) else None

    found: Page = await until(whole)
    return found


async def test_each_statement_with_series_has_its_text(server: Cluster) -> None:
    server.execute("SELECT pg_stat_statements_reset()")  # texts of other tests are as many as may be shown
    server.execute("CREATE TABLE deals AS SELECT 1 AS id; CREATE TABLE users AS SELECT 1 AS id")
    long = ", ".join(f"deals.id AS column_{i}" for i in range(50))
    server.execute(f"SELECT {long} FROM deals JOIN users USING (id) WHERE deals.id = 5")
    watched = target(server.dsn(user=MONITOR), statements(200), statement_text_length=160)
    try:
        assert (await scraped(watched)).series(INFO) == []  # no scrape waits for texts
        found = await with_texts(watched, "deals.id = $1")
        assert {labels["queryid"] for labels, _ in found.series(INFO)} <= {queryid for *_, queryid in members(found)}
    finally:
        await watched.close()
        server.execute("DROP TABLE deals; DROP TABLE users")
    texts = {labels["query"]: (labels, value) for labels, value in found.series(INFO)}
    labels, value = texts["SELECT … FROM deals JOIN users USING (id) WHERE deals.id = $1"]
    assert (labels["datname"], labels["usename"], value) == ("postgres", "postgres", 1)
    assert found.value(CALLS, queryid=labels["queryid"]) == 1
    assert max(map(len, texts)) <= 160
    assert found.value("pgvigil_collector_success", collector="statement_texts") == 1


async def test_no_literal_is_on_the_page(server18: Cluster) -> None:
    server18.execute("SELECT pg_stat_statements_reset()")
    server18.execute("CREATE TABLE planted (a text)")
    for text in (
        f"SELECT '{SECRET}' FROM planted",
        f"INSERT INTO planted VALUES ('{SECRET}') /* {SECRET} */",
        f"CREATE ROLE planted PASSWORD '{SECRET}'",
        f"ALTER ROLE planted SET search_path = {SECRET}",
        f"DO $$ BEGIN PERFORM '{SECRET}'; END $$",
        f"COMMENT ON TABLE planted IS '{SECRET}'",
        f"SET app.token = '{SECRET}' -- {SECRET}",
    ):
        server18.execute(text)
    async with client(server18) as session:
        await session.execute(f"COPY (SELECT '{SECRET}') TO PROGRAM 'cat > /dev/null'")
    watched = target(server18.dsn(user=MONITOR), statements(500), statement_text_length=1000)
    try:
        found = await with_texts(watched, "CREATE ROLE planted", "TO PROGRAM")
    finally:
        await watched.close()
        server18.execute("DROP TABLE planted; DROP ROLE planted")
    assert SECRET not in found.text
    texts = " ".join(labels["query"] for labels, _ in found.series(INFO))
    assert "CREATE ROLE planted PASSWORD ?" in texts
    assert re.search(r"COPY \(SELECT [?$]\d*\) TO PROGRAM \?", texts)


COUNTED = r"""
SET pg_stat_statements.track = 'all';
DO $$ BEGIN
  EXECUTE format('CREATE TABLE %I (a int)', 'caf' || chr(233));
  EXECUTE format('SELECT count(*) FROM %I', 'caf' || chr(233));
END $$
"""
"""Makes a statement with a byte that is no UTF-8, where the database takes it."""


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
async def test_a_byte_of_another_encoding_costs_no_other_text(
    cluster: Callable[..., Cluster], major: int, encoding: str
) -> None:
    """PostgreSQL then tells no text in this database, but all of them in one that has SQL_ASCII."""
    server = cluster(major)
    made = "CREATE DATABASE {} TEMPLATE template0 ENCODING '{}' LC_COLLATE 'C' LC_CTYPE 'C'"
    for name, its in (("till", "SQL_ASCII"), ("home", encoding)):
        server.execute(made.format(name, its))
    server.execute("CREATE EXTENSION pg_stat_statements", "home")
    server.execute(COUNTED, "till")
    server.execute('SELECT 1 AS "\u20ac"')
    watched = target(server.dsn("home", user=MONITOR), statements(200), statement_text_length=160)
    try:

        async def refused() -> Page | None:
            found = await scraped(watched)
            watched.texts.read_newcomers()
            failed = [value for _, value in found.series("pgvigil_collector_success", collector="statement_texts")]
            return found if failed == [0] else None

        found: Page = await until(refused)
        assert found.series(INFO) == []
        assert "ENCODING 'SQL_ASCII'" in (await watched.texts.read()).note
        checked = run("check", dsn=server.dsn("home", user=MONITOR)).stdout
        assert re.search(r"failed +statement_texts +The texts cannot be read: .* ENCODING 'SQL_ASCII'", checked)
        server.execute("CREATE EXTENSION pg_stat_statements", "till")
    finally:
        await watched.close()
    watched = target(server.dsn("home", user=MONITOR), statements(200), statement_text_length=160)
    try:
        found = await with_texts(watched, 'FROM "caf')
        assert [labels["query"] for labels, _ in found.series(INFO) if "\u20ac" in labels["query"]]
        await until(lambda: _has_costs(watched))
    finally:
        await watched.close()


async def _has_costs(of: Target) -> bool:
    return bool((await scraped(of)).series("pgvigil_collector_server_seconds_total", collector="statements"))


async def test_without_a_length_there_is_no_text(server18: Cluster) -> None:
    watched = target(server18.dsn(user=MONITOR), statements())
    try:
        for _ in range(3):
            found = await scraped(watched)
            watched.texts.read_newcomers()
            await asyncio.sleep(0.2)
    finally:
        await watched.close()
    assert members(found)
    assert found.series(INFO) == found.series("pgvigil_collector_success", collector="statement_texts") == []


async def test_thousands_of_statements_have_few_texts_and_few_reads(server18: Cluster) -> None:
    server18.execute("SELECT pg_stat_statements_reset()")
    watched = target(server18.dsn(user=MONITOR), statements(10), statement_text_length=160)
    seen: set[str] = set()
    began = time.monotonic()
    try:
        for each in range(10):
            columns = (f"SELECT 1 AS churn_{each}_{i}" for i in range(200))
            server18.execute(";".join(columns))
            found = await scraped(watched)
            watched.texts.read_newcomers()
            await asyncio.sleep(0.1)
            assert len(found.series(INFO)) <= 11
            seen |= {labels["query"] for labels, _ in found.series(INFO)}
        logins = server18.value("SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE '%statement_texts%'")
    finally:
        await watched.close()
    reads = 1 + (time.monotonic() - began) // READ_SECONDS
    assert 1 <= logins <= reads
    assert len(seen) <= 11 * reads


def test_what_the_server_does_not_have_is_said_and_asked_for_again_later() -> None:
    one, two, three, four = (("shop", "web", str(each)) for each in (1, 2, 3, 4))
    texts = Texts(160)
    assert texts.short(one) == ""
    texts.learn({one: "SELECT  5", two: None}, [one, two, three], now=0)
    assert [texts.short(each) for each in (one, two, three, four)] == ["SELECT ?", NO_TEXT, NO_TEXT, ""]
    assert texts.is_complete([one, two, three], now=GONE_SECONDS - 1)
    assert not texts.is_complete([one, two, three], now=GONE_SECONDS)
    assert not texts.is_complete([one, four], now=0)
    texts.learn({three: "SELECT b"}, [three], now=GONE_SECONDS)
    assert texts.short(three) == "SELECT b"


async def test_tables_of_one_name_in_two_schemas_are_told_apart(server18: Cluster) -> None:
    """PostgreSQL 18 gives both statements the same queryid."""
    server18.execute("SELECT pg_stat_statements_reset()")
    for name in ("tenant_a", "tenant_b"):
        server18.execute(f"CREATE SCHEMA {name} CREATE TABLE orders (id int)")
        server18.execute(f"CREATE ROLE {name} SUPERUSER")
        server18.execute(f"SET ROLE {name}; SELECT id FROM {name}.orders; RESET ROLE")
    watched = target(server18.dsn(user=MONITOR), statements(200), statement_text_length=160)
    try:
        found = await with_texts(watched, "tenant_a.orders", "tenant_b.orders")
    finally:
        await watched.close()
        server18.execute("DROP SCHEMA tenant_a, tenant_b CASCADE; DROP ROLE tenant_a, tenant_b")
    texts = {labels["usename"]: labels["query"] for labels, _ in found.series(INFO) if "orders" in labels["query"]}
    assert texts["tenant_a"] == "SELECT id FROM tenant_a.orders"
    assert texts["tenant_b"] == "SELECT id FROM tenant_b.orders"


def a_statement(server: FakeServer) -> Collector:
    """A collector that lists one statement, on a server that has it."""
    row = {"userid": 10, "dbid": 1, "queryid": 7, "toplevel": True, "generation": 0.0, "calls": 1}
    row |= {"exec_seconds": 1.0, "plan_seconds": 0.0, "shared_blks_hit": 0, "shared_blks_read": 0, "rows": 1}
    server.on("statements", rows=[row | {"datname": 1, "usename": 10}])
    metric = {"name": "pg_statements_calls_total", "type": "counter", "help": "Calls.", "column": "calls"}
    return collector(
        "statements",
        extension="pg_stat_statements",
        statements=True,
        limit=40,
        labels=["datname", "usename", "queryid"],
        names={"datname": "database", "usename": "role"},
        ledger={"key": ["userid", "dbid", "queryid", "toplevel", "generation"], "rank": "calls"},
        metrics=[metric],
    )


def test_at_a_server_without_a_free_connection_texts_are_read_on_the_one_that_is_kept() -> None:
    async def scenario() -> None:
        server = FakeServer(extensions={"pg_stat_statements": Extension((1, 12), "public")})
        row = {"dbid": 1, "userid": 10, "queryid": "7", "query": "SELECT 1 FROM orders"}
        server.on("statement_texts", rows=[row])
        async with scraping(server, a_statement(server), statement_text_length=160) as watched:
            await watched.scrape(10)
            server.on_login(error=ConnectError("too_many_connections", "sorry, too many clients already"))
            watched.texts.read_newcomers()
            await asyncio.sleep(1)
            assert set(watched.texts.listed().values()) == {"SELECT ? FROM orders"}
            assert (await watched.scrape(10)).up

    in_virtual_time(scenario())


def test_a_read_that_hangs_is_not_joined_by_another_and_one_that_fails_backs_off() -> None:
    async def scenario() -> None:
        server = FakeServer(extensions={"pg_stat_statements": Extension((1, 12), "public")})
        async with scraping(server, a_statement(server), statement_text_length=160) as watched:
            server.on("statement_texts", error=QueryError("timeout", "canceling statement due to statement timeout"))
            for _ in range(10):
                report = await watched.scrape(10)
                watched.texts.read_newcomers()
                await asyncio.sleep(15)
            assert server.runs("statement_texts") == 4  # at once, and after pauses of 15, 30 and 60 s
            assert not job(report, "statement_texts").success
            assert dict(job(report, "statement_texts").errors) == {"timeout": 4}
            assert job(report, "statement_texts").reason == ""
            server.on("statement_texts", hangs=True)
            for _ in range(60):
                await watched.scrape(10)
                watched.texts.read_newcomers()
                await asyncio.sleep(15)
            assert server.runs("statement_texts") == 7  # each ended before the next

    in_virtual_time(scenario())
