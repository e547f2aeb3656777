"""Who is at the root of a lock wait: parallel queries, standbys, and every kind of lock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from clients import client, until, waiting
from pages import MONITOR, Page, page
from standby import clone_standby

from exporter.demo.cluster import Cluster

COLLECTORS = (
    "autovacuum",
    "connections",
    "lock_blockers",
    "lock_queues",
    "lock_waits",
    "locks",
    "recovery",
    "replication",
    "role_connections",
    "session_ages",
    "session_waits",
    "sessions",
    "settings_pending",
    "ssl",
    "statements",
    "wal_receiver",
    "xmin_horizon",
)

SESSIONS = "pg_lock_blocker_blocked_sessions"


@pytest.fixture
def shop(server: Cluster) -> Iterator[Cluster]:
    """The shared server with two rows to quarrel about."""
    server.execute("CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders VALUES (1, 0), (2, 0)")
    yield server
    server.execute("DROP TABLE orders")


def roots(found: Page) -> list[tuple[str, float]]:
    """Application and number of blocked sessions of each root, worst first."""
    return [(labels["application_name"], value) for labels, value in found.series(SESSIONS)]


def page_of(server: Cluster) -> Page:
    """A page on which relations have names: looking them up has a second, which a busy machine may not keep."""
    for _ in range(5):
        found = page(server.dsn(user=MONITOR))
        if not any(labels["relation"].isdigit() for labels, _ in found.series("pg_lock_queue_waiters")):
            break
    assert found.value("pgvigil_collector_success", collector="lock_blockers") == 1
    return found


@pytest.mark.parametrize(
    ("holds", "waits", "locktype"),
    [
        ("SELECT pg_advisory_xact_lock(1, 2)", "SELECT pg_advisory_lock(1, 2)", "advisory"),
        ("SELECT pg_advisory_xact_lock_shared(7)", "SELECT pg_advisory_lock(7)", "advisory"),
        ("UPDATE orders SET v = 1 WHERE id = 1", "UPDATE orders SET v = 2 WHERE id = 1", "transactionid"),
        ("SAVEPOINT s; UPDATE orders SET v = 1 WHERE id = 1", "DELETE FROM orders", "transactionid"),
        ("INSERT INTO orders VALUES (3)", "INSERT INTO orders VALUES (3)", "transactionid"),
        ("INSERT INTO orders VALUES (3)", "INSERT INTO orders VALUES (3) ON CONFLICT DO NOTHING", "transactionid"),
        ("SELECT FROM orders FOR SHARE", "SELECT FROM orders FOR UPDATE", "transactionid"),
        ("SELECT FROM orders", "TRUNCATE orders", "relation"),
        ("LOCK TABLE orders IN SHARE MODE", "DELETE FROM orders", "relation"),
        ("UPDATE orders SET v = 1", "CREATE INDEX CONCURRENTLY ON orders (v)", "virtualxid"),
        ("COMMENT ON ROLE pgvigil IS 'a'", "COMMENT ON ROLE pgvigil IS 'b'", "object"),
    ],
)
async def test_the_root_holds_any_kind_of_lock(shop: Cluster, holds: str, waits: str, locktype: str) -> None:
    async with client(shop, "bystander") as bystander, client(shop, "root") as root:
        await bystander.execute("BEGIN; SELECT FROM pg_class LIMIT 1; SELECT pg_advisory_xact_lock(99)")
        await root.execute(f"BEGIN; {holds}")
        async with waiting(shop, "victim", waits):
            found = page_of(shop)
    assert roots(found) == [("root", 1)]
    assert found.labels(SESSIONS)["locktype"] == locktype


async def test_both_lockers_of_a_row_are_waited_for_one_after_the_other(shop: Cluster) -> None:
    """A multixact: PostgreSQL waits for its members in turn."""
    async with client(shop, "one") as one, client(shop, "two") as two:
        await one.execute("BEGIN; SELECT FROM orders WHERE id = 1 FOR SHARE")
        await two.execute("BEGIN; SELECT FROM orders WHERE id = 1 FOR SHARE")
        async with waiting(shop, "victim", "UPDATE orders SET v = 1 WHERE id = 1"):
            first = page_of(shop)
            await one.execute("COMMIT")
            await until(lambda: [name for name, _ in roots(page_of(shop))] == ["two"])
    assert roots(first) == [("one", 1)]


@asynccontextmanager
async def parallel_query(server: Cluster, name: str) -> AsyncIterator[Any]:
    """A session with a transaction, whose parallel query both workers of which wait for the table gate."""
    async with client(server, name) as leader:
        await leader.execute("BEGIN; LOCK TABLE orders; SET LOCAL parallel_setup_cost = 0")
        await leader.execute("SET LOCAL parallel_tuple_cost = 0; SET LOCAL max_parallel_workers_per_gather = 2")
        await leader.execute("SET LOCAL parallel_leader_participation = off")
        task = asyncio.create_task(leader.execute("SELECT count(*) FROM many WHERE look() = id"))
        waits = "SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND relation = 'gate'::regclass"
        await until(lambda: bool(server.value(waits)))
        try:
            yield leader
        finally:
            leader.terminate()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_parallel_query_is_one_session_that_of_its_leader(shop: Cluster) -> None:
    """A holder blocks both workers, and their leader blocks a victim: the holder is the only root, of two sessions."""
    shop.execute(
        "CREATE TABLE gate (); CREATE TABLE many AS SELECT generate_series(1, 10000) AS id;"
        " ALTER TABLE many SET (parallel_workers = 2);"
        " CREATE FUNCTION look() RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS"
        " 'BEGIN PERFORM FROM gate; RETURN 1; END'"
    )
    try:
        async with client(shop, "holder") as holder:
            await holder.execute("BEGIN; LOCK TABLE gate")
            async with parallel_query(shop, "report"), waiting(shop, "victim", "SELECT FROM orders"):
                found = page_of(shop)
    finally:
        shop.execute("DROP FUNCTION look; DROP TABLE many; DROP TABLE gate")
    assert roots(found) == [("holder", 2)]
    assert found.value("pg_lock_waiters") == 2
    assert found.value("pg_lock_queue_waiters", relation="public.gate") == 1
    assert found.value("pg_lock_sessions", locktype="relation", granted="false", mode="AccessShareLock") == 2
    assert found.value("pg_session_waits", wait_event_type="Lock", wait_event="relation") == 2


async def test_a_deadlock_is_one_root_and_those_behind_it_are_counted(shop: Cluster) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client(shop, "other"))
        ring = [await stack.enter_async_context(client(shop, f"ring {i}")) for i in range(3)]
        tasks = []
        for i, session in enumerate(ring):
            await session.execute(f"SET deadlock_timeout = '1h'; BEGIN; SELECT pg_advisory_xact_lock({i})")
        for i, session in enumerate(ring):
            tasks.append(asyncio.create_task(session.execute(f"SELECT pg_advisory_xact_lock({(i + 1) % 3})")))
        tail = "SET deadlock_timeout = '1h'; SELECT pg_advisory_lock(1)"
        for i in range(4):
            await stack.enter_async_context(waiting(shop, f"tail {i}", tail))
        await until(lambda: shop.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 7)
        found = page_of(shop)
        lowest = min(session.get_server_pid() for session in ring)
        for session in ring:
            session.terminate()
        shop.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'ring %'")
        await asyncio.gather(*tasks, return_exceptions=True)
    labels = found.labels(SESSIONS)
    assert (labels["state"], labels["pid"], labels["locktype"]) == ("deadlock cycle", str(lowest), "advisory")
    assert found.value(SESSIONS) == found.value("pg_lock_waiters") == 7


@pytest.fixture(params=[*(pytest.param(major, marks=pytest.mark.full) for major in (13, 16)), 18], ids="pg{}".format)
def pair(request: pytest.FixtureRequest, cluster: Callable[..., Cluster]) -> Iterator[tuple[Cluster, Cluster]]:
    """A primary, and a standby on which replay waits for readers for ever."""
    primary = cluster(request.param)
    primary.execute("CREATE TABLE orders (id int)")
    with clone_standby(primary, settings={"max_standby_streaming_delay": "-1"}) as standby:
        yield primary, standby


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


async def test_the_root_on_a_standby_is_the_reader_that_replay_waits_for(pair: tuple[Cluster, Cluster]) -> None:
    primary, standby = pair
    async with client(standby, "reader") as reader:
        await reader.execute("BEGIN; SELECT FROM orders")
        primary.execute("ALTER TABLE orders ADD COLUMN c int")
        await until(lambda: standby.value(WAITING) == 1)
        alone = page_of(standby)
        async with AsyncExitStack() as stack:
            for i in range(3):
                await stack.enter_async_context(waiting(standby, f"behind {i}", "SELECT FROM orders"))
            crowded = page_of(standby)
        pid = reader.get_server_pid()
    for found, blocked in ((alone, 1), (crowded, 4)):
        labels = found.labels(SESSIONS)
        assert (labels["pid"], labels["state"], labels["relation"]) == (
            str(pid),
            "idle in transaction",
            "public.orders",
        )
        assert (labels["mode"], labels["held_mode"]) == ("AccessExclusiveLock", "AccessShareLock")
        assert found.value(SESSIONS) == found.value("pg_lock_waiters") == blocked


async def test_replay_is_the_root_of_those_that_wait_for_what_it_has_locked(pair: tuple[Cluster, Cluster]) -> None:
    """A migration on the primary that has not committed; once replay is paused, the state says so."""
    primary, standby = pair
    async with client(primary, "migration") as migration:
        await migration.execute("BEGIN; LOCK TABLE orders")
        primary.execute("SELECT pg_switch_wal()")
        locked = "SELECT count(*) > 0 FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'"
        await until(lambda: bool(standby.value(locked)))
        async with waiting(standby, "reader", "SELECT FROM orders"):
            replaying = page_of(standby)
            standby.execute("SELECT pg_wal_replay_pause()")
            primary.execute("SELECT pg_switch_wal()")
            paused = "SELECT wait_event = 'RecoveryPause' FROM pg_stat_activity WHERE backend_type = 'startup'"
            await until(lambda: bool(standby.value(paused)), 20)
            stopped = page_of(standby)
            standby.execute("SELECT pg_wal_replay_resume()")
    assert (replaying.labels(SESSIONS)["state"], replaying.value(SESSIONS)) == ("startup", 1)
    assert (stopped.labels(SESSIONS)["state"], stopped.value(SESSIONS)) == ("startup, RecoveryPause", 1)
    assert stopped.labels(SESSIONS)["pid"] == replaying.labels(SESSIONS)["pid"] != ""


async def test_replay_that_waits_for_a_pinned_page_is_the_root_and_says_so(pair: tuple[Cluster, Cluster]) -> None:
    """A cursor keeps a page that VACUUM has cleaned; nothing in SQL says whose pin it is, so no reader is accused."""
    primary, standby = pair
    primary.execute("CREATE TABLE pinned (id int); INSERT INTO pinned VALUES (1)")
    with suppress(asyncpg.PostgresError):
        primary.execute("INSERT INTO pinned SELECT generate_series(2, 50); SELECT 1 / 0")  # dead at once, for everybody
    behind = f"SELECT pg_last_wal_replay_lsn() >= '{primary.value('SELECT pg_current_wal_lsn()::text')}'"
    await until(lambda: bool(standby.value(behind)))
    async with client(standby, "cursor") as cursor, client(primary, "migration") as migration:
        await cursor.execute("BEGIN; DECLARE c CURSOR FOR SELECT FROM pinned; FETCH c")
        await migration.execute("BEGIN; LOCK TABLE orders")
        primary.execute("VACUUM pinned")
        pins = "SELECT wait_event = 'BufferPin' FROM pg_stat_activity WHERE backend_type = 'startup'"
        await until(lambda: bool(standby.value(pins)))
        async with waiting(standby, "reader", "SELECT FROM orders"):
            found = page_of(standby)
            startup = standby.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'")
        await cursor.execute("COMMIT")
        await until(lambda: not standby.value(pins))
    labels = found.labels(SESSIONS)
    assert (labels["state"], labels["pid"], labels["relation"]) == ("startup, BufferPin", str(startup), "public.orders")
    assert found.value(SESSIONS) == 1


@pytest.mark.parametrize("major", [13, 18], ids="pg{}".format)
async def test_a_root_that_waits_for_a_standby_or_for_a_page_says_so(
    major: int, cluster: Callable[..., Cluster]
) -> None:
    """Neither wait is for a lock, so each is a root: of a commit, and of a VACUUM whose page a cursor keeps."""
    server = cluster(major)
    server.execute("CREATE TABLE orders AS SELECT 1 AS id; CREATE TABLE pinned AS SELECT 1 AS id")
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
    server.execute("SELECT pg_reload_conf()")
    async with client(server, "web") as web, client(server, "cursor") as cursor, client(server, "cleaner") as cleaner:
        await cursor.execute("BEGIN; DECLARE c CURSOR FOR SELECT FROM pinned; FETCH c")
        tasks = [
            asyncio.create_task(web.execute("SET synchronous_commit = on; UPDATE orders SET id = 2")),
            asyncio.create_task(cleaner.execute("VACUUM (FREEZE) pinned")),
        ]
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event IN ('SyncRep', 'BufferPin')"
        await until(lambda: server.value(waits) == 2)
        async with (
            waiting(server, "next", "UPDATE orders SET id = 3"),
            waiting(server, "maintenance", "ANALYZE pinned"),
        ):
            found = page_of(server)
        for session in (web, cursor, cleaner):
            session.terminate()
        await asyncio.gather(*tasks, return_exceptions=True)
    states = {labels["application_name"]: labels["state"] for labels, _ in found.series(SESSIONS)}
    assert states == {"web": "active, SyncRep", "cleaner": "active, BufferPin"}


async def test_the_lock_table_is_as_full_as_it_has_objects(shop: Cluster) -> None:
    """Twelve sessions that read the same forty partitions take fifty places, not hundreds."""
    shop.execute(
        "CREATE TABLE parts (id int) PARTITION BY RANGE (id);"
        + "".join(f"CREATE TABLE part{i} PARTITION OF parts FOR VALUES FROM ({i}) TO ({i + 1});" for i in range(40))
    )
    try:
        async with AsyncExitStack() as stack:
            before = entries(page_of(shop))
            for i in range(12):
                reader = await stack.enter_async_context(client(shop, f"reader {i}"))
                await reader.execute("BEGIN; SELECT FROM parts")
            read = entries(page_of(shop))
            holder = await stack.enter_async_context(client(shop, "holder"))
            await holder.execute(
                "BEGIN; DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_advisory_xact_lock(i); END LOOP; END $$"
            )
            full = page_of(shop)
    finally:
        shop.execute("DROP TABLE parts")
    ours = 20  # a query of the exporter's other connection locks more relations than fit into its fast path
    assert abs(read - before) <= 45 + ours
    assert entries(full) - read == pytest.approx(3000, abs=5 + ours)
    assert full.value("pg_lock_entries", locktype="advisory", mode="ExclusiveLock", granted="true") == 3000


def entries(found: Page) -> float:
    return sum(value for labels, value in found.series("pg_lock_entries") if labels["mode"] != "SIReadLock")


async def test_a_commit_that_waits_for_a_standby_is_seen_beside_an_older_query(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
    server.execute("SELECT pg_reload_conf()")
    async with client(server, "report") as report, client(server, "web") as web:
        slow = asyncio.create_task(report.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(1)
        commit = asyncio.create_task(web.execute("SET synchronous_commit = on; CREATE TABLE t ()"))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await until(lambda: server.value(waits) == 1)
        await asyncio.sleep(0.5)
        found = page(server.dsn(user=MONITOR))
        for session in (report, web):
            session.terminate()
        await asyncio.gather(slow, commit, return_exceptions=True)
    longest = found.value("pg_session_waits_longest_seconds", wait_event="SyncRep", state="active")
    assert 0.5 <= longest < found.value("pg_session_waits_longest_seconds", wait_event="PgSleep") - 0.9


@pytest.mark.full
async def test_an_idle_dump_hides_no_other_idle_transaction(servers: Callable[[int], Cluster]) -> None:
    """From ten seconds on, each application has the oldest of its own."""
    majors = (13, 18)
    async with AsyncExitStack() as stack:
        pids = {}
        for major in majors:
            dump = await stack.enter_async_context(client(servers(major), "pg_dump"))
            await dump.execute("BEGIN; SELECT FROM pg_class LIMIT 1")
            web = await stack.enter_async_context(client(servers(major), "web"))
            await web.execute("BEGIN; SELECT FROM pg_class LIMIT 1")
            young = await stack.enter_async_context(client(servers(major), "young"))
            pids[major] = {"pg_dump": str(dump.get_server_pid()), "web": str(web.get_server_pid())}
        await asyncio.sleep(10.5)
        await young.execute("BEGIN")
        found = {major: page(servers(major).dsn(user=MONITOR)) for major in majors}
    for major in majors:
        for kind in ("idle in transaction", "transaction"):
            series = found[major].series("pg_session_oldest_seconds", kind=kind)
            assert {labels["application_name"]: labels["pid"] for labels, _ in series} == pids[major]


async def test_a_failed_transaction_is_shown_while_a_savepoint_keeps_its_locks(shop: Cluster) -> None:
    """Without one, PostgreSQL has released its locks and its snapshot; only the client does not know yet."""
    async with client(shop, "plain") as plain, client(shop, "with savepoint") as saved:
        await plain.execute("BEGIN; UPDATE orders SET v = 1 WHERE id = 1")
        await saved.execute("BEGIN; UPDATE orders SET v = 1 WHERE id = 2; SAVEPOINT s")
        for session in (plain, saved):
            with suppress(asyncpg.DivisionByZeroError):
                await session.execute("SELECT 1 / 0")
        found = page(shop.dsn(user=MONITOR))
        locks = "SELECT count(*) FROM pg_locks WHERE pid = $1"
        held = [shop.value(locks, session.get_server_pid()) for session in (plain, saved)]
    assert (held[0], held[1] > 0) == (0, True)
    labels = found.labels("pg_session_oldest_seconds", kind="idle in transaction")
    assert (labels["application_name"], labels["state"]) == ("with savepoint", "idle in transaction (aborted)")


async def test_a_role_that_may_not_see_sessions_is_told_so_not_shown_a_part(shop: Cluster, major: int) -> None:
    """Since when a session waits for a lock, 13 says where it says what the session does."""
    collectors = [
        *("connections", "sessions", "session_ages", "session_waits", "role_connections", "lock_blockers"),
        *("xmin_horizon", "autovacuum", "ssl", "settings_pending", "statements"),
        *(("lock_waits", "lock_queues") if major == 13 else ()),
    ]
    shop.execute("CREATE ROLE stranger LOGIN")
    try:
        async with client(shop, "root") as root:
            await root.execute("BEGIN; LOCK TABLE orders")
            async with waiting(shop, "victim", "SELECT FROM orders"):
                found = page(shop.dsn(user="stranger"))
        calm = page(shop.dsn(user="stranger"))
    finally:
        shop.execute("DROP ROLE stranger")
    for collector in collectors:
        assert found.value("pgvigil_collector_success", collector=collector) == 0
        assert found.value("pgvigil_collector_errors_total", collector=collector, reason="permission") == 1
    names = ("pg_connections_used", "pg_sessions", "pg_session_waits", "pg_roles_connections", SESSIONS)
    for name in (*names, "pg_xmin_horizon_age", "pg_autovacuum_launcher_running", "pg_ssl_connections"):
        assert found.series(name) == []
    waits = [value for _, value in found.series("pg_lock_longest_wait_seconds")]
    assert [value > 0 for value in waits] == ([] if major == 13 else [True])
    assert [value for _, value in found.series("pg_lock_waiters")] == ([] if major == 13 else [1])
    assert calm.value("pg_lock_waiters") == calm.value("pg_lock_longest_wait_seconds") == 0


@pytest.mark.parametrize("major", [13, 18])
async def test_a_role_that_may_not_see_senders_and_receivers_is_told_so(
    cluster: Callable[..., Cluster], major: int
) -> None:
    """A standby would seem not to stream, and a primary to have a standby of which nothing is known."""
    primary = cluster(major)
    primary.execute("CREATE ROLE stranger LOGIN")
    with clone_standby(primary) as standby:
        await until(lambda: primary.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1)
        known = [page_of(server) for server in (primary, standby)]
        found = [page(server.dsn(user="stranger")) for server in (primary, standby)]
    for number, collector, metric in (
        (0, "replication", "pg_replication_sender_state"),
        (1, "wal_receiver", "pg_wal_receiver_streaming"),
        (1, "recovery", "pg_replication_lag_seconds"),
    ):
        assert known[number].value(metric) is not None
        assert found[number].value("pgvigil_collector_errors_total", collector=collector, reason="permission") == 1
        assert found[number].series(metric) == []


async def test_a_session_of_which_nothing_is_told_is_not_called_busy(server: Cluster) -> None:
    """With track_activities off nobody knows whether it is idle."""
    async with client(server, "silent") as silent:
        await silent.execute("SET track_activities = off")
        found = page(server.dsn(user=MONITOR))
    assert found.series("pg_session_waits", state="disabled") == []
    assert found.value("pg_sessions", application_name="silent", state="disabled") == 1
