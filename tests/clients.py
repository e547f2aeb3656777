"""Sessions of clients that hold and wait, for tests that need a server in a certain state."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from patience import until

from exporter.demo.cluster import Cluster

__all__ = ["client", "until", "waiting"]


@asynccontextmanager
async def client(server: Cluster, name: str = "test", database: str = "postgres") -> AsyncIterator[Any]:
    """One session of a superuser under an application name; whatever it left open is rolled back."""
    connection = await asyncpg.connect(server.dsn(database), server_settings={"application_name": name})
    pid = connection.get_server_pid()
    try:
        yield connection
    finally:
        connection.terminate()
        server.execute(f"SELECT pg_terminate_backend({pid})")  # one that waits for a lock would not notice
        await until(lambda: not server.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name))


@asynccontextmanager
async def waiting(server: Cluster, name: str, sql: str, database: str = "postgres") -> AsyncIterator[int]:
    """A session whose statement waits for a lock; gives its pid once it does."""
    async with client(server, name, database) as connection:
        pid: int = connection.get_server_pid()
        task = asyncio.create_task(connection.execute(sql))
        await until(lambda: server.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1", pid))
        try:
            yield pid
        finally:
            connection.terminate()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
