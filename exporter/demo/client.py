"""One client of the shop: works in a session of its own, and comes back after trouble with the server."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import asyncpg

from exporter.demo.shop import Shop

TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What comes of a lock timeout, or of what a user may try: to terminate the root blocker, to stop the server."""

AGAIN_AFTER = 1.0
"""Seconds from the trouble to the next session."""

Session = Any
"""An asyncpg connection."""
Work = Callable[[Session], Coroutine[Any, Any, None]]


async def again_and_again(shop: Shop, role: str, application: str, work: Work) -> None:
    """Work without end, in a new session after any trouble."""
    while True:
        await once(shop, role, application, work)
        await asyncio.sleep(AGAIN_AFTER)


async def once(shop: Shop, role: str, application: str, work: Work) -> None:
    """Do some work in a session of its own; trouble with the server ends it."""
    names = {"application_name": application}
    with suppress(*TROUBLE):
        session = await asyncpg.connect(shop.dsn(role), ssl="disable", server_settings=names, timeout=5)
        try:
            await work(session)
        finally:
            session.terminate()  # waits for no answer
