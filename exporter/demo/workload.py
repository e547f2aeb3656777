"""The usual clients of the shop, each a coroutine that works until it is cancelled."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from exporter.demo.client import Session, again_and_again
from exporter.demo.pile_ups import pile_ups
from exporter.demo.shop import TENANTS, USERS, Shop

WEB_SESSIONS = 6
CHANGED_PRICES = 150


def everybody(shop: Shop) -> list[Coroutine[Any, Any, None]]:
    """All that goes on in the shop, to be run at once."""
    return [*usual(shop), pile_ups(shop)]


def usual(shop: Shop) -> list[Coroutine[Any, Any, None]]:
    """All of it but the pile-ups."""
    return [
        *(again_and_again(shop, "web", "web", visits) for _ in range(WEB_SESSIONS)),
        again_and_again(shop, "billing", "billing", open_orders),
        again_and_again(shop, "billing", "price-import", price_import),
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
