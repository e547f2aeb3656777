"""No connection for the exporter: all are used, a limit is met, a login is refused, ours are ended again and again."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from clients import client, until, waiting
from faults.harness import WATCH, exporting, failing, reason, timed, until_whole, vital, witnessed
from pages import MONITOR, Page, uncached
from pydantic import SecretStr

from exporter.connections.credentials import FromFile
from exporter.connections.login_probe import PROBE_SECONDS
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster
from exporter.scrape.target import Options, Target

TERMINATING_SECONDS = 20

RESERVED: Sequence[tuple[int, Mapping[str, str]]] = [
    (13, {"superuser_reserved_connections": "3"}),
    (18, {"superuser_reserved_connections": "0"}),
    (18, {"superuser_reserved_connections": "2", "reserved_connections": "3"}),
]


async def down_because(dsn: str, why: str) -> None:
    """An exporter that starts now has its page in time, and it says why the server is down."""
    async with exporting(dsn) as fresh:
        for timeout in (1.5, 9.5):
            page = (await timed(fresh, timeout)).page
            assert reason(page) == why
            assert page.series("pg_sessions") == []


@asynccontextmanager
async def taken(cluster: Cluster, user: str = "app") -> AsyncIterator[int]:
    """All connections that a role can have, taken by it; gives their number. Nothing else can connect meanwhile."""
    sessions: list[Any] = []
    try:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                sessions.append(await asyncpg.connect(cluster.dsn(user=user), ssl="disable"))
        yield len(sessions)
    finally:
        for session in sessions:
            session.terminate()


@pytest.mark.parametrize(("major", "reserved"), RESERVED, ids=["13", "18 none reserved", "18 reserved for two kinds"])
async def test_all_connections_are_used_by_others(
    cluster: Callable[..., Cluster], major: int, reserved: Mapping[str, str]
) -> None:
    """One that runs keeps its connections and tells who has the others, and who waits for whom."""
    server = cluster(major, {"max_connections": "80", **reserved})
    server.execute("CREATE ROLE app LOGIN; CREATE TABLE t ()")
    server.execute("CREATE DATABASE other")
    async with exporting(server.dsn(user=MONITOR), uncached()) as running, witnessed(server):
        await until_whole(running)
        async with client(server, "holder") as holder:
            await holder.execute("BEGIN; LOCK TABLE t")
            async with waiting(server, "waiter", "TABLE t"):
                async with taken(server) as number:
                    for timeout in (1.5, 9.5):
                        page = (await timed(running, timeout)).page
                        assert reason(page) == ""
                        assert page.value("pg_connections_available") == 0
                        assert page.value("pg_sessions", usename="app") == number
                        assert page.value("pg_lock_blocker_blocked_sessions", application_name="holder") == 1
                        assert {labels["datname"] for labels, value in successes(page) if value == 0} == {"other"}
                        assert page.series("pg_table_live_tuples", datname="postgres") != []
                        assert page.value("pgvigil_connections") == 2
                    await down_because(server.dsn(user=MONITOR), "too_many_connections")
                    await until(lambda: "connections" in {incident.kind for incident in running.incidents})
                whole = await until_whole(running)
                assert whole.value("pg_lock_blocker_blocked_sessions", application_name="holder") == 1


def successes(page: Page) -> list[tuple[Mapping[str, str], float]]:
    """How each collector fares in each database."""
    return page.series("pgvigil_collector_success")


LIMITS = {
    "role": (f"ALTER ROLE {MONITOR} CONNECTION LIMIT 2", f"ALTER ROLE {MONITOR} CONNECTION LIMIT -1"),
    "database": (
        "ALTER DATABASE postgres CONNECTION LIMIT 0",
        "ALTER DATABASE postgres CONNECTION LIMIT -1",
    ),
}


@pytest.mark.parametrize("what", LIMITS)
@pytest.mark.parametrize("major", [13, 18])
async def test_a_connection_limit_is_met(cluster: Callable[..., Cluster], major: int, what: str) -> None:
    """The connections that are there keep working; who has none waits for the limit to be raised."""
    server = cluster(major)
    limit, no_limit = LIMITS[what]
    async with witnessed(server), exporting(server.dsn(user=MONITOR), uncached()) as running:
        await until_whole(running)
        server.execute(limit)
        for timeout in (1.5, 9.5):
            page = (await timed(running, timeout)).page
            assert (reason(page), failing(page)) == ("", set())
        async with exporting(server.dsn(user=MONITOR)) as fresh:
            for timeout in (1.5, 9.5):
                page = (await timed(fresh, timeout)).page
                assert reason(page) == "too_many_connections"
                assert page.series("pg_sessions") == []
            server.execute(no_limit)
            await until_whole(fresh, scrapes=3)
        await until_whole(running)


@pytest.mark.parametrize("major", [13, 18])
async def test_a_role_that_may_have_a_single_connection_does_everything_on_it(
    cluster: Callable[..., Cluster], major: int
) -> None:
    """Two that log in at once would both be refused; one after the other, the first serves both from the first page."""
    server = cluster(major)
    server.execute(f"ALTER ROLE {MONITOR} CONNECTION LIMIT 1")
    async with witnessed(server) as seen, exporting(server.dsn(user=MONITOR), uncached()) as alone:
        await until_whole(alone, scrapes=1)
        await until(lambda: seen.backends > 0)
    assert seen.backends == 1


async def test_a_database_that_lets_nobody_in_costs_only_its_own_collectors(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    server.execute("CREATE DATABASE other")
    async with witnessed(server), exporting(server.dsn(user=MONITOR), uncached()) as running:
        await until_whole(running)
        server.execute("ALTER DATABASE other CONNECTION LIMIT 0")
        for timeout in (1.5, 9.5):
            page = (await timed(running, timeout)).page
            assert reason(page) == ""
            assert {labels["datname"] for labels, value in successes(page) if value == 0} == {"other"}
            assert page.value("pgvigil_collector_age_seconds", collector="table_vacuum", datname="other") > 0
            assert page.value("pgvigil_collector_errors_total", collector="table_vacuum", datname="other") > 0
        server.execute("ALTER DATABASE other CONNECTION LIMIT -1")
        await until_whole(running)


@pytest.fixture
def locked_out(cluster: Callable[..., Cluster]) -> tuple[Cluster, Callable[[bool], None]]:
    """A server, and a way to have its pg_hba.conf reject our role, or let it in."""
    server = cluster()
    path = server.data / "pg_hba.conf"
    before = path.read_text()

    def set_out(out: bool) -> None:
        path.write_text(f"host all {MONITOR} 127.0.0.1/32 reject\n{before}" if out else before)
        server.execute("SELECT pg_reload_conf()")

    return server, set_out


async def logs_in(server: Cluster) -> bool:
    """Whether our role can log in."""
    try:
        session = await asyncpg.connect(server.dsn(user=MONITOR), ssl="disable")
    except asyncpg.InvalidAuthorizationSpecificationError:
        return False
    await session.close()
    return True


async def test_pg_hba_locks_us_out(locked_out: tuple[Cluster, Callable[[bool], None]]) -> None:
    """It concerns new logins only: what is connected stays so, until something ends it."""
    server, set_out = locked_out

    async def is_out() -> bool:
        return not await logs_in(server)

    async with witnessed(server), exporting(server.dsn(user=MONITOR), uncached()) as running:
        await until_whole(running)
        set_out(True)
        await until(is_out)
        for timeout in (1.5, 9.5):
            page = (await timed(running, timeout)).page
            assert (reason(page), failing(page)) == ("", set())
        await down_because(server.dsn(user=MONITOR), "authentication")
        terminate(server)
        for timeout in (1.5, 9.5):
            page = (await timed(running, timeout)).page
            assert reason(page) == "authentication"
            assert failing(page) >= vital()
            assert page.value("pgvigil_collector_age_seconds", collector="sessions") > 0
            assert page.series("pg_sessions") != []
        set_out(False)
        await until(lambda: logs_in(server))
        await until_whole(running, scrapes=5)


def terminate(server: Cluster) -> None:
    """End all backends of ours."""
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)"
        f" WHERE usesysid = '{MONITOR}'::regrole AND backend_type = 'client backend'"
    )


async def test_the_password_is_changed(
    cluster: Callable[..., Cluster], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file that holds it is read for every connection; no password is ever repeated."""
    server = cluster(auth="scram-sha-256", password="of-the-superuser")
    server.execute(f"ALTER ROLE {MONITOR} PASSWORD 'old-s3cret'")
    file = tmp_path / "password"
    file.write_text("old-s3cret\n")
    running = Target(uncached(), Postgres(SecretStr(server.dsn(user=MONITOR)), FromFile(file)), Options(watch=WATCH))
    running.start()
    try:
        async with witnessed(server):
            await until_whole(running)
            server.execute(f"ALTER ROLE {MONITOR} PASSWORD 'new-s3cret'")
            page = (await timed(running, 1.5)).page
            assert (reason(page), failing(page)) == ("", set())
            terminate(server)
            for timeout in (1.5, 9.5):
                page = (await timed(running, timeout)).page
                assert reason(page) == "authentication"
                assert failing(page) >= vital()
                assert page.series("pg_sessions") != []
            file.write_text("new-s3cret\n")
            await until_whole(running, scrapes=5)
        said = page.text + caplog.text + repr([incident.whole() for incident in running.incidents])
    finally:
        await running.close()
    assert "password authentication failed" in caplog.text
    assert "s3cret" not in said


async def test_our_backends_are_ended_every_second(cluster: Callable[..., Cluster]) -> None:
    """Pages keep coming, and most of them say that the server is up."""
    server = cluster()
    async with witnessed(server), exporting(server.dsn(user=MONITOR), uncached()) as running:
        await until_whole(running)
        ups = []
        give_up = time.monotonic() + TERMINATING_SECONDS
        ending = asyncio.create_task(end_every_second(server))
        while time.monotonic() < give_up:
            for timeout in (1.5, 9.5):
                page = (await timed(running, timeout)).page
                ups.append(page.value("pg_up"))
                assert page.series("pg_sessions") != []
                await asyncio.sleep(0.2)
        assert not ending.done()
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        assert sum(ups) / len(ups) > 0.5
        await until_whole(running)


async def end_every_second(server: Cluster) -> None:
    """End all backends of ours, again and again."""
    while True:
        await asyncio.to_thread(terminate, server)
        await asyncio.sleep(1)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("major", [13, 18])
async def test_the_postmaster_is_stopped_while_its_backends_live(cluster: Callable[..., Cluster], major: int) -> None:
    """The page is whole and the server up, on the sessions that there are; that nobody gets in is said."""
    server = cluster(major)
    async with witnessed(server), exporting(server.dsn(user=MONITOR), uncached()) as running:
        page = await until_whole(running)
        assert page.value("pg_login_success") == 1
        assert 0 < page.value("pg_login_seconds") < 5
        os.kill(server.pid, signal.SIGSTOP)
        try:
            give_up = time.monotonic() + 2 * PROBE_SECONDS
            while page.value("pg_login_success") == 1:
                assert time.monotonic() < give_up
                await asyncio.sleep(5)
                page = (await timed(running, 4.5)).page
                assert reason(page) == ""
                assert failing(page) & vital() == set()
            for _ in range(6):
                page = (await timed(running, 4.5)).page
                assert (page.value("pg_up"), page.value("pg_login_success")) == (1, 0)
                assert page.value("pg_login_reason", reason="timeout") == 1
                assert page.value("pgvigil_connections") <= 5
                await asyncio.sleep(5)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await until(lambda: logged_in_again(running))
        assert (await timed(running, 4.5)).page.value("pgvigil_connections") <= 3


async def logged_in_again(running: Target) -> bool:
    return (await timed(running, 4.5)).page.value("pg_login_success") == 1
