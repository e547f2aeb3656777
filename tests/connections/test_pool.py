"""The connections of a target on a real server: kept, lent, stuck, abandoned, replaced."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import pytest
from clients import until
from pages import MONITOR
from pydantic import SecretStr

from exporter.connections.budget import Budget
from exporter.connections.kept_connection import KeptConnection
from exporter.connections.postgres import Postgres
from exporter.connections.session import Session
from exporter.demo.cluster import Cluster, free_port
from exporter.errors import ConnectError


@pytest.fixture
def postgres(server18: Cluster) -> Postgres:
    """The shared server, as the exporter's role sees it."""
    return Postgres(SecretStr(server18.dsn(user=MONITOR)))


@pytest.fixture
def budget() -> Budget:
    """A budget of the default size."""
    return Budget(5)


@pytest.fixture
async def kept(postgres: Postgres, budget: Budget) -> AsyncIterator[KeptConnection]:
    """A connection that is kept, not opened yet."""
    connection = KeptConnection(postgres, budget)
    yield connection
    await connection.close()
    assert budget.count == len(budget.abandoned)


@contextmanager
def stopped(session: Session) -> Iterator[None]:
    """Stop the backend of a session."""
    os.kill(session.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(session.pid, signal.SIGCONT)


async def hang(session: Session) -> None:
    """Wait for the answer of a session that does not answer, for as long as it takes to tell."""
    with suppress(Exception):
        await session.fetch("SELECT 1", 5, patience=0.1)
    assert session.is_stuck


async def test_the_backend_of_a_stuck_session_counts_until_it_is_seen_to_be_gone(
    postgres: Postgres, budget: Budget, kept: KeptConnection, server18: Cluster
) -> None:
    other, _ = await kept.ready(5)
    async with await budget.lend(0) as lease:
        session = await lease.log_in(postgres)
        with stopped(session):
            await hang(session)
            await lease.release()
            assert (budget.abandoned, budget.count) == ({session.pid}, 2)
            await budget.end_abandoned(other, 5)
            assert budget.abandoned == {session.pid}
    await until(lambda: not server18.value("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", session.pid))
    await budget.end_abandoned(other, 5)
    assert (budget.abandoned, budget.count) == (set(), 1)


async def test_a_session_that_works_is_not_stuck(kept: KeptConnection) -> None:
    """The next user waits for its turn, and does not take it for one that cannot be had."""
    session, _ = await kept.ready(5)
    async with kept.lock:
        working = asyncio.create_task(session.fetch("SELECT pg_sleep(0.3)", 5))
        await asyncio.sleep(0.1)
        assert (session.is_usable, kept.is_ready) == (True, True)
        await working


async def test_an_answer_that_nothing_waits_for_blocks_the_session_until_it_has_come(kept: KeptConnection) -> None:
    session, _ = await kept.ready(5)
    asking = asyncio.create_task(session.fetch("SELECT pg_sleep(0.3)", 5))
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (session.is_stuck, session.stuck_on) == (True, "SELECT pg_sleep(0.3)")
    await until(lambda: session.is_usable)
    assert (await kept.ready(5))[0] is session


async def test_no_second_backend_joins_one_that_hangs_for_a_moment(kept: KeptConnection, budget: Budget) -> None:
    session, _ = await kept.ready(5)
    with stopped(session):
        await hang(session)
        with pytest.raises(ConnectError) as caught:
            await kept.ready(5)
        assert (caught.value.reason, kept.is_ready, budget.count) == ("hung", False, 1)
    await until(lambda: kept.is_ready)
    assert (await kept.ready(5))[0] is session


async def test_a_backend_that_hangs_for_long_is_replaced_where_others_answer(
    kept: KeptConnection, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.connections.kept_connection.GIVE_UP_SECONDS", 0.1)
    session, _ = await kept.ready(5)
    with stopped(session):
        await hang(session)
        other, _ = await kept.ready(5)
        assert other is not session
        assert (budget.abandoned, budget.count) == ({session.pid}, 2)


async def test_a_lost_session_is_replaced_at_once(kept: KeptConnection, budget: Budget, server18: Cluster) -> None:
    session, _ = await kept.ready(5)
    server18.execute(f"SELECT pg_terminate_backend({session.pid})")
    other, _ = await kept.ready(5)
    assert other.pid != session.pid
    assert budget.count == 1


async def test_a_server_that_is_not_there_is_not_asked_again_and_again(budget: Budget) -> None:
    """The reason stays known meanwhile, and no place is lost."""
    kept = KeptConnection(Postgres(SecretStr(f"postgresql://u@127.0.0.1:{free_port()}/d")), budget)
    errors = []
    for _ in range(2):
        with pytest.raises(ConnectError) as caught:
            await kept.ready(5)
        errors.append(caught.value)
    assert errors[0] is errors[1]
    assert (errors[0].reason, budget.count) == ("refused", 0)
