"""Whoever holds a lock, takes the last connection or sets traps: the page arrives, and says what it cannot know."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from clients import client, until, waiting
from faults.harness import BUDGET, Witness, exporting, failing, reason, timed, until_whole, witnessed
from hostile import hostile_to
from pages import MONITOR, Page, read, uncached
from patience import Stopwatch
from serving import serving
from standby import restart

from exporter.catalog.load import BUILT_IN, load
from exporter.demo.cluster import Cluster

both_ends = pytest.mark.parametrize("major", [13, 18])

INSERT = "INSERT INTO busy DEFAULT VALUES"
"""Waits for whoever changes the table or its sequence."""


@pytest.fixture
def busy(major: int, servers: Callable[[int], Cluster]) -> Iterator[Cluster]:
    """The shared server with a table that everybody wants."""
    server = servers(major)
    server.execute("CREATE TABLE busy (id serial PRIMARY KEY, text text); INSERT INTO busy VALUES (0, 'one')")
    yield server
    server.execute("DROP TABLE busy")


async def seen(witness: Witness) -> None:
    """Wait until the witness has looked: the catalogs it reads are in its cache from then on."""

    await until(lambda: witness.looks > 0)


async def fully_answered(server: Cluster, blocked: int) -> Page:
    """Scrape by an exporter that knows the server and, twice, by new ones: nothing is missing, the graph is there."""
    dsn = server.dsn(user=MONITOR)
    for timeout in (9.5, 1.5):
        async with exporting(dsn) as new:
            found = (await timed(new, timeout)).page
        assert found.value("pg_up") == 1
        assert failing(found) == set()
        assert found.labels("pg_table_live_tuples", relname="busy")["schemaname"] == "public"
        assert found.value("pg_lock_blocker_blocked_sessions") == blocked
        assert found.value("pg_lock_waiters") == blocked
    return found


@both_ends
@pytest.mark.parametrize(
    "statement",
    [
        "LOCK TABLE busy IN ACCESS EXCLUSIVE MODE",
        "TRUNCATE busy RESTART IDENTITY",
        "ALTER SEQUENCE busy_id_seq RESTART",
    ],
)
async def test_a_page_is_whole_while_a_transaction_holds_what_others_want(busy: Cluster, statement: str) -> None:
    async with (
        witnessed(busy),
        exporting(busy.dsn(user=MONITOR)) as old,
        client(busy, "holder") as holder,
    ):
        await until_whole(old)
        await holder.execute(f"BEGIN; {statement}")
        async with waiting(busy, "first", INSERT), waiting(busy, "second", INSERT):
            found = await fully_answered(busy, blocked=2)
            assert failing((await timed(old, 1.5)).page) == set()
            root = found.labels("pg_lock_blocker_blocked_sessions")
            assert (root["application_name"], root["state"]) == ("holder", "idle in transaction")
            assert root["relation"] == ("public.busy_id_seq" if "SEQUENCE" in statement else "public.busy")
        await holder.execute("ROLLBACK")
        assert (await until_whole(old)).series("pg_lock_blocker_blocked_sessions") == []


@both_ends
async def test_a_page_is_whole_while_an_alter_queues_behind_a_long_reader(busy: Cluster) -> None:
    async with witnessed(busy), client(busy, "reader") as reader:
        await reader.execute("BEGIN; SELECT * FROM busy")
        async with waiting(busy, "alter", "ALTER TABLE busy ADD COLUMN more int"), waiting(busy, "app", INSERT):
            found = await fully_answered(busy, blocked=2)
    assert found.labels("pg_lock_blocker_blocked_sessions")["application_name"] == "reader"
    assert found.value("pg_lock_queue_waiters", relation="public.busy", mode="AccessExclusiveLock") == 1
    assert found.value("pg_lock_queue_waiters", relation="public.busy", mode="RowExclusiveLock") == 1


@both_ends
async def test_a_page_is_whole_while_a_table_is_reindexed(busy: Cluster) -> None:
    """One index calls a function that naps, so that REINDEX really is at work."""
    busy.execute(
        "CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(current_setting(''busy.nap'', true)::float8); RETURN i; END';"
        "CREATE INDEX ON busy (slow(id))"
    )
    at_work = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reindex' AND wait_event = 'PgSleep'"
    try:
        async with witnessed(busy), client(busy, "reindex") as reindex:
            await reindex.execute("SET busy.nap = 60")
            task = asyncio.create_task(reindex.execute("REINDEX TABLE busy"))
            await until(lambda: bool(busy.value(at_work)))
            async with waiting(busy, "app", INSERT):
                found = await fully_answered(busy, blocked=1)
            reindex.terminate()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        busy.execute("DROP FUNCTION slow CASCADE")
    root = found.labels("pg_lock_blocker_blocked_sessions")
    assert (root["application_name"], root["state"], root["held_mode"]) == ("reindex", "active", "ShareLock")


@both_ends
async def test_a_prepared_transaction_left_behind_is_named_by_its_gid(
    major: int, cluster: Callable[..., Cluster]
) -> None:
    """Nobody holds the lock any more that could be seen among the sessions; not even a restart ends it."""
    server = cluster(major)
    server.execute("CREATE TABLE busy (id serial PRIMARY KEY)")
    server.execute("BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'left behind'")
    async with witnessed(server), exporting(server.dsn(user=MONITOR)) as old:
        alone = (await timed(old, 9.5)).page
        assert failing(alone) == set()
        assert alone.value("pg_xmin_horizon_seconds", holder="prepared_transaction") >= 0
        for restarted in (False, True):
            if restarted:
                restart(server)
            async with waiting(server, "app", INSERT):
                found = await fully_answered(server, blocked=1)
            root = found.labels("pg_lock_blocker_blocked_sessions")
            assert (root["gid"], root["pid"], root["state"]) == ("left behind", "", "prepared transaction")
            assert (root["relation"], root["held_mode"]) == ("public.busy", "AccessExclusiveLock")
        assert failing(await until_whole(old)) == set()


@dataclass(frozen=True)
class Lost:
    """What cannot be known while a catalog is locked."""

    readers: set[str]
    """The collectors of an exporter that knew the server before."""
    unknown: set[str]
    """Those of one that starts meanwhile."""
    down: str = ""
    """Why that one has no session at all."""
    perhaps: frozenset[str] = frozenset()
    """Those that depend on the plan: what the planner finds in a cache, it does not read."""


TABLE_READERS = {
    "foreign_keys_mistyped",
    "foreign_keys_without_index",
    "index_advice",
    "indexes",
    "partitioned_tables",
    "schemas",
    "sequences",
    "table_access",
    "table_freeze",
    "table_sizes",
    "table_vacuum",
    "tables_without_primary_key",
}
CLASS_READERS = TABLE_READERS | {"publications"}
SCHEMA_READERS = TABLE_READERS | {"functions"}
DATABASE_READERS = {
    "database_activity",
    "database_sizes",
    "database_transactions",
    "multixact_members",
    "prepared_transactions",
    "wraparound",
}
ROLE_READERS = {"role_connections", "role_expiry", "roles"}
EXTENSIONS = {"buffer_cache", "statements", "statements_info"}
OTHERS = frozenset(
    {
        "extension_updates",
        "settings",
        "subscription_conflicts",
        "subscription_relations",
        "subscriptions",
        "tablespaces",
        "xmin_horizon",
    }
)

LOCKED = {
    "pg_statistic": Lost(
        set(), CLASS_READERS | SCHEMA_READERS | DATABASE_READERS | ROLE_READERS | EXTENSIONS, perhaps=OTHERS
    ),
    "pg_class": Lost(CLASS_READERS, {"wait_sampler"}, "timeout"),
    "pg_namespace": Lost(SCHEMA_READERS, {"wait_sampler"}, "timeout"),
    "pg_database": Lost(DATABASE_READERS, {"wait_sampler"}, "timeout"),
    "pg_authid": Lost(ROLE_READERS, {"wait_sampler"}, "timeout"),
    "pg_extension": Lost({"extension_updates"}, {"extension_updates"} | EXTENSIONS),
}
"""As VACUUM FULL locks them. No login ends that has to read pg_class, pg_database or pg_authid."""

OURS = """
SELECT pid
  FROM pg_stat_get_activity(NULL)
 WHERE usesysid = $1
UNION
SELECT l.pid
  FROM pg_locks AS l
       LEFT JOIN pg_stat_get_activity(NULL) AS a ON a.pid = l.pid
 WHERE NOT l.granted
   AND coalesce(a.usesysid, 0) = 0
"""
"""Backends of our role, and those that wait for a lock before they know whose they are: only we log in meanwhile."""


@asynccontextmanager
async def locked(server: Cluster, catalog: str, witness: Witness) -> AsyncIterator[Any]:
    """Hold a catalog as VACUUM FULL does; gives the session that does."""
    await seen(witness)
    async with client(server, "vacuum full") as holder:
        await holder.execute(f"BEGIN; LOCK TABLE pg_catalog.{catalog} IN ACCESS EXCLUSIVE MODE")
        yield holder
        await holder.execute("ROLLBACK")


@asynccontextmanager
async def a_table(server: Cluster) -> AsyncIterator[None]:
    """Have a table, without which some collectors find nothing to read."""
    server.execute("CREATE TABLE kept ()")
    try:
        yield
    finally:
        server.execute("DROP TABLE kept")


@both_ends
@pytest.mark.parametrize("catalog", LOCKED)
async def test_a_locked_catalog_costs_only_those_who_read_it(
    servers: Callable[[int], Cluster], major: int, catalog: str
) -> None:
    """The others, and all the vital few, answer as ever; the readers' last good results stay."""
    server = servers(major)
    readers = LOCKED[catalog].readers
    async with (
        a_table(server),
        witnessed(server) as witness,
        exporting(server.dsn(user=MONITOR), uncached()) as old,
    ):
        await until_whole(old)
        async with locked(server, catalog, witness):
            for timeout in (9.5, 1.5):
                found = (await timed(old, timeout)).page
                assert found.value("pg_up") == 1
                assert failing(found) == readers
                assert found.value("pg_sessions", application_name="vacuum full") == 1
        for name in readers:
            assert found.value("pgvigil_collector_errors_total", collector=name, reason="lock_timeout") >= 1
            assert found.value("pgvigil_collector_age_seconds", collector=name) > 0
        for metric in ("pg_table_live_tuples", "pg_database_connections", "pg_roles_connections"):
            assert found.series(metric), metric
        await until_whole(old)


@pytest.mark.parametrize(("major", "catalog"), [*((18, catalog) for catalog in LOCKED), (13, "pg_authid")])
async def test_an_exporter_that_starts_while_a_catalog_is_locked_says_what_it_lacks(
    servers: Callable[[int], Cluster], major: int, catalog: str
) -> None:
    server = servers(major)
    expected = LOCKED[catalog]
    async with witnessed(server) as witness, AsyncExitStack() as afterwards:
        async with locked(server, catalog, witness):
            new = await afterwards.enter_async_context(exporting(server.dsn(user=MONITOR)))
            for timeout in (9.5, 1.5):
                found = (await timed(new, timeout)).page
                assert reason(found) == expected.down
                assert failing(found) - expected.perhaps == expected.unknown - expected.perhaps
                if not expected.down:
                    assert found.value("pg_sessions", application_name="vacuum full") == 1
        await asyncio.sleep(1)
        await until_whole(new, apart=2.0)


@pytest.mark.parametrize(
    ("major", "catalog", "starts"), [(13, "pg_database", False), (18, "pg_authid", False), (18, "pg_database", True)]
)
async def test_logins_that_wait_for_a_locked_catalog_do_not_pile_up(
    cluster: Callable[..., Cluster], major: int, catalog: str, starts: bool
) -> None:
    """Nothing limits how long a login waits in the server, nor does it end when we hang up: each counts as ours."""
    server = cluster(major)
    for name in ("shop", "blog", "wiki"):
        server.execute(f"CREATE DATABASE {name}")
    role = server.value("SELECT oid FROM pg_roles WHERE rolname = $1", MONITOR)
    most = 0
    async with witnessed(server) as witness, AsyncExitStack() as afterwards:
        exporter = exporting(server.dsn(user=MONITOR), uncached())
        if not starts:
            watched = await afterwards.enter_async_context(exporter)
            await until_whole(watched)
        async with locked(server, catalog, witness) as holder:
            if starts:
                watched = await afterwards.enter_async_context(exporter)
            for _ in range(12 if starts else 5):
                found = (await timed(watched, 1.5)).page
                assert found.value("pg_up") == int(not starts)
                most = max(most, len(await holder.fetch(OURS, role)))
                await asyncio.sleep(1.0 if starts else 0.0)
        assert most <= BUDGET
        await asyncio.sleep(1)
        await until_whole(watched, apart=10.0)


@both_ends
@pytest.mark.parametrize("while_it_runs", [False, True], ids=["from the start", "while it runs"])
async def test_what_is_set_for_our_role_harms_nobody(
    cluster: Callable[..., Cluster], tmp_path: Path, major: int, while_it_runs: bool
) -> None:
    """A serializable transaction is open as well, for whose end a deferrable one of ours would wait."""
    server = cluster(major)
    hostile = hostile_to(MONITOR, major)
    server.execute(
        "CREATE SCHEMA hostile; GRANT USAGE ON SCHEMA hostile TO public;"
        "CREATE VIEW hostile.pg_locks AS SELECT 1 / 0 AS trap;"
        "CREATE FUNCTION hostile.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1';"
        "CREATE TABLE public.busy (id int); CREATE TABLE public.idle (id int)"
    )
    (tmp_path / "slow.yaml").write_text(
        "name: slow\nhelp: Own.\nsql: SELECT 1 AS value FROM pg_sleep(0.4)\n"
        "metrics:\n  - {name: pg_slow, type: gauge, help: Own., column: value}\n"
    )
    if not while_it_runs:
        server.execute(hostile)
    async with (
        witnessed(server),
        exporting(server.dsn(user=MONITOR), load(BUILT_IN, tmp_path)) as watched,
        client(server, "serializable") as other,
        client(server, "locker") as locker,
    ):
        if while_it_runs:
            await until_whole(watched)
            server.execute(hostile)
            server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{MONITOR}'")
        await other.execute("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO busy VALUES (1)")
        await locker.execute("BEGIN; LOCK TABLE idle")
        for timeout in (9.5, 1.5, 1.5):
            found = (await timed(watched, timeout)).page
            assert reason(found) == ""
            assert failing(found) == set()
            await asyncio.sleep(0.5)
        assert found.value("pgvigil_connections") == 2
        settled = server.value(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{MONITOR}'")
        assert settled == 2


TRAP = """
CREATE FUNCTION public.trap() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  LOOP
    BEGIN
      PERFORM pg_sleep(100);
    EXCEPTION WHEN query_canceled THEN
      NULL;
    END;
  END LOOP;
END $$;
"""


BEHIND_IT = {
    "vital: false": set(),
    "vital: true": {"wait_sampler"},
    "scope: database": TABLE_READERS,
}
"""Where the collector runs, and who may have to wait there for the next page."""


@pytest.mark.parametrize(("major", "where"), [*((18, where) for where in BEHIND_IT), (13, "vital: false")])
async def test_a_collector_that_takes_no_cancel_is_ended_and_rests(
    cluster: Callable[..., Cluster], tmp_path: Path, major: int, where: str
) -> None:
    """Its backend goes, the page is whole but for it, and it is not asked again for a while."""
    server = cluster(major)
    server.execute(TRAP, database="template1")
    for name in ("shop", "blog", "wiki"):
        server.execute(f"CREATE DATABASE {name}")
    server.execute(f"{TRAP}; CREATE TABLE seen ()")
    (tmp_path / "trap.yaml").write_text(
        f"name: trap\nhelp: Own.\nsql: SELECT public.trap() AS value\ntimeout: 1\n{where}\n"
        "metrics:\n  - {name: pg_trap, type: gauge, help: Own., column: value}\n"
    )
    trapped = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND query LIKE '%public.trap()%'"
    async with witnessed(server), exporting(server.dsn(user=MONITOR), load(BUILT_IN, tmp_path)) as watched:
        for number in range(20):
            found = (await timed(watched, 1.5 if number else 9.5)).page
            assert found.value("pg_up") == 1
            assert "trap" in failing(found)
            assert failing(found) <= {"trap"} | (BEHIND_IT[where] if number < 2 else set())
            assert found.value("pgvigil_connections") <= BUDGET
            await asyncio.sleep(0.1)
        assert found.series("pg_trap") == []
        assert found.series("pg_sessions")
        assert found.series("pg_table_live_tuples", datname="postgres")
        assert server.value(trapped, MONITOR) == 0
        assert found.value("pgvigil_connections") <= 3  # somebody may visit a database ahead of its time


SUCCESS = "pgvigil_collector_success"
SECONDS = int(os.environ.get("FAULT_SECONDS", "20"))
BLOCKED = 3
TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
USED = "SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE backend_type = 'client backend'"
MAX = "SELECT current_setting('max_connections')::int"


@asynccontextmanager
async def exhausted(server: Cluster) -> AsyncIterator[int]:
    """Take every connection that there is and lock the table that everybody wants; gives the pid that holds it."""
    sessions: list[Any] = []
    asked: list[asyncio.Task[Any]] = []
    try:
        while True:
            try:
                sessions.append(await asyncpg.connect(server.dsn("shop"), ssl="disable"))
            except asyncpg.TooManyConnectionsError:
                if await sessions[0].fetchval(USED) == await sessions[0].fetchval(MAX):
                    break
                await asyncio.sleep(0.05)
        await sessions[0].execute("BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        asked = [asyncio.create_task(session.execute("SELECT * FROM busy")) for session in sessions[1 : 1 + BLOCKED]]
        yield sessions[0].get_server_pid()
    finally:
        for session in sessions:
            session.terminate()
        await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.parametrize("major", [18])
@pytest.mark.timeout(60 + 2 * SECONDS)
async def test_every_page_is_in_time_while_no_connection_is_left_and_the_hottest_table_is_locked(
    cluster: Callable[..., Cluster], major: int
) -> None:
    """Those reserved for superusers are taken as well; each page shows who blocks whom, and that none is left."""
    server = cluster(major, {"max_connections": "30", "superuser_reserved_connections": "3"})
    server.execute("CREATE DATABASE shop")
    server.execute("CREATE TABLE busy (id int)", database="shop")
    took: list[float] = []
    with serving(dsn=server.dsn(user=MONITOR)) as exporter:
        assert failing(read((await asyncio.to_thread(exporter.get)).text)) == set()
        async with witnessed(server), exhausted(server) as root:
            for _ in range(SECONDS):
                started, watch = time.monotonic(), Stopwatch(exporter.process.pid)
                answer = await asyncio.to_thread(exporter.get, headers={TIMEOUT_HEADER: "2"})
                took.append(watch.seconds)
                found = read(answer.text)
                assert answer.status_code == 200
                assert reason(found) == ""
                assert found.value("pg_connections_used") == found.value("pg_connections_max") == 30
                assert found.value("pg_connections_available") == 0
                assert found.value("pg_lock_blocker_blocked_sessions", pid=root, datname="shop") == BLOCKED
                assert failing(found) <= TABLE_READERS
                assert all(labels["datname"] == "shop" for labels, ok in found.series(SUCCESS) if not ok)
                await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - started)))
        await asyncio.sleep(1)
        assert failing(read((await asyncio.to_thread(exporter.get)).text)) == set()
    assert len(took) == SECONDS
    assert max(took) < 2.0, sorted(took)[-3:]
