"""Wraparound: ages and their limits, what is used up, and who holds the horizon, on states made on purpose."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest
from alerts.runbook import RUNBOOKS, blocks
from clients import client, waiting
from module_database import DATABASE, page_of, session
from pages import MONITOR, Page, named, page
from patience import until
from servers import MAJORS
from standby import clone_standby

from exporter.catalog.load import BUILT_IN, load
from exporter.demo.cluster import HOST, SUPERUSER, Cluster

COLLECTORS = (
    "database_transactions",
    "multixact_members",
    "replication_slots",
    "role_connections",
    "table_freeze",
    "wal",
    "wraparound",
    "xid",
    "xmin_horizon",
)


async def use_up(xids: int, connection: Any) -> None:
    """Assign transaction ids, each in a transaction of its own."""
    await connection.execute(f"DO $$ BEGIN FOR i IN 1..{xids} LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$")


async def test_the_age_of_each_database_grows_with_every_transaction(database: Cluster) -> None:
    ages = "SELECT age(datfrozenxid), mxid_age(datminmxid) FROM pg_database WHERE datname = $1"
    async with session(database) as client:
        before = page_of(database)
        await use_up(500, client)
        after = page_of(database)
    for datname in (DATABASE, "template0"):
        [(xid_age, mxid_age)] = database.query(ages, datname)
        assert after.value("pg_database_xid_age", datname=datname) == pytest.approx(xid_age, abs=50)
        assert after.value("pg_database_mxid_age", datname=datname) == mxid_age
    assert after.value("pg_xid_consumed") - before.value("pg_xid_consumed") == pytest.approx(500, abs=50)


def test_a_name_of_another_encoding_hides_no_database_and_no_role(cluster: Callable[..., Cluster]) -> None:
    """The names of all databases and roles are bytes, in the encoding of the database that they were made in."""
    server = cluster()
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    server.execute('CREATE DATABASE "café"', "latin")
    server.execute('CREATE ROLE "café" LOGIN CONNECTION LIMIT 5', "latin")
    found = page(server.dsn(user=MONITOR))
    connectable = {"postgres", "template1", "latin", "caf\N{REPLACEMENT CHARACTER}e9"}
    assert {labels["datname"] for labels, _ in found.series("pg_database_connections")} == connectable
    assert {labels["datname"] for labels, _ in found.series("pg_database_xid_age")} == connectable | {"template0"}
    assert found.value("pg_roles_connection_limit", rolname="caf\N{REPLACEMENT CHARACTER}e9") == 5
    assert found.value("pg_roles_connections", rolname=MONITOR) >= 1


async def lock_together(server: Cluster) -> None:
    async with session(server) as one, session(server) as two, one.transaction(), two.transaction():
        for locker in (one, two):
            await locker.execute("SELECT FROM shared FOR SHARE")
    server.execute("CHECKPOINT")


async def test_a_row_locked_by_two_transactions_uses_up_one_multixact(database: Cluster) -> None:
    database.execute("CREATE TABLE shared (id int); INSERT INTO shared VALUES (1)", DATABASE)
    await lock_together(database)  # the first multixact of a server also takes member 0
    before = page_of(database)
    await lock_together(database)
    after = page_of(database)
    grown = {
        name: after.value(name) - before.value(name)
        for name in ("pg_multixact_consumed", "pg_multixact_members_consumed")
    }
    assert grown == {"pg_multixact_consumed": 1, "pg_multixact_members_consumed": 2}


LOCK_EACH = """
    DO $$ BEGIN FOR i IN 1..{rows} LOOP
      BEGIN PERFORM FROM many WHERE id = i FOR SHARE; EXCEPTION WHEN division_by_zero THEN NULL; END;
    END LOOP; END $$
"""
"""Locks each row in a subtransaction of its own, so that each is another multixact."""

KEPT = """
    SELECT sum((SELECT count(*) FROM pg_get_multixact_members(id::text::xid)))::int
      FROM (SELECT max(mxid_age(datminmxid)) AS ids, mxid_age('1'::xid) + 1 AS next_id FROM pg_database) AS k,
           generate_series(next_id - ids, next_id - 1) AS id
"""


async def test_members_of_multixacts_are_estimated_from_a_sample(database: Cluster) -> None:
    """First many with two members, then some with three."""
    database.execute("CREATE TABLE many AS SELECT i AS id FROM generate_series(1, 400) AS i", DATABASE)
    async with (
        session(database) as one,
        session(database) as two,
        session(database) as three,
        one.transaction(),
        two.transaction(),
        three.transaction(),
    ):
        await one.execute("SELECT FROM many FOR SHARE")
        await two.execute(LOCK_EACH.format(rows=400))
        before = page_of(database).value("pg_multixact_members")
        await three.execute(LOCK_EACH.format(rows=200))
        kept = database.value(KEPT, database=DATABASE)
        found = page_of(database).value("pg_multixact_members")
    assert kept >= 400 * 2 + 200 * 3
    assert found == pytest.approx(kept, rel=0.05)
    assert found - before == pytest.approx(600, rel=0.1)


def test_the_server_says_when_it_freezes_by_force(database: Cluster, major: int) -> None:
    found = page_of(database)
    for metric, setting, since in (
        ("pg_wraparound_freeze_max_age", "autovacuum_freeze_max_age", 13),
        ("pg_wraparound_multixact_freeze_max_age", "autovacuum_multixact_freeze_max_age", 13),
        ("pg_wraparound_failsafe_age", "vacuum_failsafe_age", 14),
        ("pg_wraparound_multixact_failsafe_age", "vacuum_multixact_failsafe_age", 14),
    ):
        if major >= since:
            assert found.value(metric) == int(database.value(f"SHOW {setting}"))
        else:
            assert not found.series(metric)


@asynccontextmanager
async def kept_old(server: Cluster, *tables: str) -> AsyncIterator[None]:
    """Freeze all tables of the database but these, by having them locked meanwhile."""
    async with session(server) as keeper, session(server) as vacuum:
        async with keeper.transaction():
            for table in tables:
                await keeper.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
            await use_up(2_000, vacuum)
            await vacuum.execute("VACUUM (FREEZE, SKIP_LOCKED)")
        yield


async def test_the_oldest_tables_come_with_the_age_at_which_they_are_frozen(database: Cluster, major: int) -> None:
    """Options count only where they lower the setting; other sessions' temporary tables count as well."""
    database.execute(
        "CREATE TABLE eager (v text) WITH (autovacuum_freeze_max_age = 150000,"
        " autovacuum_multixact_freeze_max_age = 160000, toast.autovacuum_freeze_max_age = 120000);"
        "CREATE TABLE lazy (v text) WITH (autovacuum_freeze_max_age = 1500000000)",
        DATABASE,
    )
    async with session(database) as client:
        await client.execute("CREATE TEMPORARY TABLE forgotten (v text)")
        async with kept_old(database, "eager", "lazy"):
            found = page_of(database)
        [(age, limit)] = await client.fetch(
            "SELECT age(relfrozenxid), current_setting('autovacuum_freeze_max_age')::int"
            " FROM pg_class WHERE relname = 'eager'"
        )
        assert found.value("pg_table_xid_age", relname="eager") == pytest.approx(age, abs=50)
        assert found.value("pg_table_mxid_age", relname="eager") >= 0
        assert found.value("pg_table_freeze_max_age", relname="eager") == 150_000
        assert found.value("pg_table_multixact_freeze_max_age", relname="eager") == 160_000
        assert found.value("pg_table_freeze_max_age", relname="lazy") == limit
        assert found.labels("pg_table_xid_age", relname="forgotten")["schemaname"].startswith("pg_temp_")
        oldest = {
            had["relname"] for had, value in found.series("pg_table_xid_age", datname=DATABASE) if value >= age - 50
        }
        assert oldest == {"eager", "lazy", "forgotten"}
        if major >= 14:  # the first that can vacuum a table without its TOAST table
            await client.execute("VACUUM (FREEZE, PROCESS_TOAST FALSE) eager")
            found = page_of(database)
            assert found.value("pg_table_xid_age", relname="eager") == pytest.approx(age, abs=50)
            assert found.value("pg_table_freeze_max_age", relname="eager") == 120_000


async def hold(server: Cluster, stack: AsyncExitStack) -> int:
    """Hold the horizon in every way that needs no standby; return the pid of the idle backend."""
    client = await stack.enter_async_context(session(server, "postgres"))
    other = await stack.enter_async_context(session(server, "postgres"))
    await other.execute("SELECT pg_create_logical_replication_slot('abandoned', 'pgoutput')")
    stack.push_async_callback(other.execute, "SELECT pg_drop_replication_slot('abandoned')")
    await use_up(1, other)  # or it would hold the id of the next transaction, and be as old as that only
    await client.execute("SET application_name = 'batch'")
    await client.execute("BEGIN; SELECT txid_current()")
    await other.execute("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'forgotten gid'")
    stack.push_async_callback(other.execute, "ROLLBACK PREPARED 'forgotten gid'")
    await use_up(100, other)
    pid: int = client.get_server_pid()
    return pid


@pytest.mark.parametrize("majors", [MAJORS[-1:], pytest.param(MAJORS[:-1], marks=pytest.mark.full)])
async def test_whoever_holds_the_horizon_for_ten_seconds_is_named(
    servers: Callable[[int], Cluster], majors: Sequence[int], subtests: pytest.Subtests
) -> None:
    """Several versions at once, so that they wait together."""
    pids, young, old = {}, {}, {}
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        for major in majors:
            pids[major] = await hold(servers(major), stack)
            young[major] = page(servers(major).dsn(user=MONITOR))
        await asyncio.sleep(10.5)
        for major in majors:
            old[major] = page(servers(major).dsn(user=MONITOR))
    elapsed = time.monotonic() - started
    for major in majors:
        with subtests.test(major=major):
            shows_holders_without_names(young[major])
            shows_holders_by_name(old[major], pids[major], elapsed)


def held(found: Page, metric: str, labels: Mapping[str, str]) -> float | None:
    """How long a holder that has these labels holds the horizon; None where it is not on the page."""
    values = [value for had, value in found.samples.get(metric, []) if labels.items() <= had.items()]
    assert len(values) < 2, f"{labels}: {found.samples[metric]}"
    return values[0] if values else None


def shows_holders_without_names(found: Page) -> None:
    for holder in ("backend", "prepared_transaction"):
        labels = found.labels("pg_xmin_horizon_age", holder=holder, datname="postgres")
        assert {labels[name] for name in ("name", "pid", "usename", "application_name", "state")} == {""}


def shows_holders_by_name(found: Page, pid: int, elapsed: float) -> None:
    backend = {
        "holder": "backend",
        "name": "client backend",
        "pid": str(pid),
        "usename": "postgres",
        "application_name": "batch",
        "state": "idle in transaction",
    }
    prepared = {"holder": "prepared_transaction", "name": "forgotten gid", "usename": "postgres", "pid": ""}
    slot = {"holder": "replication_slot_catalog", "name": "abandoned", "state": "inactive", "pid": ""}
    for labels in (backend, prepared, slot):
        assert (held(found, "pg_xmin_horizon_age", {**labels, "datname": "postgres"}) or 0) >= 100
    for labels in (backend, prepared):
        assert 10 <= (held(found, "pg_xmin_horizon_seconds", labels) or 0) < elapsed
    assert held(found, "pg_xmin_horizon_seconds", slot) is None


@pytest.mark.parametrize(
    ("slot", "holder"), [(None, "standby_feedback"), ("standby_slot", "replication_slot")], ids=["no slot", "slot"]
)
async def test_a_standby_with_feedback_holds_the_horizon_itself_or_through_its_slot(
    major: int, cluster: Callable[..., Cluster], slot: str | None, holder: str
) -> None:
    primary = cluster(major)
    if slot:
        primary.execute(f"SELECT pg_create_physical_replication_slot('{slot}')")
    settings = {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1s"}
    labels = {"holder": holder, "name": slot or "reporting", "datname": ""}
    with clone_standby(primary, application_name="reporting", slot=slot, settings=settings) as standby:
        async with session(standby, "postgres") as reader, session(primary, "postgres") as writer:
            await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class")

            async def age() -> float | None:
                await use_up(10, writer)
                return held(page(primary.dsn(user=MONITOR)), "pg_xmin_horizon_age", labels)

            await until(age)
            await use_up(100, writer)
            found = page(primary.dsn(user=MONITOR))
            of_standby = page(standby.dsn(user=MONITOR))
    assert (held(found, "pg_xmin_horizon_age", labels) or 0) >= 100
    assert held(found, "pg_xmin_horizon_seconds", labels) is None
    assert held(of_standby, "pg_xmin_horizon_age", {"holder": "backend", "datname": "postgres"}) is not None
    for collector in ("wraparound", "xid", "xmin_horizon"):
        assert of_standby.value("pgvigil_collector_success", collector=collector) == 1


@pytest.mark.parametrize("is_prepared", [False, True])
async def test_who_is_only_as_old_as_a_transaction_that_runs_elsewhere_is_not_the_cause(
    database: Cluster, is_prepared: bool
) -> None:
    """No snapshot is newer than the oldest running id, of whatever database."""
    ours = {"holder": "backend", "datname": DATABASE}
    async with session(database, "postgres") as culprit, session(database) as reader, session(database) as writer:
        await culprit.execute("BEGIN; SELECT txid_current()")
        if is_prepared:
            await culprit.execute("PREPARE TRANSACTION 'forgotten'")
        await use_up(500, writer)
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1")
        await use_up(500, writer)
        found = [page_of(database)]
        first = {(await writer.fetch(sql))[0]["database"] for sql in LISTED}
        await reader.execute("SELECT txid_current()")
        await use_up(100, writer)
        found.append(page_of(database))
        await culprit.execute("ROLLBACK PREPARED 'forgotten'" if is_prepared else "ROLLBACK")
        found.append(page_of(database))
    cause = {"holder": "prepared_transaction" if is_prepared else "backend", "datname": "postgres"}
    for page_with_it, age in zip(found[:2], (1000, 1100), strict=True):
        assert age <= (held(page_with_it, "pg_xmin_horizon_age", cause) or 0) < age + 90
        assert age <= (held(page_with_it, "pg_xmin_horizon_xid_age", cause) or 0) < age + 90
    assert held(found[0], "pg_xmin_horizon_age", ours) is None
    assert 100 <= (held(found[1], "pg_xmin_horizon_age", ours) or 0) < 190  # by the id that it has got since
    assert 100 <= (held(found[1], "pg_xmin_horizon_xid_age", ours) or 0) < 190
    assert held(found[2], "pg_xmin_horizon_age", cause) is None
    assert 1100 <= (held(found[2], "pg_xmin_horizon_age", ours) or 0) < 1190  # it still needs what it saw
    assert first == {"postgres"}


async def test_who_reads_only_has_no_id_and_is_a_holder_beside_a_later_transaction_with_the_next_one(
    database: Cluster,
) -> None:
    ours = {"holder": "backend", "datname": DATABASE}
    async with session(database) as reader, session(database, "postgres") as later, session(database) as writer:
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1")
        await later.execute("BEGIN; SELECT txid_current()")
        await use_up(200, writer)
        found = page_of(database)
    assert (held(found, "pg_xmin_horizon_age", ours) or 0) >= 200
    assert held(found, "pg_xmin_horizon_xid_age", ours) is None
    assert (held(found, "pg_xmin_horizon_xid_age", {"holder": "backend", "datname": "postgres"}) or 0) >= 200


async def test_the_oldest_of_each_kind_is_never_cut(database: Cluster) -> None:
    """A prepared transaction beside more applications with older snapshots than fit."""
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(session(database, "postgres"))
        for i in range(55):
            reader = await stack.enter_async_context(client(database, f"reader {i}"))
            await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1")
        await use_up(100, writer)
        await writer.execute("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'orphan'")
        stack.push_async_callback(writer.execute, "ROLLBACK PREPARED 'orphan'")
        await asyncio.sleep(10.5)
        found = page_of(database)
    assert len(found.series("pg_xmin_horizon_age")) == 50
    assert held(found, "pg_xmin_horizon_seconds", {"holder": "prepared_transaction", "name": "orphan"}) is not None


async def test_a_running_vacuum_is_no_holder(database: Cluster) -> None:
    database.execute("CREATE TABLE swept AS SELECT generate_series(1, 50000) AS id", DATABASE)
    async with session(database) as vacuum, session(database) as watch:
        pid = vacuum.get_server_pid()
        await vacuum.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
        running = asyncio.create_task(vacuum.execute("VACUUM swept"))
        await until(lambda: watch.fetchval("SELECT count(*) FROM pg_stat_progress_vacuum WHERE heap_blks_scanned > 0"))
        assert await watch.fetchval("SELECT backend_xmin FROM pg_stat_activity WHERE pid = $1", pid)
        await use_up(200, watch)
        found = page_of(database)
        await watch.execute(f"SELECT pg_cancel_backend({pid})")
        with pytest.raises(asyncpg.QueryCanceledError):
            await running
    age = held(found, "pg_xmin_horizon_age", {"holder": "backend", "datname": DATABASE})
    assert (age or 0) < 100  # the exporter's other connection may be there, but the vacuum is not


LISTED = {block.sql for file in RUNBOOKS.glob("*.md") for block in blocks(file) if "AS holder" in block.sql}
"""What runbooks ask for all holders."""

TRUNCATED = "SELECT pg_relation_size('emptied') = 0"
"""PostgreSQL's own answer to whether VACUUM may remove what has just been deleted."""


@pytest.mark.parametrize(
    ("statement", "mode", "holds"),
    [
        ("VACUUM disputed", "SHARE UPDATE EXCLUSIVE", False),
        ("/* every\nnight */ -- at two\n vacuum (analyze) disputed", "SHARE UPDATE EXCLUSIVE", False),
        ("ANALYZE disputed", "SHARE UPDATE EXCLUSIVE", True),
        ("VACUUM FULL disputed", "ROW EXCLUSIVE", True),
        ("CREATE INDEX CONCURRENTLY ON disputed (id)", "SHARE UPDATE EXCLUSIVE", True),
    ],
)
async def test_a_vacuum_that_waits_for_its_table_is_no_holder_and_what_else_waits_is_one(
    database: Cluster, statement: str, mode: str, holds: bool
) -> None:
    database.execute(
        "CREATE TABLE disputed (id int); CREATE TABLE emptied AS SELECT generate_series(1, 1000) AS id", DATABASE
    )
    try:
        async with client(database, "holder", DATABASE) as holder, session(database) as writer:
            await holder.execute(f"BEGIN; LOCK TABLE disputed IN {mode} MODE")
            async with waiting(database, "waiter", statement, DATABASE) as pid:
                await use_up(200, writer)
                await writer.execute("DELETE FROM emptied")
                await writer.execute("VACUUM emptied")
                held_back = not await writer.fetchval(TRUNCATED)
                found = page_of(database)
                listed = [{row["name"] for row in await writer.fetch(sql)} for sql in LISTED]
    finally:
        database.execute("DROP TABLE disputed, emptied", DATABASE)
    assert held_back == holds
    age = held(found, "pg_xmin_horizon_age", {"holder": "backend", "datname": DATABASE})
    assert ((age or 0) >= 200) == holds
    assert [str(pid) in names for names in listed] == [holds] * len(LISTED)


async def test_an_autovacuum_that_waits_for_its_table_is_no_holder(major: int, cluster: Callable[..., Cluster]) -> None:
    """Only one that prevents wraparound waits."""
    server = cluster(major, {"autovacuum_naptime": "1s"})
    server.execute("CREATE TABLE old (id int) WITH (autovacuum_freeze_max_age = 100000)")
    server.execute("CREATE TABLE emptied AS SELECT generate_series(1, 1000) AS id")
    waits = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND wait_event = 'relation'"
    async with session(server, "postgres") as holder, session(server, "postgres") as writer:
        await holder.execute("BEGIN; LOCK TABLE old IN SHARE UPDATE EXCLUSIVE MODE")
        await use_up(101_000, writer)
        await until(lambda: server.query(waits))
        await use_up(200, writer)
        await writer.execute("DELETE FROM emptied")
        await writer.execute("VACUUM emptied")
        assert await writer.fetchval(TRUNCATED)
        found = page_of(server, "postgres")
        assert server.query(waits)
    age = held(found, "pg_xmin_horizon_age", {"holder": "backend", "datname": "postgres"})
    assert (age or 0) < 200


async def test_whoever_imports_a_snapshot_holds_the_horizon_after_its_exporter_is_gone(
    servers: Callable[[int], Cluster],
) -> None:
    """As the workers of pg_dump do: with a young transaction of its own it may hold an old horizon."""
    majors, names = (13, 18), ("exporting", "importing")
    async with AsyncExitStack() as stack:
        both, shared, alone = {}, {}, {}
        for major in majors:
            first, second = [await stack.enter_async_context(client(servers(major), name)) for name in names]
            await first.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            snapshot = await first.fetchval("SELECT pg_export_snapshot()")
            async with session(servers(major), "postgres") as writer:
                await use_up(100, writer)
            await second.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await second.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            both[major] = first, second
        await asyncio.sleep(10.5)
        for major, (first, _) in both.items():
            shared[major] = page(servers(major).dsn(user=MONITOR))
            await first.execute("COMMIT")
            alone[major] = page(servers(major).dsn(user=MONITOR))
        pids = {major: [str(each.get_server_pid()) for each in sessions] for major, sessions in both.items()}
    for major in majors:
        assert holders(shared[major]) == dict(zip(names, pids[major], strict=True))
        assert holders(alone[major]) == {"importing": pids[major][1]}


def holders(found: Page) -> dict[str, str]:
    """Application -> pid of the sessions that have held the horizon for a hundred transactions."""
    series = found.series("pg_xmin_horizon_age", holder="backend", datname="postgres")
    return {labels["application_name"]: labels["pid"] for labels, value in series if value >= 100}


WORKERS = "SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'parallel worker'"


async def test_a_parallel_query_is_one_holder_its_leader(servers: Callable[[int], Cluster]) -> None:
    majors, found, pids = (13, 18), {}, {}
    async with AsyncExitStack() as stack:
        for major in majors:
            leader = await stack.enter_async_context(client(servers(major), "report"))
            await leader.execute(f"SET {'force_parallel_mode' if major < 16 else 'debug_parallel_query'} = on")
            running = asyncio.create_task(leader.execute("SELECT pg_sleep(60)"))
            stack.push_async_callback(asyncio.gather, running, return_exceptions=True)
            stack.callback(leader.terminate)
            await until(partial(servers(major).query, WORKERS))
            async with session(servers(major), "postgres") as writer:
                await use_up(100, writer)
            pids[major] = str(leader.get_server_pid())
        await asyncio.sleep(10.5)
        for major in majors:
            found[major] = page(servers(major).dsn(user=MONITOR))
            listed = {row["name"] for sql in LISTED for row in servers(major).query(sql)}
            [(worker,)] = servers(major).query(WORKERS)
            assert (pids[major] in listed, worker in listed) == (True, False)
    for major in majors:
        series = found[major].series("pg_xmin_horizon_age", holder="backend", application_name="report")
        assert [(labels["pid"], labels["name"]) for labels, _ in series] == [(pids[major], "client backend")]


SLOWLY = """
    CREATE TABLE copied (id int);
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END';
    CREATE TRIGGER slow BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION slow();
    ALTER TABLE copied ENABLE ALWAYS TRIGGER slow;
"""


@pytest.mark.parametrize("major", [13, 16, 18], ids=lambda major: f"pg{major}")
async def test_an_initial_copy_holds_the_horizon_and_the_walsender_that_decodes_does_not(
    major: int, cluster: Callable[..., Cluster]
) -> None:
    publisher, subscriber = cluster(major), cluster(major)
    publisher.execute("CREATE TABLE copied AS SELECT repeat('1', 5)::int AS id FROM generate_series(1, 500000)")
    publisher.execute("CREATE PUBLICATION all_of_it FOR TABLE copied")
    subscriber.execute(SLOWLY)
    subscriber.execute(
        f"CREATE SUBSCRIPTION s CONNECTION 'host={HOST} port={publisher.port} user={SUPERUSER} dbname=postgres'"
        " PUBLICATION all_of_it"
    )
    copying = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender' AND query LIKE 'COPY%'"

    async def copies() -> bool:
        return bool(publisher.query(copying)) and bool(publisher.value("SELECT count(*) FROM pg_stat_replication"))

    await until(copies)
    async with session(publisher, "postgres") as writer:
        await use_up(500, writer)
    [(pid,)] = publisher.query(copying)
    found = page(publisher.dsn(user=MONITOR))
    labels = {"holder": "backend", "name": "walsender", "datname": "postgres", "pid": str(pid)}
    assert (held(found, "pg_xmin_horizon_age", labels) or 0) >= 500
    assert (held(found, "pg_xmin_horizon_seconds", labels) or 0) > 0
    assert {had["pid"] for had, _ in found.series("pg_xmin_horizon_age", name="walsender")} == {str(pid)}
    subscriber.execute("ALTER SUBSCRIPTION s DISABLE")


@pytest.mark.parametrize("major", [13, 15, 16, 18], ids=lambda major: f"pg{major}")
async def test_a_lost_slot_holds_nothing(major: int, cluster: Callable[..., Cluster]) -> None:
    server = cluster(major, {"max_slot_wal_keep_size": "1MB", "wal_keep_size": "2MB", "min_wal_size": "32MB"})
    for name in ("lost", "kept"):
        server.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')")
    before = page(server.dsn(user=MONITOR))
    for _ in range(6):
        server.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 100000))")
        server.execute("SELECT pg_switch_wal()")
    server.execute("CHECKPOINT")
    server.execute("SELECT pg_drop_replication_slot('kept')")
    assert server.value("SELECT wal_status FROM pg_replication_slots") == "lost"
    found = page(server.dsn(user=MONITOR))
    slots = {"holder": "replication_slot_catalog", "datname": "postgres"}
    assert held(before, "pg_xmin_horizon_age", slots) is not None
    assert held(found, "pg_xmin_horizon_age", slots) is None
    assert found.series("pg_replication_slots_catalog_xmin_age") == []
    assert found.series("pg_replication_slots_retained_bytes") == []
    assert found.value("pg_replication_slots_active", slot_name="lost") == 0


@pytest.mark.parametrize("major", [15, 16])
async def test_the_setting_that_defers_cleanup_is_a_holder_where_there_is_one(
    major: int, cluster: Callable[..., Cluster]
) -> None:
    server = cluster(major, {"vacuum_defer_cleanup_age": "1000"} if major < 16 else {})
    found = page(server.dsn(user=MONITOR))
    holders = {had["name"]: value for had, value in found.series("pg_xmin_horizon_age", holder="setting")}
    assert holders == ({"vacuum_defer_cleanup_age": 1000} if major < 16 else {})
    server.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1); DELETE FROM t")
    server.execute("VACUUM t")
    dead = server.value("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 't'")
    assert dead == (1 if major < 16 else 0)


async def test_transaction_ids_fall_after_a_crash_and_so_are_no_counter(cluster: Callable[..., Cluster]) -> None:
    """increase() would add all that were ever assigned, and the end would seem to be hours away."""
    server = cluster(settings={"synchronous_commit": "on", "wal_writer_delay": "10s"})
    async with session(server, "postgres") as client:
        await use_up(500, client)
    before = page(server.dsn(user=MONITOR))
    server.stop("immediate")
    server.start()
    after = page(server.dsn(user=MONITOR))
    assert after.value("pg_xid_consumed") < before.value("pg_xid_consumed")
    assert {metric.type for metric in named(load(BUILT_IN), "xid").metrics} == {"gauge"}
