"""A database for the tests of one module: sessions in it and pages of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pages import MONITOR, Page, page

from exporter.demo.cluster import Cluster

DATABASE = "of_the_module"


def own_database(server: Cluster) -> Iterator[Cluster]:
    """A server with a database of our own; each module makes a fixture of it."""
    server.execute(f"CREATE DATABASE {DATABASE}")
    yield server
    server.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def page_of(server: Cluster, database: str = DATABASE) -> Page:
    """One scrape by way of that database."""
    return page(server.dsn(database, MONITOR))


@asynccontextmanager
async def session(server: Cluster, database: str = DATABASE) -> AsyncIterator[Any]:
    """A session that stays open."""
    connection = await asyncpg.connect(server.dsn(database))
    try:
        yield connection
    finally:
        await connection.close()


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """The first answer that is true."""
    for _ in range(round(seconds / 0.1)):
        if answer := await check():
            return answer
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")
