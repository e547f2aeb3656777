"""The lock queue of plain `pgvigil demo`: a forgotten transaction, a migration behind it, then all others."""

import asyncio

from exporter.demo.client import Session, once
from exporter.demo.shop import Shop

FIRST_PILE_UP = 3.0
"""Seconds until the first pile-up."""
EVERY = 45.0
"""Seconds from one to the next."""
FORGOTTEN = 18.0
"""Seconds that the transaction behind it stays open."""
MIGRATION_GIVES_UP = "15s"
"""Lock timeout of the migration."""


async def pile_ups(shop: Shop) -> None:
    """Leave a transaction open now and then; a migration waits for it, and all other sessions for the migration."""
    await asyncio.sleep(FIRST_PILE_UP)
    while True:
        await asyncio.gather(
            once(shop, "reporting", "notebook", forgotten_transaction),
            once(shop, "deploy", "migration", migration),
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
