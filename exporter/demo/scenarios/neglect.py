"""Incidents that build up unnoticed."""

from exporter.demo.scenarios.scene import Culprit, Scenario, Scene
from exporter.demo.shop import MONITOR

# 5. A notebook left open: it holds back the xmin horizon, so VACUUM removes no row that has died since.
# The one of pile_ups.py has the same role and name but keeps only a lock, for seconds, for which a migration waits.


async def _leave_the_notebook_open(scene: Scene) -> Culprit:
    notebook = await scene.session("reporting", "notebook")
    await notebook.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await notebook.fetchval("SELECT count(*) FROM users")
    scene.crowd(2, "billing", "price-import", "SELECT import_prices(150)", pause=1.0)
    return {"pid": str(notebook.get_server_pid()), "usename": "reporting", "application_name": "notebook"}


async def _close_the_notebook(scene: Scene) -> None:
    await scene.owner("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'notebook'")


PINNED_HORIZON = Scenario(
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
)


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


FORGOTTEN_SLOT = Scenario(
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
)


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


NO_BACKUPS = Scenario(
    9,
    "no-backups",
    "Backups that never were: archive_command fails",
    (
        "pg_archiver_failed_total rises, pg_archiver_failing is 1",
        "pg_archiver_ready_files and pg_archiver_ready_oldest_age_seconds grow",
    ),
    _fail_to_archive,
    _archive_again,
)


# 10. A table of events that is never purged and whose key is an integer.


async def _keep_every_event(scene: Scene) -> None:
    await scene.owner("CREATE TABLE events (id serial PRIMARY KEY, happened_at timestamptz NOT NULL DEFAULT now())")
    await scene.owner("SELECT setval('events_id_seq', 1700000000)")
    await scene.owner("GRANT ALL ON events, events_id_seq TO web")
    await scene.owner(
        f"GRANT SELECT ON events_id_seq TO {MONITOR}"
    )  # without it the exporter cannot read how far it is


async def _take_in_events(scene: Scene) -> Culprit:
    scene.crowd(2, "web", "tracking", "INSERT INTO events SELECT FROM generate_series(1, 2000)", pause=0.5)
    return {"sequencename": "events_id_seq", "relname": "events", "attname": "id", "data_type": "integer"}


async def _widen_the_key(scene: Scene) -> None:
    await scene.clear()
    await scene.owner("TRUNCATE events")
    await scene.owner("ALTER TABLE events ALTER id TYPE bigint")
    await scene.owner("ALTER SEQUENCE events_id_seq AS bigint")


INTEGER_KEY = Scenario(
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
)
