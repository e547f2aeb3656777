"""The steps that the page proposes do on a real server what they say, and nothing else."""

import asyncio
from typing import Any

import asyncpg
import pytest
from pages import line
from patience import until

from exporter.demo.cluster import Cluster
from exporter.diagnosis.connections import connections
from exporter.diagnosis.readings import Readings
from exporter.sql import literal


async def opened(server: Cluster, application: str) -> asyncpg.Connection:
    """A session of the role `pooled`."""
    named = {"application_name": application}
    return await asyncpg.connect(server.dsn(user="pooled"), ssl="disable", server_settings=named)


@pytest.mark.parametrize("application", ["web", "", "it\\'; DROP TABLE kept; --"])
@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_sessions_are_ended_but_for_that_of_whoever_ends_them(
    application: str, conforming: str, server18: Cluster
) -> None:
    admin = await asyncpg.connect(server18.dsn(), ssl="disable")
    await admin.execute("CREATE ROLE pooled SUPERUSER LOGIN; CREATE TABLE IF NOT EXISTS kept ()")
    try:
        who = {"usename": "pooled", "application_name": application}
        page = line("pg_connections_used", 99) + line("pg_connections_available", 1) + line("pg_connections_max", 100)
        page += line("pg_sessions", 99, {**who, "state": "idle"})
        [finding] = connections(Readings.of_page(page), 0.0)
        [step] = finding.remedies
        mine = await opened(server18, "psql" if application else "")
        others = [await opened(server18, application) for _ in range(3)]
        exporter = await opened(server18, "pgvigil")
        await mine.execute(f"SET standard_conforming_strings = {conforming}")
        await mine.execute(step.sql)  # all of it at once, as whoever pastes it would
        left = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE usename = 'pooled'"
        kept = sorted([mine.get_server_pid(), exporter.get_server_pid()])
        await until(lambda: _is(admin.fetchval(left), kept))
        assert await admin.fetchval("SELECT to_regclass('kept') IS NOT NULL")
        for each in (mine, exporter, *others):
            each.terminate()
    finally:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pooled'")
        await admin.execute("DROP TABLE kept; DROP ROLE pooled")
        await admin.close()


async def test_whoever_cancels_and_ends_active_sessions_is_none_of_them(server18: Cluster) -> None:
    admin = await asyncpg.connect(server18.dsn(), ssl="disable")
    await admin.execute("CREATE ROLE pooled SUPERUSER LOGIN")
    try:
        who = {"usename": "pooled", "application_name": ""}
        page = line("pg_connections_used", 99) + line("pg_connections_available", 1) + line("pg_connections_max", 100)
        page += line("pg_sessions", 99, {**who, "state": "active"})
        [finding] = connections(Readings.of_page(page), 0.0)
        mine, other = await opened(server18, ""), await opened(server18, "")
        running = asyncio.create_task(other.fetchval("SELECT pg_sleep(600)"))
        active = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pooled' AND wait_event = 'PgSleep'"
        await until(lambda: _is(admin.fetchval(active), 1))
        cancel, end = finding.remedies
        await mine.execute(cancel.sql)
        with pytest.raises(asyncpg.QueryCanceledError):
            await running
        await mine.execute(end.sql)
        await until(lambda: _closed(other))
        assert not mine.is_closed()
        mine.terminate()
    finally:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pooled'")
        await admin.execute("DROP ROLE pooled")
        await admin.close()


async def _closed(session: asyncpg.Connection) -> bool:
    return bool(session.is_closed())


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


@pytest.mark.parametrize("text", ["plain", "it's", "back\\slash", "both\\'", "\\", "\\\\''"])
@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_a_value_is_the_same_whatever_the_server_takes_a_backslash_for(
    text: str, conforming: str, server18: Cluster
) -> None:
    session = await asyncpg.connect(server18.dsn(), ssl="disable")
    await session.execute(f"SET standard_conforming_strings = {conforming}")
    assert await session.fetchval(f"SELECT {literal(text)}::text") == text
    await session.close()
