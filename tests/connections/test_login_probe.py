"""Logins that are tried for their own sake: seldom, within the budget, and never piled up. Time is virtual."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fake_session import FakeServer
from virtual_time import in_virtual_time

from exporter.connections.budget import Budget
from exporter.connections.kept_connection import LOGIN_SECONDS
from exporter.connections.login_probe import PROBE_SECONDS, RETRY_SECONDS, STALE_SECONDS, LoginProbe
from exporter.logs import TargetLog
from exporter.report import Login


@asynccontextmanager
async def probing(server: FakeServer, size: int = 5) -> AsyncIterator[tuple[LoginProbe, Budget]]:
    """A probe beside one session, which is kept."""
    budget = Budget(size, asyncio.get_running_loop().time)
    kept = budget.keep()
    await kept.log_in(server)
    probe = LoginProbe(server, budget, TargetLog(logging.getLogger(__name__), "db1"))
    try:
        yield probe, budget
    finally:
        await probe.close()
        await budget.close()


async def scrapes(server: FakeServer, probe: LoginProbe, seconds: float) -> None:
    """A scrape every five seconds."""
    for _ in range(int(seconds / 5)):
        probe.start(server.sessions[0])
        await asyncio.sleep(5)


def test_it_logs_in_once_a_minute_and_out_at_once() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with probing(server) as (probe, budget):
            probe.start(server.sessions[0])
            assert (probe.latest, len(server.sessions)) == (Login(True, 0.0), 1)  # the login that there was
            await scrapes(server, probe, 10 * PROBE_SECONDS)
            assert len(server.sessions) in (9, 10, 11)
            assert (server.open, budget.count) == (1, 1)

    in_virtual_time(scenario())


def test_the_end_of_the_certificate_is_that_which_the_latest_login_was_shown() -> None:
    async def scenario() -> None:
        server = FakeServer(certificate_expires_at=1000.0)
        async with probing(server) as (probe, _):
            await scrapes(server, probe, 5)
            assert probe.latest == Login(True, 0.0, "", 1000.0)
            server.certificate_expires_at = 2000.0  # renewed and reloaded
            await scrapes(server, probe, PROBE_SECONDS + 10)
            assert probe.latest == Login(True, 0.0, "", 2000.0)
            server.on_login(after=200.0)
            await scrapes(server, probe, PROBE_SECONDS + 10)
            assert probe.latest
            assert (probe.latest.success, probe.latest.certificate_expires_at) == (False, 2000.0)

    in_virtual_time(scenario())


def test_a_login_that_is_not_answered_is_said_and_waited_for_not_joined() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with probing(server) as (probe, budget):
            await scrapes(server, probe, 5)
            server.on_login(after=200.0)
            await scrapes(server, probe, PROBE_SECONDS + 10)
            assert probe.latest
            assert (probe.latest.success, probe.latest.reason) == (False, "timeout")
            await scrapes(server, probe, 150)
            assert budget.count == 2
            server.off()
            await scrapes(server, probe, 60)
            assert probe.latest == Login(True, 0.0)
            assert (server.open, budget.count) == (1, 1)

    in_virtual_time(scenario())


def test_a_login_that_is_lost_is_given_up_once_the_server_answers_others() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with probing(server) as (probe, budget):
            await scrapes(server, probe, 5)
            server.on_login(hangs=True)
            await scrapes(server, probe, PROBE_SECONDS + LOGIN_SECONDS + 30)
            assert (probe.latest and probe.latest.success, budget.count) == (False, 2)
            server.off()
            server.answering = True
            await scrapes(server, probe, 3 * RETRY_SECONDS)
            assert (probe.latest, server.open, budget.count) == (Login(True, 0.0), 1, 1)

    in_virtual_time(scenario())


def test_without_a_place_in_the_budget_it_does_nothing_and_says_nothing_in_the_end() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with probing(server, size=3) as (probe, budget):
            await scrapes(server, probe, 5)
            async with await budget.lend(0):
                await scrapes(server, probe, STALE_SECONDS + 10)
                assert (probe.latest, len(server.sessions)) == (None, 1)
            await scrapes(server, probe, 10)
            assert probe.latest == Login(True, 0.0)

    in_virtual_time(scenario())
