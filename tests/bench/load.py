"""Sessions and locks that are held while exporters are measured."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from bench.data import SMALL

from exporter.demo.cluster import Cluster

ROLE = "app"
_ACTIVE = 20
"""One session in twenty runs a statement; the others are idle."""
_AT_ONCE = 50


@dataclass(frozen=True)
class Load:
    """Number of sessions and locks."""

    sessions: int = 0
    locks: int = 0
    """Advisory locks that one more session holds in an open transaction."""


@contextmanager
def held(cluster: Cluster, load: Load) -> Iterator[None]:
    """Open the sessions and take the locks; they cost neither us nor the server any CPU until they end."""
    if load == Load():
        yield
        return
    cluster.execute(f"CREATE ROLE {ROLE} LOGIN")
    loop = asyncio.new_event_loop()  # runs while sessions open and end, not in between
    try:
        held_open = loop.run_until_complete(_opened(cluster.dsn(SMALL, ROLE), load))
        yield
        loop.run_until_complete(_ended(held_open))
    finally:
        loop.close()
        cluster.query("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = $1", ROLE)
        cluster.execute(f"DROP ROLE {ROLE}")


@dataclass(frozen=True)
class _Held:
    sessions: list[Any]
    asked: list[asyncio.Future[Any]]
    """Statements that run until their session ends."""


async def _opened(dsn: str, load: Load) -> _Held:
    sessions: list[Any] = []
    for first in range(0, load.sessions, _AT_ONCE):
        wanted = min(_AT_ONCE, load.sessions - first)
        sessions += await asyncio.gather(*(asyncpg.connect(dsn, ssl="disable") for _ in range(wanted)))
    asked = [asyncio.ensure_future(each.execute("SELECT pg_sleep(86400)")) for each in sessions[::_ACTIVE]]
    if load.locks:
        holder = await asyncpg.connect(dsn, ssl="disable")
        await holder.execute(f"BEGIN; SELECT pg_advisory_xact_lock(i) FROM generate_series(1, {load.locks}) AS i")
        sessions.append(holder)
    await asyncio.sleep(0.1)  # until the last statement is sent
    return _Held(sessions, asked)


async def _ended(held_open: _Held) -> None:
    for session in held_open.sessions:
        session.terminate()
    await asyncio.gather(*held_open.asked, return_exceptions=True)
