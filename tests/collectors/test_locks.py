"""Lock waits and connections, on servers brought into the state that the metrics describe."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from clients import client, until, waiting
from module_database import page_when
from pages import MONITOR, catalog, named, page, scraped, target

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster

COLLECTORS = (
    "connections",
    "database_transactions",
    "lock_blockers",
    "lock_queues",
    "lock_waits",
    "locks",
    "role_connections",
    "session_ages",
    "session_waits",
    "sessions",
)


@pytest.fixture
def table(server: Cluster) -> Iterator[str]:
    """A table to quarrel about, under a name that needs quoting."""
    server.execute('CREATE TABLE "odd ""table"" 🐘" (id int PRIMARY KEY); INSERT INTO "odd ""table"" 🐘" VALUES (1)')
    yield '"odd ""table"" 🐘"'
    server.execute('DROP TABLE "odd ""table"" 🐘"')


async def test_a_queue_is_resolved_to_the_root_that_waits_for_nobody(server: Cluster, table: str) -> None:
    """Idle in transaction <- ALTER TABLE <- two readers: three sessions wait for the first, in two steps."""
    started = time.monotonic()
    async with client(server, "forgot to commit") as root:
        await root.execute(f"BEGIN; SELECT * FROM {table}")
        pid = await root.fetchval("SELECT pg_backend_pid()")
        async with (
            waiting(server, "migration", f"ALTER TABLE {table} ADD COLUMN c int"),
            waiting(server, "reader 1", f"SELECT * FROM {table}"),
            waiting(server, "reader 2", f"SELECT * FROM {table}"),
        ):
            await asyncio.sleep(0.3)
            found = page(server.dsn(user=MONITOR))
    labels = dict(found.labels("pg_lock_blocker_blocked_sessions"))
    assert labels == {
        "pid": str(pid),
        "gid": "",
        "datname": "postgres",
        "usename": "postgres",
        "application_name": "forgot to commit",
        "state": "idle in transaction",
        "locktype": "relation",
        "relation": 'public.odd "table" 🐘',
        "mode": "AccessExclusiveLock",
        "held_mode": "AccessShareLock",
    }
    assert found.value("pg_lock_blocker_blocked_sessions") == 3
    elapsed = time.monotonic() - started
    assert 0.3 <= found.value("pg_lock_blocker_longest_wait_seconds") < elapsed
    assert 0.3 <= found.value("pg_lock_blocker_transaction_seconds") < elapsed
    assert found.value("pg_lock_waiters") == 3
    assert 0.3 <= found.value("pg_lock_longest_wait_seconds") < elapsed
    queue = {"datname": "postgres", "relation": 'public.odd "table" 🐘'}
    assert found.value("pg_lock_queue_waiters", **queue, mode="AccessShareLock") == 2
    assert found.value("pg_lock_queue_waiters", **queue, mode="AccessExclusiveLock") == 1
    waits = {"datname": "postgres", "locktype": "relation", "granted": "false"}
    assert found.value("pg_lock_sessions", **waits, mode="AccessShareLock") == 2
    assert found.value("pg_session_waits", state="active", wait_event_type="Lock", wait_event="relation") == 3
    oldest = found.labels("pg_session_oldest_seconds", kind="idle in transaction")
    assert (oldest["pid"], oldest["application_name"]) == (str(pid), "forgot to commit")


async def test_who_waits_with_track_activities_off_is_counted(server: Cluster) -> None:
    """13 says nothing of such a session's wait but by the lock table."""
    server.execute("CREATE TABLE IF NOT EXISTS hushed (a int)")
    async with client(server, "holder") as holder:
        await holder.execute("BEGIN; LOCK TABLE hushed")
        async with waiting(server, "hushed", "BEGIN; SET track_activities = off; LOCK TABLE hushed"):
            found = page(server.dsn(user=MONITOR))
    assert found.value("pg_lock_waiters") == 1
    assert found.value("pg_lock_blocker_blocked_sessions", application_name="holder") == 1
    assert found.value("pg_lock_queue_waiters", relation="public.hushed") == 1


async def test_logins_that_wait_are_counted(server: Cluster, major: int) -> None:
    """Before 18 such a backend is in pg_locks, and not in pg_stat_activity yet; 13 does not say since when it waits."""
    async with client(server, "holder") as holder:
        watched = target(server.dsn(user=MONITOR))
        await scraped(watched)
        await holder.execute("BEGIN; LOCK TABLE pg_authid")
        logins = [asyncio.create_task(asyncpg.connect(server.dsn())) for _ in range(3)]
        while await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 3:
            await asyncio.sleep(0.05)
        found = await scraped(watched)
        await watched.close()
        await holder.execute("ROLLBACK")
        for connection in await asyncio.gather(*logins):
            connection.terminate()
    assert found.value("pg_lock_waiters") >= 3
    assert found.value("pg_lock_blocker_blocked_sessions", application_name="holder") >= 3
    waits = [value for _, value in found.series("pg_lock_longest_wait_seconds")]
    assert all(value > 0 for value in waits), "none rather than 0"
    assert waits or major == 13


async def test_nobody_waits_reads_as_zero(server: Cluster) -> None:
    found = page(server.dsn(user=MONITOR))
    assert found.value("pg_lock_waiters") == 0
    assert found.value("pg_lock_longest_wait_seconds") == 0
    assert found.series("pg_lock_blocker_blocked_sessions") == []


async def test_a_prepared_transaction_at_the_root_is_named(server: Cluster, table: str) -> None:
    server.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'forgotten'")
    try:
        async with waiting(server, "reader", f"SELECT * FROM {table}"):
            found = page(server.dsn(user=MONITOR))
    finally:
        server.execute("ROLLBACK PREPARED 'forgotten'")
    labels = found.labels("pg_lock_blocker_blocked_sessions")
    assert (labels["pid"], labels["gid"], labels["state"]) == ("", "forgotten", "prepared transaction")
    assert (labels["usename"], labels["held_mode"]) == ("postgres", "AccessExclusiveLock")
    assert found.value("pg_lock_blocker_blocked_sessions") == 1
    assert found.value("pg_lock_blocker_transaction_seconds") >= 0


@pytest.mark.parametrize("length", [160, 20, 0])
async def test_the_statement_of_a_root_is_shown_without_literals(server: Cluster, table: str, length: int) -> None:
    """The one that ran last in a session that is idle in its transaction."""
    collectors = Catalog((named(catalog(), "lock_blockers").with_texts(length),))
    async with client(server, "root") as root:
        await root.execute("BEGIN")
        await root.execute(f"UPDATE {table} SET id = 77 + id -- secret")
        async with waiting(server, "waiter", f"UPDATE {table} SET id = 78"):
            watched = target(server.dsn(user=MONITOR), collectors)
            found = await scraped(watched)
            await watched.close()
    assert found.value("pg_lock_blocker_blocked_sessions", application_name="root") == 1
    texts = [labels["query"] for labels, _ in found.series("pg_lock_blocker_statement_info", application_name="root")]
    whole = f"UPDATE {table} SET id = ? + id"
    assert texts == {160: [whole], 20: [f"{whole[:19]}…"], 0: []}[length]


async def test_a_text_of_another_encoding_costs_only_its_own_bytes(server: Cluster, table: str) -> None:
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    server.execute("CREATE TABLE kasse (id int)", "latin")
    try:
        async with client(server, "root", "latin") as root:
            await root.execute("SET client_encoding = 'UTF8'; BEGIN")
            await root.execute("LOCK TABLE kasse; SELECT 1 AS gr\u00fc\u00dfe")
            async with waiting(server, "waiter", "SELECT * FROM kasse", "latin"):
                watched = target(server.dsn(user=MONITOR))
                found, again = await scraped(watched), await scraped(watched)  # alone, and by a joint statement
                await watched.close()
    finally:
        server.execute("DROP DATABASE latin")
    for each in (found, again):
        [(labels, _)] = each.series("pg_lock_blocker_statement_info", application_name="root")
        assert re.fullmatch(r"LOCK TABLE kasse; SELECT \? AS gr.{1,2}e", labels["query"])


async def test_two_roots_are_told_apart_worst_first(server: Cluster, table: str) -> None:
    async with client(server, "many") as many, client(server, "few") as few:
        await many.execute(f"BEGIN; LOCK TABLE {table}")
        await few.execute("BEGIN; SELECT pg_advisory_xact_lock(7)")
        async with (
            waiting(server, "m1", f"SELECT * FROM {table}"),
            waiting(server, "m2", f"SELECT * FROM {table}"),
            waiting(server, "f1", "SELECT pg_advisory_lock(7)"),
        ):
            found = page(server.dsn(user=MONITOR))
    series = found.series("pg_lock_blocker_blocked_sessions")
    assert [(labels["application_name"], value) for labels, value in series] == [("many", 2), ("few", 1)]
    assert found.labels("pg_lock_blocker_blocked_sessions", application_name="few")["locktype"] == "advisory"


async def test_a_row_lock_names_the_one_who_changed_the_row(server: Cluster, table: str) -> None:
    async with client(server, "writer") as writer:
        await writer.execute(f"BEGIN; UPDATE {table} SET id = 2")
        async with waiting(server, "second", f"UPDATE {table} SET id = 3"):
            found = page(server.dsn(user=MONITOR))
    labels = found.labels("pg_lock_blocker_blocked_sessions")
    assert (labels["application_name"], labels["locktype"]) == ("writer", "transactionid")


async def test_writers_behind_a_vacuum_that_waits_are_seen_to_wait_for_data(server: Cluster, table: str) -> None:
    """The longest direct waiter is a vacuum, which alone harms no query; no writer waits for a relation."""
    async with client(server, "migration") as root:
        await root.execute(f"BEGIN; ALTER TABLE {table} ALTER id SET STATISTICS 500; UPDATE {table} SET id = 2")
        async with waiting(server, "vacuum", f"VACUUM {table}"):
            alone = page(server.dsn(user=MONITOR))
            async with waiting(server, "one", f"DELETE FROM {table}"), waiting(server, "two", f"DELETE FROM {table}"):
                found = page(server.dsn(user=MONITOR))
    for each, blocked in ((alone, 1), (found, 3)):
        labels = each.labels("pg_lock_blocker_blocked_sessions")
        assert (labels["mode"], labels["held_mode"]) == ("ShareUpdateExclusiveLock",) * 2
        assert each.value("pg_lock_blocker_blocked_sessions") == blocked
    assert alone.series("pg_lock_blocker_longest_data_wait_seconds") == []
    waited = found.value("pg_lock_blocker_longest_data_wait_seconds")
    assert 0 < waited < found.value("pg_lock_blocker_longest_wait_seconds")


async def test_relations_of_other_databases_are_named_too(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    server.execute("CREATE DATABASE shop")
    server.execute("CREATE TABLE orders ()", database="shop")
    async with client(server, "root", "shop") as root:
        await root.execute("BEGIN; LOCK TABLE orders")
        async with waiting(server, "reader", "SELECT * FROM orders", "shop"):
            found = page(server.dsn(user=MONITOR))
    labels = found.labels("pg_lock_blocker_blocked_sessions")
    assert (labels["datname"], labels["relation"]) == ("shop", "public.orders")


async def test_connections_are_counted_against_their_limits(cluster: Callable[..., Cluster]) -> None:
    server = cluster(
        settings={"max_connections": "20", "superuser_reserved_connections": "3", "reserved_connections": "2"}
    )
    server.execute("CREATE ROLE web LOGIN CONNECTION LIMIT 7; ALTER DATABASE postgres CONNECTION LIMIT 15")
    async with client(server, "web 1") as one, client(server, "web 2"):
        await one.execute("BEGIN")
        await asyncio.sleep(0.2)
        found = page(server.dsn(user=MONITOR))
    assert found.value("pg_connections_max") == 20
    assert found.value("pg_connections_superuser_reserved") == 3
    assert found.value("pg_connections_reserved") == 2
    used = found.value("pg_connections_used")
    assert 2 + 1 <= used <= 2 + 3  # the two clients, and ours: one asks, and perhaps two more log in meanwhile
    assert found.value("pg_connections_available") == 20 - 3 - 2 - used
    assert found.value("pg_roles_connection_limit", rolname="web") == 7
    assert found.series("pg_roles_connection_limit", rolname="postgres") == []
    assert found.value("pg_roles_connections", rolname="postgres") == 2
    assert found.value("pg_roles_connections", rolname="web") == 0
    assert found.value("pg_database_connection_limit", datname="postgres") == 15
    assert found.value("pg_database_connections", datname="postgres") >= 3
    assert found.value("pg_sessions", application_name="web 1", state="idle in transaction") == 1
    assert found.value("pg_sessions_oldest_transaction_seconds", application_name="web 1") >= 0.2


async def test_a_superuser_has_no_connection_limit(cluster: Callable[..., Cluster], major: int) -> None:
    """Neither that of its role nor that of its database, where it uses up the connections of others all the same."""
    server = cluster(major)
    server.execute("CREATE ROLE admin LOGIN SUPERUSER CONNECTION LIMIT 1; CREATE ROLE web LOGIN CONNECTION LIMIT 1")
    server.execute("CREATE DATABASE few CONNECTION LIMIT 1")
    async with AsyncExitStack() as stack:
        for _ in range(3):
            admin = await asyncpg.connect(server.dsn("few", "admin"))
            stack.callback(admin.terminate)
        with pytest.raises(asyncpg.TooManyConnectionsError, match="for database"):
            await asyncpg.connect(server.dsn("few", "web"))
        found = page(server.dsn(user=MONITOR))
    assert found.value("pg_roles_connections", rolname="admin") == 3
    assert found.series("pg_roles_connection_limit", rolname="admin") == []
    assert found.value("pg_roles_connection_limit", rolname="web") == 1
    assert found.value("pg_database_connections", datname="few") >= 3
    assert found.value("pg_database_connection_limit", datname="few") == 1


async def test_the_role_nearest_to_its_limit_comes_first(server: Cluster) -> None:
    server.execute("CREATE ROLE capped LOGIN CONNECTION LIMIT 3")
    first = Catalog((named(catalog(), "role_connections").model_copy(update={"limit": 1}),))
    try:
        async with AsyncExitStack() as stack:
            for role in ("capped", *["postgres"] * 5):
                session = await asyncpg.connect(server.dsn(user=role))
                stack.callback(session.terminate)
            watched = target(server.dsn(user=MONITOR), first)
            found = await scraped(watched)
            await watched.close()
    finally:
        await until(lambda: not server.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'capped'"))
        server.execute("DROP ROLE capped")
    assert [labels["rolname"] for labels, _ in found.series("pg_roles_connections")] == ["capped"]


@pytest.mark.full
async def test_a_long_query_has_series_beside_any_number_of_applications(server: Cluster) -> None:
    """From ten seconds on: beyond the limit, shorter ones would be other series at each scrape."""
    first = Catalog((named(catalog(), "sessions").model_copy(update={"limit": 2}),))
    async with AsyncExitStack() as stack:
        for application in ("web", "web", "web", "shop", "shop"):
            session = await asyncpg.connect(server.dsn(), server_settings={"application_name": application})
            stack.callback(session.terminate)
        holder = await stack.enter_async_context(client(server, "holder"))
        await holder.execute("SELECT pg_advisory_lock(7)")
        await stack.enter_async_context(waiting(server, "weekly report", "SELECT pg_advisory_lock(7)"))
        await asyncio.sleep(10.5)
        watched = target(server.dsn(user=MONITOR), first)
        found = await scraped(watched)
        await watched.close()
    assert found.value("pg_sessions_longest_query_seconds", application_name="weekly report") > 10
    assert found.value("pg_sessions", application_name="web") == 3


async def test_a_deadlock_is_counted(server: Cluster, table: str) -> None:
    server.execute(f"INSERT INTO {table} VALUES (2)")
    before = page(server.dsn(user=MONITOR)).value("pg_database_deadlocks_total", datname="postgres")
    async with client(server, "a") as a, client(server, "b") as b:
        await a.execute(f"SET deadlock_timeout = '50ms'; BEGIN; SELECT * FROM {table} WHERE id = 1 FOR UPDATE")
        await b.execute(f"BEGIN; SELECT * FROM {table} WHERE id = 2 FOR UPDATE")
        results = await asyncio.gather(
            a.execute(f"SELECT * FROM {table} WHERE id = 2 FOR UPDATE"),
            b.execute(f"SELECT * FROM {table} WHERE id = 1 FOR UPDATE"),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Exception) for result in results) == 1
    page_when(server, lambda p: p.value("pg_database_deadlocks_total", datname="postgres") == before + 1, "postgres")
