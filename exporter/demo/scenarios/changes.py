"""Incidents that a change of the schema brings."""

from contextlib import suppress

import asyncpg

from exporter.demo.scenarios.scene import Culprit, Scenario, Scene

# 3. A migration that rewrites the table of users under an ACCESS EXCLUSIVE lock.

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


MIGRATION = Scenario(
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
)


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


NIGHTLY_JOB = Scenario(
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
)


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


INDEX_DEBT = Scenario(
    11,
    "index-debt",
    "Index debt: an index that is there twice, and one that is invalid",
    (
        "pg_index_invalid is 1 for orders_nightly_idx",
        "pg_index_duplicate_bytes names the index and what it is a duplicate of",
    ),
    _index_carelessly,
    _drop_the_indexes,
)
