"""Incidents that can be played on the shop: what caused each, what cured it, and what to look for."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from exporter.demo.shop import DATABASE, MONITOR, Shop
from exporter.errors import SettingsError

TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What may happen to a session in an incident: terminated, timed out, not let in."""

AGAIN_AFTER = 1.0
BEGINS_AFTER = 15.0
LASTS = 120.0

Session = Any
"""An asyncpg connection."""
Culprit = Mapping[str, str]
"""What whoever is paged has to be told: what kind of name -> the name."""


class Scene:
    """The shop while an incident is played on it, with the sessions of those who take part."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._sessions: list[Session] = []
        self._at_work: list[asyncio.Task[None]] = []

    async def session(self, role: str, application: str) -> Session:
        """A session of one of the shop's roles."""
        names = {"application_name": application}
        session = await asyncpg.connect(self._shop.dsn(role), ssl="disable", server_settings=names, timeout=5)
        self._sessions.append(session)
        return session

    async def owner(self, sql: str, *arguments: object) -> list[Any]:
        """Run one statement in the shop as the superuser, and return its rows."""
        session = await asyncpg.connect(self._shop.cluster.dsn(DATABASE), ssl="disable", timeout=10)
        try:
            return list(await session.fetch(sql, *arguments))
        finally:
            session.terminate()

    def start(self, work: Callable[..., Coroutine[Any, Any, object]], *arguments: object) -> None:
        """Let something go on; trouble ends it, and so does the end of the scene."""
        self._at_work.append(asyncio.create_task(_until_trouble(work, arguments)))

    def crowd(self, people: int, role: str, application: str, sql: str, *, pause: float = 0.0) -> None:
        """People who run a statement again and again, each in a session of their own; whoever is thrown out returns."""
        for _ in range(people):
            self.start(self._again_and_again, role, application, sql, pause)

    async def terminate(self, application: str) -> None:
        """End the sessions of an application, after sending home those who would return."""
        await self.clear()
        await self.owner(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", application
        )

    async def clear(self) -> None:
        """End whatever goes on, and the sessions in which it did."""
        for work in self._at_work:
            work.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        self._at_work.clear()
        while self._sessions:
            self._sessions.pop().terminate()

    async def _again_and_again(self, role: str, application: str, sql: str, pause: float) -> None:
        while True:
            with suppress(*TROUBLE):
                session = await self.session(role, application)
                while True:
                    await session.execute(sql)
                    await asyncio.sleep(pause)
            await asyncio.sleep(AGAIN_AFTER)


async def _until_trouble(work: Callable[..., Coroutine[Any, Any, object]], arguments: Sequence[object]) -> None:
    with suppress(*TROUBLE):
        await work(*arguments)


async def _nothing(_: Scene) -> None:
    """Nothing has to be there before."""


@dataclass(frozen=True)
class Incident:
    """One incident, to be played as often as one likes, one at a time."""

    number: int
    name: str
    title: str
    look_for: Sequence[str]
    """What the exporter's pages show of it."""
    cause: Callable[[Scene], Coroutine[Any, Any, Culprit]]
    """Returns when it has begun, with what has to be found out."""
    cure: Callable[[Scene], Coroutine[Any, Any, None]]
    prepare: Callable[[Scene], Coroutine[Any, Any, None]] = _nothing
    """What happened the day before."""


def incident_of(name: str) -> Incident:
    """The incident of that name."""
    for incident in INCIDENTS:
        if incident.name == name:
            return incident
    names = ", ".join(incident.name for incident in INCIDENTS)
    raise SettingsError(f"--incident: no incident is named {name!r}; there are {names}")


async def perform(incident: Incident, shop: Shop, tell: Callable[..., None]) -> None:
    """Play an incident from the day before to its cure, and tell when it begins and when it is over."""
    scene = Scene(shop)
    try:
        with suppress(*TROUBLE):
            await incident.prepare(scene)
            await asyncio.sleep(BEGINS_AFTER)
            culprit = await incident.cause(scene)
            tell("", "It has begun. To be found out:", *(f"  {name}={value}" for name, value in culprit.items()), "")
            await asyncio.sleep(LASTS)
            await incident.cure(scene)
            tell("", "It is cured.", "")
    finally:
        await scene.clear()


# 1. A dashboard's query that no index serves; who gets no answer asks three times more, until nobody can log in.

# It reads all orders once for each tenant.
DASHBOARD_QUERY = """
    SELECT t.name, (SELECT sum(o.total) FROM orders AS o WHERE o.tenant_id = t.id) AS spent FROM tenants AS t ORDER BY 2
"""


async def _deploy_the_dashboard(scene: Scene) -> Culprit:
    scene.crowd(4, "web", "dashboard", DASHBOARD_QUERY)
    scene.start(_retries, scene)
    return {
        "rolname": "web",
        "application_name": "dashboard",
        "relname": "orders",
        "queryid": await _queryid(scene, "%AS spent FROM tenants%"),
    }


async def _retries(scene: Scene) -> None:
    while True:
        await asyncio.sleep(1)
        scene.crowd(3, "web", "dashboard", DASHBOARD_QUERY)


async def _queryid(scene: Scene, like: str) -> str:
    """The number that the server gave to a statement, as soon as it has run once."""
    while True:
        if rows := await scene.owner("SELECT queryid::text FROM pg_stat_statements WHERE query LIKE $1", like):
            return str(rows[0][0])
        await asyncio.sleep(0.2)


async def _roll_the_dashboard_back(scene: Scene) -> None:
    await scene.terminate("dashboard")


# 2. A search that an index served, until the planner thought better of it.

SEARCH = "SELECT count(*) FROM titles WHERE lower(name) LIKE 'title 77%'"
TITLES = 1_000_000


async def _search_well(scene: Scene) -> None:
    await scene.owner(
        f"CREATE TABLE titles AS SELECT i AS id, 'Title ' || i AS name FROM generate_series(1, {TITLES}) AS i"
    )
    await scene.owner("CREATE INDEX titles_name_idx ON titles (lower(name) text_pattern_ops)")
    await scene.owner("GRANT SELECT ON titles TO web")
    await scene.owner("ANALYZE titles")
    scene.crowd(4, "web", "search", SEARCH, pause=0.5)


async def _plan_worse(scene: Scene) -> Culprit:
    """What stale statistics do to a plan, done here by a setting: the search reads the whole table."""
    await _plan(scene, "off")
    return {"usename": "web", "queryid": await _queryid(scene, "%FROM titles WHERE lower(name)%")}


async def _plan_well(scene: Scene) -> None:
    await _plan(scene, "on")


async def _plan(scene: Scene, switch: str) -> None:
    for way in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
        await scene.owner(f"ALTER ROLE web SET {way} = {switch}")
    await scene.owner("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'search'")


# 3. A migration that rewrites the table of users while nobody may touch it.

REWRITE = "ALTER TABLE users ADD COLUMN session_key text NOT NULL DEFAULT pg_sleep(0.1)::text"
LOGIN = "SELECT tenant_id FROM users WHERE id = 7"


async def _migrate(scene: Scene) -> Culprit:
    migration = await scene.session("deploy", "migration")
    pid = migration.get_server_pid()
    scene.start(migration.execute, REWRITE)
    scene.crowd(8, "web", "web", LOGIN, pause=0.5)
    return {"pid": str(pid), "usename": "deploy", "application_name": "migration", "relation": "users"}


async def _cancel_the_migration(scene: Scene) -> None:
    await scene.owner("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'migration'")


# 4. A nightly job whose index build failed, and which a night later stops half-way with a lock on the orders.

NIGHTLY_INDEX = "orders_nightly_idx"


async def _fail_to_build_an_index(scene: Scene) -> None:
    with suppress(asyncpg.UniqueViolationError):
        await scene.owner(f"CREATE UNIQUE INDEX CONCURRENTLY {NIGHTLY_INDEX} ON orders (user_id)")


async def _stop_half_way(scene: Scene) -> Culprit:
    job = await scene.session("deploy", "nightly-job")
    await job.execute("BEGIN")
    await job.execute("LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE")
    await job.fetchval("SELECT count(*) FROM orders")  # and then it waits for something that is not a database
    order = "INSERT INTO orders (tenant_id, user_id, total) VALUES (1, 7, 20)"
    scene.crowd(8, "web", "checkout", order, pause=0.5)
    return {
        "pid": str(job.get_server_pid()),
        "usename": "deploy",
        "application_name": "nightly-job",
        "relation": "orders",
        "state": "idle in transaction",
    }


async def _terminate_the_job(scene: Scene) -> None:
    await scene.owner("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nightly-job'")
    await scene.owner(f"DROP INDEX CONCURRENTLY IF EXISTS {NIGHTLY_INDEX}")


# 5. A notebook that somebody left open: VACUUM may remove nothing that has died since.


async def _leave_the_notebook_open(scene: Scene) -> Culprit:
    notebook = await scene.session("reporting", "notebook")
    await notebook.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await notebook.fetchval("SELECT count(*) FROM users")
    scene.crowd(2, "billing", "price-import", "SELECT import_prices(150)", pause=1.0)
    return {"pid": str(notebook.get_server_pid()), "usename": "reporting", "application_name": "notebook"}


async def _close_the_notebook(scene: Scene) -> None:
    await scene.owner("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'notebook'")


# 6. A slot whose reader has gone: WAL stays until the disk is full, or the slot is lost.

FEED = "feed"


async def _forget_a_slot(scene: Scene) -> Culprit:
    await scene.owner("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", FEED)
    bulk = "INSERT INTO orders (tenant_id, user_id, total) SELECT 1, 7, 20 FROM generate_series(1, 5000)"
    scene.crowd(2, "billing", "import", bulk, pause=0.3)
    return {"slot_name": FEED}


async def _drop_the_slot(scene: Scene) -> None:
    await scene.clear()
    await scene.owner("SELECT pg_drop_replication_slot($1)", FEED)


# 8. A table that grew sixfold while nobody looked: what the planner knows of it is of another age.


async def _grow_without_analyze(scene: Scene) -> Culprit:
    await scene.owner("ALTER TABLE orders SET (autovacuum_enabled = false)")
    await scene.owner(
        "INSERT INTO orders (tenant_id, user_id, total) SELECT 51, 7, 20 FROM generate_series(1, 1000000)"
    )
    return {"schemaname": "public", "relname": "orders"}


async def _analyze(scene: Scene) -> None:
    await scene.owner("ALTER TABLE orders RESET (autovacuum_enabled)")
    await scene.owner("ANALYZE orders")


# 9. Backups that never were: the archive has been full for months.


async def _fail_to_archive(scene: Scene) -> Culprit:
    await scene.owner("ALTER SYSTEM SET archive_command = 'false'")
    await scene.owner("SELECT pg_reload_conf()")
    for _ in range(3):
        await scene.owner("INSERT INTO orders (tenant_id, user_id, total) VALUES (1, 7, 20)")
        await scene.owner("SELECT pg_switch_wal()")
    return {}


async def _archive_again(scene: Scene) -> None:
    await scene.owner("ALTER SYSTEM RESET archive_command")
    await scene.owner("SELECT pg_reload_conf()")
    await scene.owner("SELECT pg_switch_wal()")


# 10. A table of events whose key is an integer, and which nobody purges.


async def _keep_every_event(scene: Scene) -> None:
    await scene.owner("CREATE TABLE events (id serial PRIMARY KEY, happened_at timestamptz NOT NULL DEFAULT now())")
    await scene.owner("SELECT setval('events_id_seq', 1700000000)")
    await scene.owner("GRANT ALL ON events, events_id_seq TO web")
    await scene.owner(f"GRANT SELECT ON events_id_seq TO {MONITOR}")  # without it nobody knows how far it is


async def _take_in_events(scene: Scene) -> Culprit:
    scene.crowd(2, "web", "tracking", "INSERT INTO events SELECT FROM generate_series(1, 2000)", pause=0.5)
    return {"sequencename": "events_id_seq", "relname": "events", "attname": "id", "data_type": "integer"}


async def _widen_the_key(scene: Scene) -> None:
    await scene.clear()
    await scene.owner("TRUNCATE events")
    await scene.owner("ALTER TABLE events ALTER id TYPE bigint")
    await scene.owner("ALTER SEQUENCE events_id_seq AS bigint")


# 11. Indexes that only cost: one that is there twice, and one that failed to be built.

TWICE = "orders_user_again_idx"


async def _index_carelessly(scene: Scene) -> Culprit:
    await scene.owner(
        "INSERT INTO orders (tenant_id, user_id, total) SELECT 1, i, 20 FROM generate_series(1, 800000) AS i"
    )
    await scene.owner("ANALYZE orders")
    await scene.owner(f"CREATE INDEX {TWICE} ON orders (user_id)")
    await _fail_to_build_an_index(scene)
    return {"indexrelname": NIGHTLY_INDEX, "relname": "orders", "duplicate": TWICE}


async def _drop_the_indexes(scene: Scene) -> None:
    for index in (TWICE, NIGHTLY_INDEX):
        await scene.owner(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")


INCIDENTS: Sequence[Incident] = (
    Incident(
        1,
        "friday-deploy",
        "The Friday deploy: a query without an index, and retries until nobody can log in",
        (
            "pg_connections_available falls to 0; pg_sessions says that dashboard holds them",
            "pg_statements_exec_seconds_total: one queryid takes nearly all the time; /statements has its text",
            "pg_table_seq_tuples_read_total points at orders",
            "the page stays there while logins fail",
        ),
        _deploy_the_dashboard,
        _roll_the_dashboard_back,
    ),
    Incident(
        2,
        "black-friday",
        "Black Friday: a search reads the whole table where an index served it before",
        (
            "pg_statements_exec_seconds_total per pg_statements_calls_total of one queryid rises many times",
            "/statements has its text",
            "pg_table_seq_tuples_read_total points at titles",
        ),
        _plan_worse,
        _plan_well,
        _search_well,
    ),
    Incident(
        3,
        "migration",
        "The one-shot migration: a table is rewritten, and everybody who wants to read it waits",
        (
            "pg_lock_blocker_blocked_sessions names the root: pid, role, application, state and relation",
            "pg_lock_queue_longest_wait_seconds grows for users",
            "/incidents keeps what the sessions did",
        ),
        _migrate,
        _cancel_the_migration,
    ),
    Incident(
        4,
        "nightly-job",
        "2:14 AM: a job left an invalid index; the night after it stops with a lock on orders",
        (
            "pg_index_invalid is 1 for orders_nightly_idx, a day before anything else",
            "pg_lock_blocker_blocked_sessions names the job although it is idle in transaction",
            "pg_lock_longest_wait_seconds grows",
        ),
        _stop_half_way,
        _terminate_the_job,
        _fail_to_build_an_index,
    ),
    Incident(
        5,
        "pinned-horizon",
        "The pinned horizon: a transaction is left open, and VACUUM frees nothing",
        (
            "pg_xmin_horizon_age grows; its labels say pid, user and application of the holder",
            "pg_table_dead_tuples of prices goes beyond pg_table_vacuum_threshold_tuples and stays",
            "pg_session_oldest_seconds{kind='idle in transaction'} grows",
        ),
        _leave_the_notebook_open,
        _close_the_notebook,
    ),
    Incident(
        6,
        "forgotten-slot",
        "The forgotten slot: its reader has gone, and WAL stays",
        (
            "pg_replication_slots_retained_bytes of feed grows, pg_replication_slots_active is 0",
            "pg_replication_slots_safe_wal_size_bytes falls",
            "in the end pg_replication_slots_wal_status says lost",
        ),
        _forget_a_slot,
        _drop_the_slot,
    ),
    Incident(
        8,
        "stale-statistics",
        "Stale statistics: a table grew sixfold without ANALYZE",
        (
            "pg_table_modified_since_analyze_tuples of orders is many times pg_table_analyze_threshold_tuples",
            "pg_table_autovacuum_disabled is 1",
        ),
        _grow_without_analyze,
        _analyze,
    ),
    Incident(
        9,
        "no-backups",
        "Backups that never were: archive_command fails",
        (
            "pg_archiver_failed_total rises, pg_archiver_failing is 1",
            "pg_archiver_ready_files and pg_archiver_ready_oldest_age_seconds grow",
        ),
        _fail_to_archive,
        _archive_again,
    ),
    Incident(
        10,
        "integer-key",
        "The table nobody purged: its integer key comes to an end",
        (
            "pg_sequence_used_ratio of events_id_seq, by the type of the column, is near 0.8 and rises",
            "pg_sequence_remaining_values falls",
        ),
        _take_in_events,
        _widen_the_key,
        _keep_every_event,
    ),
    Incident(
        11,
        "index-debt",
        "Index debt: an index that is there twice, and one that is invalid",
        (
            "pg_index_invalid is 1 for orders_nightly_idx",
            "pg_index_duplicate_bytes names the index and what it is a duplicate of",
        ),
        _index_carelessly,
        _drop_the_indexes,
    ),
)
