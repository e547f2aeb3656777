"""The database that the fixture `database` makes for the tests of one module: sessions in it and pages of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pages import MONITOR, Page, page
from patience import until, wait_until

from exporter.demo.cluster import Cluster

eventually = until

DATABASE = "of_the_module"


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


def page_when(server: Cluster, holds: Callable[[Page], object], database: str = DATABASE) -> Page:
    """The first page on which something holds; before PostgreSQL 15 sessions report late what they did."""
    pages: list[Page] = []

    def asked() -> object:
        pages.append(page_of(server, database))
        return holds(pages[-1])

    wait_until(asked, every=0.2)
    return pages[-1]
