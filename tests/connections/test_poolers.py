"""Poolers: refused before anything is set, so that the applications behind them are left alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from bouncers import PGBOUNCER, Bouncer
from pages import MONITOR
from pydantic import SecretStr
from serving import run, serving

from exporter.connections.guard_rails import GUARD_RAILS, protect
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster
from exporter.errors import ConnectError

MODES = [("transaction", "DISCARD ALL"), ("statement", "DISCARD ALL"), ("session", "DISCARD ALL"), ("session", "")]
"""pool_mode and server_reset_query. Without the latter a session in session mode is handed on as it was left."""

LEFT = ", ".join(f"current_setting('{name}')" for name in (*GUARD_RAILS, "statement_timeout"))


@pytest.fixture(scope="module")
def pooled(servers: Callable[[int], Cluster]) -> Iterator[Cluster]:
    """A server with an application and its table."""
    server = servers(18)
    server.execute("CREATE ROLE app LOGIN; GRANT pg_monitor TO app; CREATE TABLE orders (id int)")
    server.execute("GRANT INSERT, SELECT ON orders TO app")
    yield server
    server.execute("DROP TABLE orders; DROP ROLE app")


@pytest.fixture(params=[MODES[0], *(pytest.param(mode, marks=pytest.mark.full) for mode in MODES[1:])], ids="-".join)
def pooler(request: pytest.FixtureRequest, pooled: Cluster, each_tool: Callable[..., Path]) -> Iterator[Bouncer]:
    """A PgBouncer whose clients, whatever their names, share the one backend of the role app."""
    mode, reset = request.param
    with ExitStack() as running:
        databases = {"app": "dbname=postgres user=app pool_size=1"}
        settings = {"pool_mode": mode, "server_reset_query": reset}
        yield running.enter_context(Bouncer(pooled, databases, program=each_tool(*PGBOUNCER), **settings))


async def state(pooler: Bouncer) -> tuple[list[str], int, int]:
    """What an application finds: settings, prepared statements, its backend; its INSERT has worked."""
    application = await asyncpg.connect(pooler.dsn("web", "app"), statement_cache_size=0)
    try:
        [(pid,)] = await application.fetch("SELECT pg_backend_pid()")
        settings = list(await application.fetchrow(f"SELECT {LEFT}"))
        [(prepared,)] = await application.fetch("SELECT count(*) FROM pg_prepared_statements")
        assert await application.execute("INSERT INTO orders VALUES (1)") == "INSERT 0 1"
    finally:
        await application.close()
    return settings, prepared, pid


async def test_an_application_finds_its_backend_as_it_was_after_every_command(pooler: Bouncer) -> None:
    before = await state(pooler)
    dsn = pooler.dsn("web", "app")

    assert run("scrape", dsn=dsn).stdout.count('pg_up_reason{reason="pooler"} 1') == 1
    assert await state(pooler) == before
    checked = run("check", dsn=dsn)
    assert (checked.returncode, "Connect to PostgreSQL's own host" in checked.stdout) == (2, True)
    assert await state(pooler) == before
    with serving(dsn=dsn) as exporter:
        for path in ("/metrics", "/", "/statements", "/incidents", "/metrics"):
            exporter.get(path)
        assert 'pg_up_reason{reason="pooler"} 1' in exporter.get().text
        assert await state(pooler) == before
    assert await state(pooler) == before


async def test_a_session_of_the_server_itself_is_none_of_a_pooler(server: Cluster) -> None:
    """Nor over a Unix socket, nor where the role's search_path has another `=` and pg_backend_pid()."""
    server.execute(f"""
        CREATE SCHEMA hostile;
        GRANT USAGE ON SCHEMA hostile TO PUBLIC;
        CREATE FUNCTION hostile.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 0';
        CREATE FUNCTION hostile.never(int, int) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR hostile.= (LEFTARG = int, RIGHTARG = int, FUNCTION = hostile.never);
        ALTER ROLE {MONITOR} SET search_path = hostile, pg_catalog;
    """)
    try:
        async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
            assert session.is_usable
    finally:
        server.execute(f"ALTER ROLE {MONITOR} RESET search_path; DROP SCHEMA hostile CASCADE")


class Announced:
    """A connection of a server that runs statements as process 4711."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.asked: list[str] = []

    def get_server_pid(self) -> int:
        """The process ID that the login announced."""
        return self.pid

    async def execute(self, sql: str) -> str:
        """One simple query."""
        self.asked.append(sql)
        return "SELECT 1" if sql.endswith("= 4711") else "SELECT 0"


@pytest.mark.parametrize("pid", [0, 1, -4711])
async def test_a_pooler_that_announces_no_process_or_another_is_refused_at_the_first_question(pid: int) -> None:
    connection = Announced(pid)
    with pytest.raises(ConnectError) as caught:
        await protect(connection)
    assert caught.value.reason == "pooler"
    assert len(connection.asked) == 1
