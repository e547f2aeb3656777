"""A PgBouncer as a target: what its page says, and what it says when PgBouncer does not answer."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import hostile_server
import psutil
import pytest
import yaml
from bouncers import PGBOUNCER, USERS, Bouncer
from module_database import eventually
from pages import MONITOR, Page, read, scraped
from patience import Stopwatch
from pydantic import SecretStr
from serving import environment, run, run_in, serving

from exporter.catalog.load import BUILT_IN, load
from exporter.catalog.model import Catalog
from exporter.commands.grants import console_grants
from exporter.connections import console
from exporter.connections.pgbouncer import PgBouncer
from exporter.connections.postgres import Postgres
from exporter.connections.session import Stuck
from exporter.demo.cluster import Cluster, free_port
from exporter.errors import ConnectError, ExcessError, QueryError, SettingsError
from exporter.planning.plan import plan
from exporter.planning.server import Server
from exporter.scrape.target import Options, Target

Bouncers = Callable[..., Bouncer]

SECRET = USERS["stats"]


@pytest.fixture(scope="module")
def pgbouncer(each_tool: Callable[..., Path]) -> Path:
    """The program: the one that is installed, and then one of the newest release."""
    return each_tool(*PGBOUNCER)


@pytest.fixture(scope="module")
def behind(servers: Callable[[int], Cluster]) -> Cluster:
    """The server behind all of them."""
    server = servers(18)
    server.execute("DO $$ BEGIN CREATE ROLE web LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    return server


@pytest.fixture
def bouncers(behind: Cluster, pgbouncer: Path) -> Iterator[Bouncers]:
    """Makes PgBouncers of the test's own: bouncers({"database": "options"}, setting="value")."""
    with ExitStack() as running:
        yield lambda *databases, **settings: running.enter_context(
            Bouncer(behind, *databases, program=pgbouncer, **settings)
        )


@pytest.fixture(scope="module")
def bouncer(behind: Cluster, pgbouncer: Path) -> Iterator[Bouncer]:
    """One for the tests that leave it as they found it."""
    with Bouncer(behind, program=pgbouncer) as running:
        yield running


def uncached() -> Catalog:
    return Catalog(tuple(collector.model_copy(update={"cache": 0.0}) for collector in load(BUILT_IN)))


@asynccontextmanager
async def target(dsn: str, catalog: Catalog | None = None, **options: Any) -> AsyncIterator[Target]:
    made = Target(catalog or uncached(), PgBouncer(SecretStr(dsn), **options), Options(max_connections=2))
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def client(bouncer: Bouncer, user: str = "web") -> AsyncIterator[Any]:
    """A client of the pool shop/web."""
    connection = await asyncpg.connect(bouncer.dsn(user, "shop"), statement_cache_size=0)
    try:
        yield connection
    finally:
        connection.terminate()


def well(page: Page) -> bool:
    return page.value("pgbouncer_up") == 1 and all(value == 1 for _, value in page.series("pgvigil_collector_success"))


# What the page says.


async def test_clients_that_wait_are_counted_and_their_wait_measured(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    async with target(bouncer.dsn()) as made, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(bouncer)) for _ in range(4)]
        await clients[0].execute("BEGIN")
        began = time.monotonic()
        waiting = [asyncio.create_task(each.execute("SELECT 1")) for each in clients[1:3]]
        await asyncio.sleep(1.2)
        page = await scraped(made)
        waited = time.monotonic() - began
        pool = {"database": "shop", "user": "web"}
        assert well(page)
        found = {
            name: page.value(f"pgbouncer_pools_{name}", **pool)
            for name in (
                "client_active_connections",
                "client_waiting_connections",
                "server_active_connections",
                "server_idle_connections",
                "server_connections",
                "size",
            )
        }
        assert found == {
            "client_active_connections": 2,
            "client_waiting_connections": 2,
            "server_active_connections": 1,
            "server_idle_connections": 0,
            "server_connections": 1,
            "size": 1,
        }
        longest = page.value("pgbouncer_pools_client_maxwait_seconds", **pool)
        assert 1.1 < longest < waited + 0.4
        assert longest != round(longest), "microseconds count as well"
        assert page.labels("pgbouncer_pools_mode_info", **pool)["pool_mode"] == "transaction"
        await clients[0].execute("COMMIT")
        await asyncio.gather(*waiting)
        page = await scraped(made)
        assert page.value("pgbouncer_pools_client_maxwait_seconds", **pool) == 0
        assert page.value("pgbouncer_pools_client_waiting_connections", **pool) == 0
        wait = page.value("pgbouncer_stats_client_wait_seconds_total", database="shop")
        assert 2.2 < wait < 2 * waited + 1, "both that waited"


async def test_totals_count_what_went_through(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    async with target(bouncer.dsn()) as made, client(bouncer) as session:
        await session.execute("SELECT 1")

        async def counted() -> tuple[Page, float]:
            page = await scraped(made)
            return page, page.value("pgbouncer_stats_queries_pooled_total", database="shop")

        watch = Stopwatch()
        before, queries = await counted()
        async with session.transaction():
            await session.execute("SELECT pg_sleep(0.3)")
            await asyncio.sleep(0.3)
        await session.execute(f"SELECT repeat('x', {10**6})")
        took = watch.seconds
        after, more = await counted()

        def rise(name: str) -> float:
            name = f"pgbouncer_stats_{name}"
            return after.value(name, database="shop") - before.value(name, database="shop")

        assert more - queries == 4, "BEGIN, two queries, COMMIT"
        assert rise("sql_transactions_pooled_total") == 2
        assert 0.3 <= rise("queries_duration_seconds_total") < took
        assert 0.6 <= rise("server_in_transaction_seconds_total") <= took
        assert 1e6 < rise("sent_bytes_total") < 1.1e6


async def test_a_database_says_where_it_leads_and_whether_it_is_paused_or_disabled(
    bouncers: Bouncers, behind: Cluster
) -> None:
    more = "dbname=postgres user=web max_db_connections=7 pool_mode=session"
    bouncer = bouncers({"a": more, "b": "", "c": ""}, default_pool_size="5", reserve_pool_size="3")
    bouncer.admin("PAUSE b")
    bouncer.admin("DISABLE c")
    async with target(bouncer.dsn()) as made:
        page = await scraped(made)
    leads = {"host": "127.0.0.1", "port": str(behind.port), "database": "postgres", "force_user": "web"}
    assert page.labels("pgbouncer_databases_pool_size", name="a") == {"name": "a", **leads, "pool_mode": "session"}
    assert page.value("pgbouncer_databases_pool_size", name="a") == 5
    assert page.value("pgbouncer_databases_reserve_pool", name="a") == 3
    assert page.value("pgbouncer_databases_max_connections", name="a") == 7
    for name, paused, disabled in (("a", 0, 0), ("b", 1, 0), ("c", 0, 1)):
        assert page.value("pgbouncer_databases_paused", name=name) == paused
        assert page.value("pgbouncer_databases_disabled", name=name) == disabled
    assert page.series("pgbouncer_databases_pool_size", name="pgbouncer") == []


async def test_limits_lists_and_version_are_there(bouncers: Bouncers) -> None:
    bouncer = bouncers(max_client_conn="50", query_wait_timeout="17.5", default_pool_size="4")
    async with target(bouncer.dsn()) as made, client(bouncer) as session:
        await session.execute("SELECT 1")
        page = await scraped(made)
    assert page.value("pgbouncer_config_max_client_connections") == 50
    assert page.value("pgbouncer_config_query_wait_timeout_seconds") == 17.5
    assert page.value("pgbouncer_config_default_pool_size") == 4
    assert page.value("pgbouncer_used_clients") == 3, "the client, and our two"
    assert page.value("pgbouncer_used_servers") == 1
    version = page.labels("pgbouncer_version_info")["version"]
    assert tuple(map(int, version.split("."))) == bouncer.version


async def test_a_page_has_every_metric_that_its_version_has_and_no_other(bouncer: Bouncer) -> None:
    async with target(bouncer.dsn()) as made, client(bouncer) as session:
        await session.execute("SELECT 1")
        page = await scraped(made)
    ours = load(BUILT_IN).of_kind("pgbouncer")
    expected = {m.name for c in ours if c.sql_for(bouncer.version) for m in c.metrics_for(bouncer.version)}
    assert {name for name in page.samples if name.startswith("pgbouncer_")} == {
        *expected,
        "pgbouncer_up",
        "pgbouncer_up_reason",
    }
    assert not [name for name in page.samples if name.startswith("pg_")]


async def test_the_whole_of_it_says_that_it_is_paused(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    async with target(bouncer.dsn()) as made:
        report = await made.scrape(5)
        if bouncer.version < (1, 19):
            assert report.skipped == {"pgbouncer_state": f"has no query for PgBouncer 1.{bouncer.version[1]}"}
            return
        assert (await scraped(made)).value("pgbouncer_state", state="paused") == 0
        bouncer.admin("PAUSE")
        assert (await scraped(made)).value("pgbouncer_state", state="paused") == 1


async def test_own_collectors_run_as_well_and_a_wrong_one_costs_only_itself(bouncer: Bouncer, tmp_path: Path) -> None:
    for name, sql in (("mine", "SELECT name AS base, 2 AS things FROM show_databases"), ("bad", "SELECT 1 AS x")):
        declared = {
            "name": name,
            "help": "Mine.",
            "kind": "pgbouncer",
            "sql": sql,
            "limit": 1,
            "labels": ["base"] if name == "mine" else [],
            "metrics": [{"name": f"{name}_things", "type": "gauge", "help": "It.", "column": "things", "rest": True}],
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(declared))
    async with target(bouncer.dsn(), load(BUILT_IN, tmp_path)) as made:
        page = await scraped(made)
    assert len(page.series("mine_things")) == 1
    cut = page.value("pgvigil_collector_truncated_rows", collector="mine")
    assert cut >= 1
    assert page.value("pgvigil_collector_truncated_value", collector="mine", metric="mine_things") == 2 * cut
    assert page.value("pgvigil_collector_errors_total", collector="bad", reason="query") == 1
    assert page.value("pgvigil_collector_success", collector="pgbouncer_pools") == 1


# When it does not answer.


async def test_it_takes_two_connections_and_gives_them_back(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    async with target(bouncer.dsn()) as made:
        for _ in range(5):
            assert well(page := await scraped(made))
        assert bouncer.consoles() == page.value("pgvigil_connections") == 2

    async def gone() -> bool:
        return bouncer.consoles() == 0

    await eventually(gone)


async def test_one_that_hangs_costs_no_page_and_no_connection(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    async with target(bouncer.dsn()) as made:
        assert well(await scraped(made))
        bouncer.freeze()
        try:
            for _ in range(4):
                page = await scraped(made, 2)
                assert page.value("pgbouncer_up") == 0
                assert page.value("pgbouncer_up_reason", reason="hung") == 1
                assert page.value("pgbouncer_config_max_client_connections") == 100, "the last good result"
                assert page.value("pgvigil_collector_success", collector="pgbouncer_pools") == 0
                assert page.value("pgvigil_connections") <= 2
        finally:
            bouncer.thaw()

        async def again() -> bool:
            return well(await scraped(made, 2))

        await eventually(again)
        assert bouncer.consoles() == 2


async def test_after_a_restart_it_is_there_again(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    async with target(bouncer.dsn()) as made:
        assert well(await scraped(made))
        bouncer.stop()
        page = await scraped(made, 2)
        assert page.value("pgbouncer_up") == 0
        assert page.value("pgbouncer_up_reason", reason="refused") == 1
        bouncer.start()

        async def again() -> bool:
            return well(await scraped(made, 2))

        await eventually(again)


async def test_it_reports_when_no_client_is_let_in_any_more(bouncers: Bouncers) -> None:
    bouncer = bouncers(max_client_conn="4")
    async with target(bouncer.dsn()) as made, client(bouncer) as session, client(bouncer):
        assert well(await scraped(made))
        await session.execute("SELECT 1")
        with pytest.raises(asyncpg.PostgresError, match="no more connections"):
            async with client(bouncer):
                pass
        page = await scraped(made)
        assert well(page)
        assert page.value("pgbouncer_used_clients") == page.value("pgbouncer_config_max_client_connections") == 4
        async with target(bouncer.dsn()) as late:
            assert well(await scraped(late)), "and its console takes who comes late"


def sockets(bouncer: Bouncer) -> int:
    """How many connections this process has to it."""
    connections = psutil.Process().net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr.port == bouncer.port for each in connections)


@pytest.mark.parametrize("way", ["terminated", "cancelled"])
async def test_a_hung_console_is_left_without_a_second_connection(bouncers: Bouncers, way: str) -> None:
    """psycopg answers a cancelled wait with a request to cancel the query, which is a connection of its own."""
    bouncer = bouncers()
    session = await PgBouncer(SecretStr(bouncer.dsn())).connect()
    assert (await session.show("version", 3)).rows
    bouncer.freeze()
    try:
        with pytest.raises(QueryError, match="does not answer") as failed:
            await session.show("pools", 0.1)
        assert (failed.value.reason, session.is_stuck, session.is_usable) == ("connection", True, False)
        with pytest.raises(QueryError, match="no answer for"):
            await session.show("pools", 0.1)
        assert sockets(bouncer) == 1
        assert isinstance(session.state, Stuck)
        waiting = session.state.answer
        if way == "terminated":
            session.terminate()
        else:
            waiting.cancel()  # as the event loop does when it ends
        await asyncio.wait([waiting], timeout=1)
        assert waiting.done()
        assert sockets(bouncer) == (way == "cancelled")
        session.terminate()
        assert (session.is_lost, session.is_stuck, sockets(bouncer)) == (True, False, 0)
    finally:
        bouncer.thaw()


async def test_who_waits_for_an_answer_learns_that_the_session_was_closed(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    session = await PgBouncer(SecretStr(bouncer.dsn())).connect()
    bouncer.freeze()
    try:
        asked = asyncio.create_task(session.show("pools", 30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        session.terminate()
        with pytest.raises(QueryError, match="closed on this side") as failed:
            await asked
        assert failed.value.reason == "connection"
    finally:
        bouncer.thaw()


async def test_an_answer_that_comes_late_frees_the_session(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    async with await PgBouncer(SecretStr(bouncer.dsn())).connect() as session:
        bouncer.freeze()
        with pytest.raises(QueryError):
            await session.show("pools", 0.1)
        bouncer.thaw()

        async def again() -> bool:
            return session.is_usable

        await eventually(again)
        assert (await session.show("version", 3)).columns[0] == "version"


@pytest.mark.parametrize(("command", "reason"), [("RELOAD", "permission"), ("SHOW NOTHING", "query")])
async def test_a_refused_command_is_told_from_one_that_does_not_exist(
    bouncer: Bouncer, command: str, reason: str
) -> None:
    """Both have the SQLSTATE 08P01; the connection survives them."""
    async with await PgBouncer(SecretStr(bouncer.dsn())).connect() as session:
        with pytest.raises(QueryError) as failed:
            await session._answered(command, session._ask(command), 3)
        assert failed.value.reason == reason
        assert (await session.vitals(3)).version == bouncer.version[:2]


async def test_a_session_whose_pgbouncer_ended_says_so(bouncers: Bouncers) -> None:
    bouncer = bouncers()
    session = await PgBouncer(SecretStr(bouncer.dsn())).connect()
    bouncer.stop()
    with pytest.raises(QueryError) as failed:
        await session.show("pools", 3)
    assert (failed.value.reason, session.is_lost) == ("connection", True)


async def test_the_wrong_kind_of_target_is_said(bouncers: Bouncers, behind: Cluster) -> None:
    console = SecretStr(bouncers().dsn(database="pgbouncer"))
    with pytest.raises(ConnectError) as taken_for_postgresql:
        await Postgres(console).connect()
    assert taken_for_postgresql.value.reason == "pooler"
    assert "a target of kind pgbouncer" in str(taken_for_postgresql.value)
    with pytest.raises(ConnectError) as taken_for_pgbouncer:
        await PgBouncer(SecretStr(behind.dsn(database=""))).connect()
    assert taken_for_pgbouncer.value.reason == "no_database"


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("postgresql://stats@127.0.0.1:{free}", "refused"),
        ("postgresql://stats@nowhere.invalid:{port}", "unreachable"),
        ("postgresql://stats:wrong-word@127.0.0.1:{port}", "authentication"),
        ("postgresql://web@127.0.0.1:{port}", "authentication"),
        ("postgresql://stranger@127.0.0.1:{port}", "authentication"),
        ("postgresql://stats@127.0.0.1:{port}/?sslmode=require", "authentication"),
        ("postgresql://stats@127.0.0.1:{port}/", "authentication"),
        ("host=/nowhere user=stats port={port}", "refused"),
    ],
)
async def test_why_there_is_no_session(bouncers: Bouncers, dsn: str, reason: str) -> None:
    bouncer = bouncers(auth_type="plain")
    with pytest.raises(ConnectError) as failed:
        await PgBouncer(SecretStr(dsn.format(port=bouncer.port, free=free_port()))).connect()
    assert failed.value.reason == reason
    assert "wrong-word" not in str(failed.value)


# Settings and commands.


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://stats:{secret}@h:p/pgbouncer",
        "postgresql://stats:{secret}/x@h",
        "postgresql://stats:x@{secret}@h",
        "host=h password={secret} nonsense",
        "host=h password='{secret}",
        "postgresql://stats:{secret}@h/shop",
        "host=h dbname=shop password={secret}",
    ],
)
def test_a_dsn_that_cannot_be_right_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        PgBouncer(SecretStr(dsn.format(secret=SECRET)))
    assert str(wrong.value).startswith("dsn: ")
    assert SECRET not in str(wrong.value)


@pytest.mark.parametrize("auth_type", [pytest.param("md5", marks=pytest.mark.full), "scram-sha-256"])
def test_the_password_comes_from_a_file_or_from_libpq(bouncers: Bouncers, tmp_path: Path, auth_type: str) -> None:
    bouncer = bouncers(auth_type=auth_type)
    secret = tmp_path / "password"
    secret.write_text(f"{SECRET}\n")
    key_value = f"host=127.0.0.1 port={bouncer.port} user=stats"
    given = environment(dsn=key_value, kind="pgbouncer")
    for more in ({"PGVIGIL_PASSWORD_FILE": str(secret)}, {"PGPASSWORD": SECRET, "PGDATABASE": "shop"}):
        done = run_in(given | more, "scrape")
        assert done.returncode == 0, done.stderr
        assert read(done.stdout).value("pgbouncer_up") == 1
    wrong = run("scrape", dsn=f"{key_value} password=wrong-word", kind="pgbouncer")
    assert wrong.returncode == 1
    assert read(wrong.stdout).value("pgbouncer_up_reason", reason="authentication") == 1
    assert "wrong-word" not in wrong.stdout + wrong.stderr


def test_it_stands_beside_other_targets_and_costs_them_nothing_when_it_hangs(
    bouncers: Bouncers, behind: Cluster, tmp_path: Path
) -> None:
    bouncer = bouncers()
    config = tmp_path / "pgvigil.yml"
    targets = [
        {"name": "shop", "dsn": behind.dsn(user=MONITOR)},
        {"name": "pool", "kind": "pgbouncer", "dsn": bouncer.dsn()},
    ]
    config.write_text(yaml.safe_dump({"targets": targets}))
    with serving("--config", str(config)) as exporter:
        ups = read(exporter.get().text)
        assert ups.value("pg_up", target="shop") == ups.value("pgbouncer_up", target="pool") == 1
        assert ups.series("pg_up", target="pool") == ups.series("pgbouncer_up", target="shop") == []
        pool = read(exporter.get("/probe?target=pool").text)
        assert well(pool)
        assert pool.series("pg_up") == []
        shop = read(exporter.get("/probe?target=shop").text)
        assert shop.value("pg_up") == 1
        assert not [name for name in shop.samples if name.startswith("pgbouncer_")]
        text = exporter.get("/collectors").text
        assert "PostgreSQL is up" in text
        assert "PgBouncer is up" in text
        assert exporter.get("/statements?target=pool").status_code == 200
        bouncer.freeze()
        try:
            assert read(exporter.get("/probe?target=shop").text).value("pg_up") == 1
            timeout = {"X-Prometheus-Scrape-Timeout-Seconds": "2"}
            ups = read(exporter.get(headers=timeout).text)
            assert (ups.value("pg_up", target="shop"), ups.value("pgbouncer_up", target="pool")) == (1, 0)
            assert "PgBouncer is down: " in exporter.get("/collectors", headers=timeout).text
        finally:
            bouncer.thaw()


def test_without_its_driver_the_error_names_the_remedy_and_others_need_none() -> None:
    """The driver is hidden, as where the extra is not installed."""
    program = "import sys; sys.modules['psycopg'] = None; from exporter.__main__ import main; main()"
    for kind, said in (("pgbouncer", r"pgvigil: kind: pgbouncer needs .* pip install 'pgvigil\[pgbouncer\]'.*\n"),
                       ("postgresql", ".*PostgreSQL is down.*\n")):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", program, "scrape"],
            env=environment(dsn=f"postgresql://u@127.0.0.1:{free_port()}/", kind=kind),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert re.fullmatch(said, done.stderr), done.stderr


def test_check_says_what_it_found(bouncer: Bouncer) -> None:
    done = run("check", dsn=bouncer.dsn(), kind="pgbouncer")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    version = ".".join(map(str, bouncer.version))
    assert done.stdout.startswith(f"PgBouncer {version}; its console, user stats\n")
    assert "ok       pgbouncer_pools" in done.stdout
    assert done.stdout.endswith("0 missing, 0 warnings; 0 of {} collectors fail\n".format(len(
        plan(load(BUILT_IN).of_kind("pgbouncer"), Server(bouncer.version, False, "pgbouncer")).jobs
    )))  # fmt: skip


def test_check_warns_of_an_admin_and_of_nobody_at_home(bouncer: Bouncer) -> None:
    done = run("check", dsn=bouncer.dsn("admin"), kind="pgbouncer")
    assert done.returncode == 0
    assert "user admin is in admin_users" in done.stdout
    done = run("check", dsn=f"postgresql://stats@127.0.0.1:{free_port()}", kind="pgbouncer")
    assert done.returncode == 2
    assert "cannot be checked" in done.stdout


async def test_what_grants_prints_lets_us_in(bouncers: Bouncers) -> None:
    printed = run("grants", "--kind", "pgbouncer", "--role", "web").stdout
    assert printed == console_grants("web") == run("grants", "--role", "web", kind="pgbouncer").stdout
    [line] = [line for line in printed.splitlines() if line and not line.startswith(";")]
    name, value = line.split(" = ")
    bouncer = bouncers(**{name: value})
    async with target(bouncer.dsn("web")) as made:
        assert well(await scraped(made))


@pytest.mark.parametrize("user", ["a b", "a,b", "a\nb", ""])
def test_a_user_that_stats_users_cannot_hold_is_refused(user: str) -> None:
    with pytest.raises(SettingsError):
        console_grants(user)


async def test_an_answer_without_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "MOST_ROWS", 5000)
    async with hostile_server.listening(hostile_server.a_console_without_end) as dsn:
        session = await PgBouncer(SecretStr(dsn.replace("/anywhere", ""))).connect()
        with pytest.raises(ExcessError, match="more than 5000 rows"):
            await session.vitals(5)
        assert session.is_lost
