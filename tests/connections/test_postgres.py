"""Sessions: guard rails, and the reason when there is none, each brought about on a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from clients import client
from pages import MONITOR
from pydantic import SecretStr
from serving import run
from standby import clone_standby, launch

from exporter.connections import name_lookup, postgres
from exporter.connections.credentials import FromFile
from exporter.connections.guard_rails import GUARD_RAILS
from exporter.connections.postgres import Postgres
from exporter.connections.postgres_session import PostgresSession
from exporter.demo.cluster import Cluster, free_port
from exporter.errors import ConnectError, QueryError, SettingsError
from exporter.planning.label_columns import LabelColumns


async def reason(dsn: str, password_file: Path | None = None) -> str:
    """Why there is no session."""
    with pytest.raises(ConnectError) as caught:
        await Postgres(SecretStr(dsn), FromFile(password_file) if password_file else None, connect_timeout=2).connect()
    return caught.value.reason


@pytest.fixture
async def session(server18: Cluster) -> AsyncIterator[PostgresSession]:
    """A session as the exporter has it."""
    async with await Postgres(SecretStr(server18.dsn(user=MONITOR))).connect() as opened:
        yield opened


async def test_every_guard_rail_is_up(server: Cluster) -> None:
    async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
        names = ", ".join(f"current_setting('{name}') AS {name}" for name in GUARD_RAILS)
        [row] = await session.rows(f"SELECT {names}, current_setting('statement_timeout') AS statement_timeout", 2.5)
    assert dict(row) == {
        "application_name": "pgvigil",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "default_transaction_read_only": "on",
        "lock_timeout": "100ms",
        "idle_in_transaction_session_timeout": "10s",
        "jit": "off",
        "search_path": "pg_catalog",
        "max_parallel_workers_per_gather": "0",
        "work_mem": "4MB",
        "standard_conforming_strings": "on",
        "backslash_quote": "safe_encoding",
        "transform_null_equals": "off",
        "array_nulls": "on",
        "quote_all_identifiers": "off",
        "extra_float_digits": "1",
        "datestyle": "ISO, MDY",
        "intervalstyle": "postgres",
        "bytea_output": "hex",
        "xmloption": "content",
        "statement_timeout": "2500ms",
    }


async def test_nothing_can_be_written(session: PostgresSession) -> None:
    with pytest.raises(QueryError, match="read-only transaction"):
        await session.fetch("CREATE TABLE t ()", 5)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT pg_sleep(5)", "timeout"),
        ("SELECT * FROM locked", "lock_timeout"),
        ("SELECT * FROM pg_catalog.pg_authid", "permission"),
        ("SELECT nothing FROM nowhere", "query"),
        ("SELECT", "none"),
        ("SELECT 1/0", "query"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "connection"),
        ("SELECT pg_cancel_backend(pg_backend_pid())", "query"),
    ],
)
async def test_why_a_query_has_no_rows(server18: Cluster, session: PostgresSession, sql: str, why: str) -> None:
    async with client(server18) as holder:
        await holder.execute("BEGIN; CREATE TABLE locked (); COMMIT; BEGIN; LOCK TABLE locked")
        try:
            await session.fetch(sql.replace("locked", "public.locked"), 0.3)
            found = "none"
        except QueryError as error:
            found = error.reason
        await holder.execute("DROP TABLE locked; COMMIT")
    assert found == why
    assert session.is_usable == (why != "connection")


async def test_refused() -> None:
    assert await reason(f"postgresql://u@127.0.0.1:{free_port()}/d") == "refused"
    assert await reason(f"host=localhost port={free_port()} user=u") == "refused"
    assert await reason("host=/nowhere user=u") == "refused"


@contextmanager
def silent_place() -> Iterator[int]:
    """Listen on a port whose connections nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("login", [Postgres.connect, Postgres.log_in])
async def test_a_host_that_is_silent_does_not_keep_us_from_the_next(
    server18: Cluster, login: Callable[[Postgres], Awaitable[PostgresSession]]
) -> None:
    with silent_place() as first, silent_place() as last:
        wanted = f"user={MONITOR} dbname=postgres host=127.0.0.1,127.0.0.1,127.0.0.1"
        dsn = f"{wanted} port={first},{server18.port},{last} target_session_attrs=prefer-standby"
        async with asyncio.timeout(60), await login(Postgres(SecretStr(dsn), connect_timeout=2)) as session:
            [row] = await session.rows("SELECT current_setting('port')::int AS port", 5)
        assert row["port"] == server18.port
        dsn = f"{wanted} port={first},{first},{last}"
        with pytest.raises(ConnectError) as caught:
            await Postgres(SecretStr(dsn), connect_timeout=1.5).connect()
        assert caught.value.reason == "timeout"


async def test_the_last_host_is_not_waited_for_without_end_because_another_one_has_answered(
    server18: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answers and is no standby; the last falls silent."""
    monkeypatch.setattr(postgres, "LONGEST_SILENCE_SECONDS", 1.0)
    with silent_place() as last:
        wanted = f"user={MONITOR} dbname=postgres host=127.0.0.1,127.0.0.1 target_session_attrs=standby"
        async with asyncio.timeout(60):
            with pytest.raises(ConnectError) as caught:
                await Postgres(SecretStr(f"{wanted} port={server18.port},{last}")).log_in()
    assert caught.value.reason == "timeout"


async def test_an_address_that_is_silent_does_not_keep_us_from_the_next(
    server18: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two addresses of a name drops what it is sent, as one of IPv6 without a route does."""
    with socket.create_server(("127.0.0.2", server18.port), backlog=0) as full, ExitStack() as stack:
        for _ in range(2):  # from now on the system answers no one here
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        monkeypatch.setattr(name_lookup, "_look_up", lambda _: ["127.0.0.2", "127.0.0.1"])
        dsn = server18.dsn(user=MONITOR).replace("127.0.0.1", "two.example")
        async with asyncio.timeout(60), await Postgres(SecretStr(dsn), connect_timeout=2).log_in() as session:
            assert session.is_usable


async def test_unreachable() -> None:
    assert await reason("postgresql://u@no-such-host.invalid/d") == "unreachable"


async def test_authentication_and_the_password_is_never_repeated(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    server = cluster(auth="scram-sha-256", password="right")
    with pytest.raises(ConnectError) as caught:
        await Postgres(SecretStr(server.dsn(password="s3cret"))).connect()
    assert caught.value.reason == "authentication"
    assert "s3cret" not in str(caught.value)
    file = tmp_path / "password"
    file.write_text("wrong\n")
    assert await reason(server.dsn(password=""), file) == "authentication"
    file.write_text("right\n")
    async with await Postgres(SecretStr(server.dsn(password="")), FromFile(file)).connect() as session:
        assert session.is_usable
    file.write_text("*:*:*:*:right\n")
    with_file = f"{server.dsn(password='')}?passfile={file}"
    file.chmod(0o644)
    done = run("check", dsn=with_file)
    ignored = f"no password was given: others may read {file}, so it is ignored until chmod 0600;"
    assert (ignored in done.stdout, done.stderr) == (True, "")
    file.chmod(0o600)
    async with await Postgres(SecretStr(with_file)).connect() as session:
        assert session.is_usable


async def test_a_role_that_does_not_exist_is_a_matter_of_authentication(server18: Cluster) -> None:
    assert await reason(server18.dsn(user="nobody_here")) == "authentication"


async def test_a_database_that_does_not_exist(server18: Cluster) -> None:
    with pytest.raises(ConnectError, match='database "nowhere" does not exist') as caught:
        await Postgres(SecretStr(server18.dsn("nowhere"))).connect()
    assert caught.value.reason == "no_database"


async def test_too_many_connections(cluster: Callable[..., Cluster]) -> None:
    server = cluster(
        settings={
            "max_connections": "8",
            "superuser_reserved_connections": "3",
            "max_wal_senders": "0",
            "wal_level": "minimal",
        }
    )
    async with AsyncExitStack() as filled:
        for _ in range(5):
            await filled.enter_async_context(await Postgres(SecretStr(server.dsn(user=MONITOR))).connect())
        assert await reason(server.dsn(user=MONITOR)) == "too_many_connections"


async def test_starting_up(server18: Cluster) -> None:
    """A standby that lets nobody in says the same as a server that is starting up."""
    standby = clone_standby(server18, settings={"hot_standby": "off"})
    launch(standby)
    try:
        while (found := await reason(standby.dsn(user=MONITOR))) == "refused":
            await asyncio.sleep(0.05)
    finally:
        standby.stop("immediate")
        standby.remove()
    assert found == "starting_up"


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("host=h port=http user=s3cret", "dsn: "),
        ("host=h sslmode=perhaps user=u password=s3cret", "dsn: "),
        ("localhost s3cret", "dsn: character 1: expected key=value"),
    ],
)
async def test_a_bad_dsn_is_a_matter_of_settings(dsn: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await Postgres(SecretStr(dsn)).connect()
    assert str(caught.value).startswith(message)
    assert "password=s3cret" not in str(caught.value)


async def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: cannot be read"):
        await Postgres(SecretStr("host=h user=u"), FromFile(tmp_path / "nowhere")).connect()
    with pytest.raises(SettingsError, match=r"^password_file: /tmp: is not a regular file\. Name a file"):
        await Postgres(SecretStr("host=h user=u"), FromFile(Path("/tmp"))).connect()


async def test_libpq_variables_are_the_defaults(server18: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(server18.port))
    monkeypatch.setenv("PGUSER", MONITOR)
    monkeypatch.setenv("PGDATABASE", "postgres")
    async with await Postgres(SecretStr("")).connect() as session:
        assert (await session.vitals(5)).database == "postgres"


async def test_a_hostile_search_path_cannot_redirect_a_query(cluster: Callable[..., Cluster]) -> None:
    """The role's own search_path puts a schema in front that has its own pg_database and its own lower()."""
    server = cluster()
    server.execute(f"""
        CREATE SCHEMA hostile;
        GRANT USAGE ON SCHEMA hostile TO PUBLIC;
        CREATE VIEW hostile.pg_database AS
            SELECT 1 AS oid, 'hostile' AS datname, true AS datallowconn, false AS datistemplate;
        GRANT SELECT ON hostile.pg_database TO PUBLIC;
        CREATE FUNCTION hostile.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true';
        ALTER ROLE {MONITOR} SET search_path = hostile, pg_catalog;
    """)
    async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
        vitals = await session.vitals(5)
        directory = await session.directory(5)
        [row] = await session.rows("SELECT count(*) AS n FROM pg_database", 5)
    assert not vitals.in_recovery
    assert "hostile" not in directory.databases.values()
    assert row["n"] >= 3


async def test_a_query_may_ask_for_the_roles_own_search_path_and_the_next_has_it_pinned_again(
    cluster: Callable[..., Cluster],
) -> None:
    server = cluster()
    server.execute(f"CREATE SCHEMA app; ALTER ROLE {MONITOR} SET search_path = app, public")
    path = "SELECT current_setting('search_path') AS path"

    async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
        found = [
            (await session.fetch(path, 5, search_path=name)).rows[0]["path"] for name in ("role", "role", "pg_catalog")
        ]
        assert found == ["app, public", "app, public", "pg_catalog"]
        with pytest.raises(QueryError):
            await session.fetch("SELECT 1 / 0", 5, search_path="role")
        assert (await session.vitals(5)).database == "postgres"
        answer = await session.fetch(path, 5)
        assert (answer.rows[0]["path"], answer.round_trips) == ("pg_catalog", 1)
        with pytest.raises(QueryError):
            await session.columns("SELECT * FROM pg_stat_statements")
        assert "calls" in await session.columns("SELECT * FROM pg_stat_statements", "role")


async def test_a_timeout_in_between_serves_a_question_with_less_patience(server18: Cluster) -> None:
    """Questions with patience are asked at every scrape: a round trip for their timeout would be one in four of all."""
    limit = "SELECT current_setting('statement_timeout') AS value"
    async with await Postgres(SecretStr(server18.dsn(user=MONITOR))).connect() as session:

        async def limited(timeout: float, patience: float | None = None) -> tuple[str, int]:
            answer = await session.fetch(limit, timeout, patience=patience)
            return answer.rows[0]["value"], answer.round_trips

        await limited(3)
        assert await limited(5, patience=2) == ("3s", 1)
        assert await limited(5, patience=3) == ("5s", 2)  # or both would end at the same moment
        assert await limited(5) == ("5s", 1)
        assert await limited(4, patience=1) == ("4s", 2)  # more than was asked for is not in between
        with pytest.raises(QueryError) as ended:
            await session.fetch("SELECT pg_sleep(30)", 0.2, patience=3)
        assert ended.value.reason == "timeout"


async def test_a_database_has_no_tables_until_one_is_created(cluster: Callable[..., Cluster]) -> None:
    """Views of an extension and temporary tables do not count."""
    server = cluster(18)
    server.execute("CREATE DATABASE app")
    async with await Postgres(SecretStr(server.dsn("app", user=MONITOR))).connect() as app:
        server.execute("CREATE EXTENSION pg_stat_statements", "app")
        async with client(server, database="app") as session:
            await session.execute("CREATE TEMPORARY TABLE t ()")
            assert not (await app.contents(5)).has_tables
        server.execute("CREATE TABLE t ()", "app")
        assert (await app.contents(5)).has_tables


@pytest.mark.parametrize(
    "given", ["s3cret", "/s3cret", "postgresql://u:s3cret@h/d", "s3cret\0", "/nowhere/s3cret", "s3cret" * 99]
)
async def test_a_secret_given_in_place_of_its_file_is_not_repeated(given: str) -> None:
    with pytest.raises(SettingsError, match=r"^dsn_file: no file: ") as caught:
        Postgres(Path(given))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"^password_file: no file: ") as caught:
        await Postgres(SecretStr("host=h"), FromFile(Path(given))).connect()
    assert "s3cret" not in str(caught.value)


def test_what_is_wrong_in_the_file_of_a_dsn_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("postgresql://u:s3cret%zz@h/d")
    with pytest.raises(SettingsError, match=r"^dsn_file: \S+/dsn: dsn: a % of the URI") as caught:
        Postgres(tmp_path / "dsn")
    assert "s3cret" not in str(caught.value)


async def test_a_server_answers_before_any_login_and_a_silent_address_does_not(server18: Cluster) -> None:
    before = server18.log.count("\n")
    assert await Postgres(SecretStr(server18.dsn())).is_answering()
    assert server18.log.count("\n") == before  # nor does it clutter the log
    assert not await Postgres(SecretStr(f"host=127.0.0.1 port={free_port()}")).is_answering()
    assert not await Postgres(SecretStr("host=/nowhere")).is_answering()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not await Postgres(SecretStr(f"host=127.0.0.1 port={port}")).is_answering()


async def test_a_query_whose_columns_change_is_prepared_anew(server: Cluster) -> None:
    server.execute(
        f"CREATE TABLE changing (a int); GRANT SELECT ON changing TO {MONITOR}; INSERT INTO changing VALUES (1)"
    )
    labels = LabelColumns(frozenset({"took"}))
    try:
        async with await Postgres(SecretStr(server.dsn(user=MONITOR))).connect() as session:
            sql = "SELECT * FROM public.changing"
            for change, row in (
                ("SELECT 1", {"a": 1}),
                ("ALTER TABLE changing ADD took interval DEFAULT '-1.5 s'", {"a": 1, "took": "-00:00:01.5"}),
                ("ALTER TABLE changing DROP a", {"took": "-00:00:01.5"}),
            ):
                server.execute(change)
                answer = await session.fetch(sql, 5, labels=labels)
                assert [dict(each) for each in answer.rows] == [row]
    finally:
        server.execute("DROP TABLE changing")


async def test_a_dsn_file_that_names_another_server_by_now_leads_to_the_same_one_until_a_reload(
    server18: Cluster, tmp_path: Path
) -> None:
    """What is known of one server never stands beside what another one says."""
    file, dsn = tmp_path / "dsn", server18.dsn(user=MONITOR)
    file.write_text(dsn)
    postgres = Postgres(file)
    file.write_text(dsn.replace(MONITOR, f"{MONITOR}:secret", 1))
    assert not postgres.is_another()
    for other in (f"host=127.0.0.1 port={free_port()}", dsn.replace("/postgres", "/template1"), server18.dsn()):
        file.write_text(other)
        async with await postgres.log_in() as session:
            [row] = await session.rows("SELECT current_user::text || current_database() AS who", 5)
        assert row["who"] == f"{MONITOR}postgres"
        assert postgres.address == f"127.0.0.1:{server18.port}"
        assert postgres.is_another()
    file.write_text(dsn)
    assert not postgres.is_another()
