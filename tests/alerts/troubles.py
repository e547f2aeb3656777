"""Brings servers of a shop into the states that the golden pages are recorded in: every trouble at once, or peace."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import asyncpg
from servers import build
from standby import clone_standby

from exporter.demo.cluster import FAST, HOST, SUPERUSER, Cluster

MONITOR = "pgvigil"

SETTINGS: Mapping[str, str] = {
    **FAST,
    "archive_command": "true",
    "archive_mode": "on",
    "autovacuum_naptime": "1s",
    "max_connections": "60",
    "max_prepared_transactions": "10",
    "max_slot_wal_keep_size": "1GB",
    "shared_buffers": "32MB",
    "shared_preload_libraries": "pg_stat_statements",
    "synchronous_commit": "local",
    "track_io_timing": "on",
    "wal_level": "logical",
}

TROUBLE: Mapping[str, str] = {
    "synchronous_standby_names": "FIRST 2 (standby1, gone)",  # who asks for a synchronous commit waits for ever
}

STANDBY: Mapping[str, str] = {
    "archive_mode": "off",
    "hot_standby_feedback": "on",
    "synchronous_standby_names": "",
    "wal_receiver_status_interval": "1s",
}

ROLES = f"""
    CREATE ROLE {MONITOR} LOGIN;
    GRANT pg_monitor TO {MONITOR};
    CREATE ROLE web LOGIN CONNECTION LIMIT 30;
    CREATE ROLE deploy LOGIN SUPERUSER;
    CREATE ROLE nightly LOGIN SUPERUSER;  -- its vacuum takes for ever
    ALTER ROLE nightly SET vacuum_cost_delay = 100;
    ALTER ROLE nightly SET vacuum_cost_limit = 1;
    ALTER ROLE nightly SET vacuum_cost_page_hit = 100;
    CREATE ROLE reporting LOGIN PASSWORD 'secret' VALID UNTIL '2030-01-01';
    CREATE EXTENSION pg_stat_statements;
    CREATE EXTENSION pg_buffercache;
"""

SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer_id int NOT NULL REFERENCES customers,
        total numeric(10, 2) NOT NULL
    );
    CREATE INDEX orders_customer_id_idx ON orders (customer_id);
    CREATE TABLE carts (id serial PRIMARY KEY, customer_id int NOT NULL REFERENCES customers);
    CREATE TABLE events (id bigint PRIMARY KEY, kind text NOT NULL, at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE prices (id int PRIMARY KEY, price numeric(10, 2) NOT NULL);

    INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 1000) AS i;
    INSERT INTO orders (customer_id, total) SELECT 1 + i % 1000, i % 95 FROM generate_series(1, 20000) AS i;
    INSERT INTO carts (customer_id) SELECT 1 + i % 1000 FROM generate_series(1, 500) AS i;
    INSERT INTO events SELECT i, CASE i % 3 WHEN 0 THEN 'view' ELSE 'click' END FROM generate_series(1, 20000) AS i;
    INSERT INTO prices SELECT i, 10 FROM generate_series(1, 100) AS i;

    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO web;
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO pgvigil;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO web;
    CREATE PUBLICATION prices FOR TABLE prices;
"""

WORK = (
    "SELECT sum(total) FROM orders WHERE customer_id = 42",
    "SELECT count(*) FROM events WHERE kind LIKE 'c%'",
    "UPDATE carts SET customer_id = customer_id WHERE id = 7",
    "INSERT INTO carts (customer_id) VALUES (1)",
    "SELECT name FROM customers WHERE id = 1",
)
"""What the shop does all day. The first has an index, the second reads the whole table."""

DEBT = (
    # Two indexes that do the same, one that is the start of another, and all unused.
    "CREATE INDEX orders_customer_id_idx1 ON orders (customer_id)",
    "CREATE INDEX orders_total_idx ON orders (total)",
    "CREATE INDEX events_kind_idx ON events (kind)",
    "CREATE INDEX events_kind_at_idx ON events (kind, at)",
    # A table whose autovacuum somebody switched off, with dead rows and stale statistics.
    "ALTER TABLE events SET (autovacuum_enabled = false)",
    "UPDATE events SET kind = kind",
    "UPDATE orders SET total = total + 1 WHERE id % 2 = 0",
    # A serial column near the end of its type.
    "SELECT setval('carts_id_seq', 2100000000)",
    "CREATE EXTENSION pgstattuple VERSION '1.4'",
    "CREATE TABLE audit (at timestamptz, what text)",
    "INSERT INTO audit SELECT now(), 'order ' || i FROM generate_series(1, 20000) AS i",
    "UPDATE audit SET what = what",
    # Each entry of the index takes a while, so the index is being built for as long as the page takes.
    """
    CREATE FUNCTION slowly(id bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_sleep(CASE WHEN id > 5000 THEN 0.1 ELSE 0 END); RETURN id; END $$
    """,
)

SPILL = "SET work_mem = '64kB'; SELECT count(*) FROM (SELECT DISTINCT id, kind FROM events ORDER BY kind) AS e"
BUILD = "CREATE INDEX CONCURRENTLY events_slowly_idx ON events (slowly(id))"


class Shop:
    """One server and the sessions that clients have open on it."""

    def __init__(self, server: Cluster, undo: AsyncExitStack) -> None:
        self.server = server
        self._undo = undo

    def run(self, *statements: str, database: str = "shop", user: str = SUPERUSER) -> None:
        """Run statements one by one."""
        for statement in statements:
            self.server.execute(statement, database, user)

    async def session(self, name: str, user: str = "web", database: str = "shop", server: Cluster | None = None) -> Any:
        """A client that stays connected until the end."""
        dsn = (server or self.server).dsn(database, user)
        connection = await asyncpg.connect(dsn, ssl="disable", server_settings={"application_name": name})
        self._undo.callback(connection.terminate)
        return connection

    async def starts(self, name: str, sql: str, user: str = "web", *, until: str) -> None:
        """A client whose statement is not to end; waits until the server shows it as meant."""
        connection = await self.session(name, user)
        task = asyncio.create_task(connection.execute(sql))
        self._undo.push_async_callback(_cancelled, task)
        pid = connection.get_server_pid()
        await self.eventually(lambda: task.done() or self.server.value(until.format(pid=pid)))
        if task.done():
            raise RuntimeError(f"{name}: {sql}: ended: {task.exception() or task.result()}")

    async def waits(self, name: str, sql: str, user: str = "web") -> None:
        """A client whose statement waits for a lock."""
        await self.starts(name, sql, user, until="SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted")

    async def standby(self, name: str, slot: str | None = None) -> Cluster:
        """A standby that streams."""
        made = clone_standby(self.server, application_name=name, slot=slot, settings=STANDBY)
        self._undo.callback(made.remove)
        made.start()
        await self.eventually(lambda: self._streams(name))
        return made

    def _streams(self, name: str) -> bool:
        asked = "SELECT count(*) FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'"
        return bool(self.server.value(asked, name))

    async def eventually(self, holds: Callable[[], Any], seconds: float = 30) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.1)


async def _cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await task


@asynccontextmanager
async def shop(major: int, settings: Mapping[str, str]) -> AsyncIterator[Shop]:
    """A server with the shop's tables, a standby's slot and a subscriber, after a morning's work."""
    timed = {"track_wal_io_timing": "on"} if major >= 14 else {}
    async with AsyncExitStack() as undo:
        server = undo.enter_context(Cluster(build(major), settings={**SETTINGS, **timed, **settings}))
        made = Shop(server, undo)
        made.run(ROLES, "CREATE DATABASE shop CONNECTION LIMIT 50", "CREATE DATABASE reports", database="postgres")
        made.run(SHOP)
        await _vacuumed(made)
        made.run("SELECT pg_create_physical_replication_slot('standby1', true)")
        await _subscribe(made)
        for statement in WORK * 20:
            made.run(statement, user="web")
        yield made


async def _vacuumed(made: Shop) -> None:
    """Let autovacuum come once, and not again while a page is made; then vacuum by hand."""
    due = "SELECT count(*) = 4 FROM pg_stat_user_tables WHERE last_autoanalyze IS NOT NULL AND n_live_tup > 200"
    await made.eventually(lambda: made.server.value(due, database="shop"))
    made.run("ALTER SYSTEM SET autovacuum_naptime = '1d'", "SELECT pg_reload_conf()")
    made.run("VACUUM (ANALYZE)")


async def _subscribe(made: Shop) -> None:
    """The database `reports` has a copy of the prices."""
    upstream = f"host={HOST} port={made.server.port} user={SUPERUSER} dbname=shop"
    made.run("SELECT pg_create_logical_replication_slot('copy', 'pgoutput')")
    made.run(
        "CREATE TABLE prices (id int PRIMARY KEY, price numeric(10, 2) NOT NULL)",
        f"CREATE SUBSCRIPTION copy CONNECTION '{upstream}' PUBLICATION prices WITH (create_slot = false)",
        database="reports",
    )
    ready = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'"
    await made.eventually(lambda: made.server.value(ready, database="reports"))


@asynccontextmanager
async def at_peace(major: int) -> AsyncIterator[tuple[Cluster, Cluster]]:
    """A primary at work with its streaming standby, and nothing wrong."""
    async with shop(major, {}) as made:
        await _archived(made)
        standby = await made.standby("standby1", "standby1")
        made.run("SELECT txid_current()")
        for _ in range(4):
            await made.session("shop-web")
        yield made.server, standby


async def _archived(made: Shop) -> None:
    made.run("CHECKPOINT", "SELECT pg_switch_wal()")
    await made.eventually(lambda: made.server.value("SELECT archived_count > 0 FROM pg_stat_archiver"))


@asynccontextmanager
async def in_trouble(major: int) -> AsyncIterator[Cluster]:
    """A primary with every trouble at once."""
    async with shop(major, TROUBLE) as made:
        await _replication(made)
        _debt(made)
        await _sessions(made)
        yield made.server


async def _replication(made: Shop) -> None:
    """Slots without a consumer, standbys that hold the horizon back, an archive that fails, a copy that differs."""
    made.run("SELECT pg_create_physical_replication_slot('forgotten', true)")
    made.run("SELECT pg_create_logical_replication_slot('search', 'test_decoding')")
    for standby in (await made.standby("standby1", "standby1"), await made.standby("standby2")):
        reader = await made.session("weekly report", "reporting", server=standby)
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class LIMIT 1")
    await _archived(made)
    made.run("ALTER SYSTEM SET archive_command = 'false'", "SELECT pg_reload_conf()")
    for _ in range(5):
        made.run("SELECT txid_current()", "SELECT pg_switch_wal()")
    failed = "SELECT failed_count > 0 FROM pg_stat_archiver"
    await made.eventually(lambda: made.server.value(failed))
    made.run("INSERT INTO prices VALUES (101, 1)", database="reports")
    made.run("INSERT INTO prices VALUES (101, 1)")


def _debt(made: Shop) -> None:
    """What piles up when nobody looks."""
    made.run(*DEBT)
    with suppress(asyncpg.UniqueViolationError):
        made.run("CREATE UNIQUE INDEX CONCURRENTLY orders_total_key ON orders (total)")
    made.run(SPILL, user="web")
    # Settings that wait for a restart, and a right that the monitoring role should have.
    made.run("ALTER SYSTEM SET max_connections = 200", "SELECT pg_reload_conf()")
    for function in made.server.query(
        "SELECT oid::regprocedure::text AS f FROM pg_proc WHERE proname ~ 'pg_buffercache'"
    ):
        made.run(f"REVOKE EXECUTE ON FUNCTION {function['f']} FROM pg_monitor, public", database="postgres")
    with suppress(asyncpg.UndefinedTableError):
        made.run("REVOKE SELECT ON pg_buffercache FROM pg_monitor", database="postgres")


async def _sessions(made: Shop) -> None:
    """Somebody forgot to commit, somebody to finish a two-phase commit, and the others wait."""
    root = await made.session("checkout")
    await root.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT total FROM orders LIMIT 1")
    made.run("SELECT txid_current()")  # what comes later holds back no more than what runs already
    made.run("BEGIN; UPDATE customers SET name = 'x' WHERE id = 1; PREPARE TRANSACTION 'forgotten'")
    await made.starts("reindex", BUILD, "deploy", until="SELECT count(*) FROM pg_stat_progress_create_index")
    await made.starts("nightly", "VACUUM audit", "nightly", until="SELECT count(*) FROM pg_stat_progress_vacuum")
    await made.waits("migration", "ALTER TABLE orders ADD COLUMN note text", "deploy")
    await made.waits("shop-web", "SELECT * FROM orders LIMIT 1")
    await made.waits("shop-web", "SELECT count(*) FROM orders")
    await made.waits("shop-web", "UPDATE customers SET name = 'y' WHERE id = 1")
    await made.waits("reindex", "CREATE INDEX CONCURRENTLY customers_name_idx ON customers (name)", "deploy")
    active = "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'"
    await made.starts("weekly report", "SELECT pg_sleep(3600)", "reporting", until=active)
    synchronous = "SET synchronous_commit = on; INSERT INTO carts (customer_id) VALUES (1)"
    await made.starts("shop-web", synchronous, until=f"{active} AND wait_event = 'SyncRep'")
    for _ in range(4):
        await made.session("shop-web")
    for _ in range(10):
        made.run("SELECT txid_current()")
