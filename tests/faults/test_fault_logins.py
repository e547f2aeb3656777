"""Catalogs that a login reads are locked for longer than anything of ours waits: backends of ours never pile up."""

import time
from collections.abc import Callable

import asyncpg
import pytest
from clients import client
from faults.harness import BUDGET, LOCK_SECONDS, exporting, reason, timed, until_whole
from pages import MONITOR, uncached
from patience import until
from pydantic import SecretStr

from exporter.connections import kept_connection, postgres
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster
from exporter.errors import ConnectError

both_ends = pytest.mark.parametrize("major", [13, 18])

WAITING = """
SELECT count(DISTINCT l.pid)
  FROM pg_catalog.pg_locks AS l
 WHERE NOT l.granted
   AND l.relation IN ('pg_authid'::regclass, 'pg_database'::regclass, 'pg_db_role_setting'::regclass)
"""
"""A backend that has yet to log in is in no list of sessions, but in the lock table."""


async def waiting(holder: asyncpg.Connection) -> int:
    """Count the logins that wait for a lock; the catalogs have been read before, so that the holder waits for none."""
    found: int = await holder.fetchval(WAITING)
    return found


async def locks(holder: asyncpg.Connection, catalog: str) -> None:
    """Lock a catalog for good."""
    await waiting(holder)
    await holder.execute(f"BEGIN; LOCK TABLE {catalog} IN ACCESS EXCLUSIVE MODE")


@both_ends
async def test_a_login_waits_for_no_lock_on_the_settings_of_roles(
    servers: Callable[[int], Cluster], major: int
) -> None:
    """PostgreSQL reads them after it knows the role, with the limit that came with the login."""
    server = servers(major)
    async with client(server, "holder") as holder:
        await locks(holder, "pg_db_role_setting")
        with pytest.raises(ConnectError) as caught:
            await Postgres(SecretStr(server.dsn(user=MONITOR)), connect_timeout=LOCK_SECONDS).connect()
        assert (caught.value.reason, "55P03" in str(caught.value)) == ("timeout", True)
        await until(lambda: _none_waits(holder))
        async with exporting(server.dsn(user=MONITOR)) as new:
            assert reason((await timed(new, 1.5)).page) == "timeout"
            await until(lambda: _none_waits(holder))
            await holder.execute("ROLLBACK")
            await until_whole(new, scrapes=15)


async def _none_waits(holder: asyncpg.Connection) -> bool:
    return await waiting(holder) == 0


@both_ends
@pytest.mark.parametrize("catalog", ["pg_authid", "pg_database"])
async def test_logins_that_are_given_up_count_until_their_backends_are_gone(
    cluster: Callable[..., Cluster], major: int, catalog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes of a locked catalog, in seconds: a backend that waits is not told that its client has left."""
    monkeypatch.setattr(postgres, "LONGEST_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(kept_connection, "LOGIN_SECONDS", 0.5)
    server = cluster(major)
    for name in ("shop", "blog", "wiki"):
        server.execute(f"CREATE DATABASE {name}")
    async with client(server, "holder") as holder:
        await locks(holder, catalog)
        async with exporting(server.dsn(user=MONITOR), uncached()) as new:
            over, most = time.monotonic() + 12, 0
            while time.monotonic() < over:
                page = (await timed(new, 1.0)).page
                assert page.value("pg_up") == 0
                assert page.value("pgvigil_connections") <= BUDGET
                most = max(most, await waiting(holder))
            assert 1 <= most <= BUDGET
            await holder.execute("ROLLBACK")
            await until_whole(new, scrapes=15)
