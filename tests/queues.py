"""A lock queue as tests of pages need it: of a holder and one that waits, for as long as the test looks."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from pages import MONITOR
from serving import Exporter, serving

from exporter.demo.cluster import SUPERUSER, Cluster


@contextmanager
def running(server: Cluster, **settings: str) -> Iterator[Exporter]:
    """An exporter of a server that takes a lock wait of a second for an incident."""
    with serving(dsn=server.dsn(user=MONITOR), incident_lock_wait="1", **settings) as exporter:
        yield exporter


@contextmanager
def queue(server: Cluster, application: str) -> Iterator[int]:
    """A session idle in transaction that holds up another one; gives its pid."""
    began, over, pids = threading.Event(), threading.Event(), list[int]()

    async def hold() -> None:
        dsn = server.dsn("postgres", SUPERUSER)
        holder = await asyncpg.connect(dsn, ssl="disable", server_settings={"application_name": application})
        waiter = await asyncpg.connect(dsn, ssl="disable", server_settings={"application_name": "checkout"})
        await holder.execute("BEGIN; LOCK TABLE queued; SELECT 'a literal'")
        waiting = asyncio.create_task(waiter.execute("SELECT count(*) FROM queued"))
        pids.append(holder.get_server_pid())
        began.set()
        while not over.is_set():
            await asyncio.sleep(0.1)
        await holder.execute("ROLLBACK")
        await waiting
        await holder.close()
        await waiter.close()

    server.execute("CREATE TABLE queued (id integer)")
    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert began.wait(30)
        yield pids[0]
    finally:
        over.set()
        thread.join()
        server.execute("DROP TABLE queued")
