"""Ages a server by more than a billion transactions in seconds, as pg_resetwal can."""

import asyncio
import re
import subprocess
import time

from exporter.demo.build import hand_over
from exporter.demo.cluster import Cluster
from exporter.demo.scenarios.scene import Culprit, Scene
from exporter.demo.shop import Shop

AGE = 1_650_000_000
"""Beyond vacuum_failsafe_age (1.6 billion), before PostgreSQL's own warnings."""
SLOT = "feed"
XIDS_PER_FILE = 32 * 8192 * 4
FREEZE_SECONDS = 90.0


async def forget_a_slot_for_years(scene: Scene, shop: Shop) -> Culprit:
    """A slot that nobody reads keeps the ids of the catalogs; the server goes on to use up ids."""
    await scene.owner("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", SLOT)
    await asyncio.to_thread(_age, shop.cluster)
    return {"slot_name": SLOT, "holder": "replication_slot_catalog", "datname": "shop"}


async def drop_the_slot_and_freeze(scene: Scene, shop: Shop) -> None:
    """Template0 lets nobody in: autovacuum freezes it."""
    await scene.owner("SELECT pg_drop_replication_slot($1)", SLOT)
    for database in ("shop", "postgres", "template1"):
        await asyncio.to_thread(shop.cluster.execute, "VACUUM (FREEZE)", database)
    give_up = time.monotonic() + FREEZE_SECONDS
    while (await scene.owner("SELECT max(age(datfrozenxid)) FROM pg_database"))[0][0] > 200_000_000:
        assert time.monotonic() < give_up, "autovacuum did not freeze template0"
        await asyncio.sleep(1)


def _age(server: Cluster) -> None:
    """Stop it, set its next transaction id, make the file in which the commit of that one is noted, start it."""
    server.stop()
    control = subprocess.run(
        [server.build.bin / "pg_controldata", server.data], capture_output=True, text=True, check=True
    ).stdout
    [next_xid] = re.findall(r"NextXID:\s+\d+:(\d+)", control)
    xid = (int(next_xid) + AGE) // XIDS_PER_FILE * XIDS_PER_FILE
    server._run("pg_resetwal", "-x", str(xid), "-D", str(server.data))
    (server.data / "pg_xact" / f"{xid // XIDS_PER_FILE:04X}").write_bytes(bytes(32 * 8192))
    hand_over(server.data)
    server.start()
