"""The clients of the shop, each a coroutine that works until it is cancelled."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import asyncpg

from exporter.demo.shop import TENANTS, USERS, Shop

WEB_SESSIONS = 6
CHANGED_PRICES = 150

FIRST_PILE_UP = 3.0
"""Seconds until the first pile-up."""
EVERY = 45.0
"""Seconds from one to the next."""
FORGOTTEN = 18.0
"""Seconds that the transaction behind it stays open."""
MIGRATION_GIVES_UP = "15s"

# The migration's lock timeout, and what a user may try: terminate the root blocker, stop the server.
TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
AGAIN_AFTER = 1.0

Session = Any
"""An asyncpg connection."""
Work = Callable[[Session], Coroutine[Any, Any, None]]


def everybody(shop: Shop) -> list[Coroutine[Any, Any, None]]:
    """All that goes on in the shop, to be run at once."""
    return [*usual(shop), pile_ups(shop)]


def usual(shop: Shop) -> list[Coroutine[Any, Any, None]]:
    """All of it but the pile-ups."""
    return [
        *(_again_and_again(shop, "web", "web", visits) for _ in range(WEB_SESSIONS)),
        _again_and_again(shop, "billing", "billing", open_orders),
        _again_and_again(shop, "billing", "price-import", price_import),
    ]


async def visits(web: Session) -> None:
    """Log in, look at the orders, fill a cart, and at times buy it."""
    while True:
        user = random.randint(1, USERS)
        tenant = await web.fetchval("SELECT tenant_id FROM users WHERE id = $1", user)
        await web.fetch("SELECT id, placed_at, total FROM orders WHERE user_id = $1 ORDER BY id DESC LIMIT 10", user)
        await web.execute("UPDATE carts SET items = '[1, 2]', touched_at = clock_timestamp() WHERE user_id = $1", user)
        if random.random() < 0.2:
            await web.execute("INSERT INTO orders (tenant_id, user_id, total) VALUES ($1, $2, 20)", tenant, user)
        await asyncio.sleep(random.uniform(0.2, 0.6))


async def open_orders(billing: Session) -> None:
    """Run the bad query: it reads all orders for those of one tenant, since no index leads to them."""
    while True:
        tenant = random.randint(1, TENANTS)
        await billing.fetchrow(
            "SELECT count(*) AS orders, sum(total) AS total FROM orders WHERE tenant_id = $1 AND NOT paid", tenant
        )
        await asyncio.sleep(0.2)


async def price_import(billing: Session) -> None:
    """It uses up a transaction id for each price: hundreds a second where one would do."""
    while True:
        await billing.execute("SELECT import_prices($1)", CHANGED_PRICES)
        await asyncio.sleep(1)


async def pile_ups(shop: Shop) -> None:
    """Leave a transaction open now and then; a migration waits for it, and all other sessions for the migration."""
    await asyncio.sleep(FIRST_PILE_UP)
    while True:
        await asyncio.gather(
            _once(shop, "reporting", "notebook", forgotten_transaction),
            _once(shop, "deploy", "migration", migration),
        )
        await asyncio.sleep(EVERY - FORGOTTEN)


async def forgotten_transaction(reporting: Session) -> None:
    """The report is read, the transaction stays open. The lock that it keeps on users is the weakest there is.

    It keeps no snapshot: the notebook that holds back the xmin horizon is that of scenarios/neglect.py.
    """
    await reporting.execute("BEGIN")
    await reporting.fetchval("SELECT count(*) FROM users")
    await asyncio.sleep(FORGOTTEN)


async def migration(deploy: Session) -> None:
    """Run a migration of a millisecond. It waits for an ACCESS EXCLUSIVE lock, behind which even readers queue."""
    await asyncio.sleep(1)
    await deploy.execute(f"SET lock_timeout = '{MIGRATION_GIVES_UP}'")
    await deploy.execute("ALTER TABLE users ADD COLUMN IF NOT EXISTS last_seen timestamptz")


async def _again_and_again(shop: Shop, role: str, application: str, work: Work) -> None:
    """Work without end, in a new session after any trouble."""
    while True:
        await _once(shop, role, application, work)
        await asyncio.sleep(AGAIN_AFTER)


async def _once(shop: Shop, role: str, application: str, work: Work) -> None:
    """Do some work in a session of its own; trouble with the server ends it."""
    names = {"application_name": application}
    with suppress(*TROUBLE):
        session = await asyncpg.connect(shop.dsn(role), ssl="disable", server_settings=names, timeout=5)
        try:
            await work(session)
        finally:
            session.terminate()  # waits for no answer
