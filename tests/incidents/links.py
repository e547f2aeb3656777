"""The incidents between two servers, which one shop cannot play: the stale replica, and the upgrade."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from faults.harness import network
from incidents.play import Expected, Outcome, measured
from incidents.stage import HEALTHY, PASSWORD, Stage, new_server
from standby import clone_standby

from exporter.demo.cluster import SUPERUSER, Cluster
from exporter.demo.scenarios.scene import Culprit
from exporter.demo.shop import MONITOR

ROLE = f"CREATE ROLE {MONITOR} LOGIN PASSWORD '{PASSWORD}'; GRANT pg_monitor TO {MONITOR}"
WRITE_EVERY = 0.5


@dataclass(frozen=True)
class Link:
    """An incident between two servers."""

    number: int
    title: str


AFTER_THE_STORM = 80
"""Scrapes until the retry storm of incident 1 is over, which is played beside it.

A scrape that the storm makes fail restarts the `for` of an alert; only here do the exporters share a machine.
"""

STALE_REPLICA = Link(7, "The stale replica: its link is cut, and reads show old data")
UPGRADE = Link(12, "The upgrade: the new server cannot apply a change")


async def stale_replica(stage: Stage) -> list[Outcome]:
    """The link swallows everything: neither side is told."""
    expected = [
        Expected("PostgreSQLStandbyNotStreaming", 300, [], "ticket", 600),
        Expected("PostgreSQLReplicaStale", 720, [], "page", 300),
    ]
    folder = stage.folder / "primary"
    async with _started(new_server(folder, HEALTHY)) as primary, network(primary) as link:
        await asyncio.to_thread(primary.execute, ROLE)
        await asyncio.to_thread(primary.execute, "CREATE TABLE writes (at timestamptz)")
        upstream = f"host=127.0.0.1 port={link.port} user={SUPERUSER} password='{PASSWORD}' application_name=replica"
        settings = {"primary_conninfo": upstream}
        standby = await asyncio.to_thread(clone_standby, primary, stage.folder / "standby", settings=settings)
        async with (
            _started(standby),
            stage.watched(primary.dsn(user=MONITOR, password=PASSWORD)),
            stage.watched(standby.dsn(user=MONITOR, password=PASSWORD)) as instance,
            _written(primary),
        ):

            async def cut() -> Culprit:
                link.swallow()
                return {}

            async def mend() -> None:
                link.flow()

            await stage.scraped(instance, times=AFTER_THE_STORM)
            return await measured(stage, STALE_REPLICA, expected, instance, cut, mend)


async def upgrade(stage: Stage) -> list[Outcome]:
    """Somebody wrote to the new server before the cut-over: the row that comes is there already."""
    expected = [
        Expected("PostgreSQLSubscriptionFailing", 90, ["subname", "datname", "conflict"], "page", 1200),
    ]
    async with (
        _started(new_server(stage.folder / "old", HEALTHY)) as old,
        _started(new_server(stage.folder / "new", HEALTHY)) as new,
    ):
        for server in (old, new):
            await asyncio.to_thread(server.execute, ROLE)
            await asyncio.to_thread(server.execute, "CREATE TABLE orders (id int PRIMARY KEY, total int)")
        await asyncio.to_thread(old.execute, "CREATE PUBLICATION upgrade FOR TABLE orders")
        subscribe = f"CREATE SUBSCRIPTION upgrade CONNECTION '{_conninfo(old)}' PUBLICATION upgrade"
        await asyncio.to_thread(new.query, subscribe)
        async with stage.watched(new.dsn(user=MONITOR, password=PASSWORD)) as instance:

            async def write_to_both() -> Culprit:
                await asyncio.to_thread(new.execute, "INSERT INTO orders VALUES (1, 20)")
                await asyncio.to_thread(old.execute, "INSERT INTO orders VALUES (1, 30)")
                return {"subname": "upgrade", "datname": "postgres", "conflict": "insert_exists"}

            async def take_it_back() -> None:
                await asyncio.to_thread(new.execute, "DELETE FROM orders")

            await stage.scraped(instance, times=5)
            return await measured(stage, UPGRADE, expected, instance, write_to_both, take_it_back)


def _conninfo(server: Cluster) -> str:
    return f"host=127.0.0.1 port={server.port} user={SUPERUSER} password=''{PASSWORD}'' dbname=postgres"


@asynccontextmanager
async def _started(server: Cluster) -> AsyncIterator[Cluster]:
    """A server that runs, and is removed in the end; starting it holds up nobody."""
    try:
        await asyncio.to_thread(server.__enter__)
        yield server
    finally:
        await asyncio.to_thread(server.remove)


@asynccontextmanager
async def _written(primary: Cluster) -> AsyncIterator[None]:
    """Somebody writes all the time."""

    async def writes() -> None:
        while True:
            await asyncio.to_thread(primary.execute, "INSERT INTO writes VALUES (now())")
            await asyncio.sleep(WRITE_EVERY)

    task = asyncio.create_task(writes())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


LINKS: Mapping[int, Callable[[Stage], Awaitable[list[Outcome]]]] = {7: stale_replica, 12: upgrade}
