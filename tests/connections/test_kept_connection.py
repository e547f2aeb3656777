"""The states of a kept connection, and the places in the budget: no seconds pass, since time is virtual."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from fake_session import FakeServer
from virtual_time import in_virtual_time

from exporter.connections.budget import Budget
from exporter.connections.kept_connection import LOGIN_SECONDS, BackingOff, Closed, KeptConnection, LoggingIn, Open
from exporter.connections.place import Place
from exporter.connections.pool import Pool
from exporter.connections.session import LONGEST_SILENCE_SECONDS
from exporter.errors import BusyError, ConnectError, QueryError


@asynccontextmanager
async def keeping(server: FakeServer, size: int = 5) -> AsyncIterator[tuple[KeptConnection, Budget]]:
    budget = Budget(size, asyncio.get_running_loop().time)
    kept = KeptConnection(server, budget)
    try:
        yield kept, budget
    finally:
        await kept.close()
        await budget.close()


async def why_not(kept: KeptConnection) -> str:
    """The reason why there is no connection."""
    with pytest.raises(ConnectError) as caught:
        await kept.ready(5)
    return str(caught.value.reason)


async def hang(kept: KeptConnection, server: FakeServer) -> None:
    """Get the session stuck."""
    server.on("odd", hangs=True)
    assert kept.session
    with suppress(QueryError):
        await kept.session.fetch("SELECT /* pgvigil:odd */", 1)
    assert kept.session.is_stuck


def test_it_opens_at_the_first_use_and_closes_at_the_end() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with keeping(server) as (kept, budget):
            assert kept.state == Closed()
            session, _ = await kept.ready(5)
            assert isinstance(kept.state, Open)
            assert (await kept.ready(5))[0] is session
            assert budget.count == 1
        assert (kept.state, budget.count, server.open) == (Closed(), 0, 0)

    in_virtual_time(scenario())


def test_logins_that_fail_are_repeated_after_growing_pauses() -> None:
    async def scenario() -> None:
        server, clock = FakeServer(), asyncio.get_running_loop().time
        server.on_login(error=ConnectError("refused", "nobody listens"))
        async with keeping(server) as (kept, budget):
            pauses = []
            for _ in range(6):
                assert await why_not(kept) == "refused"
                assert isinstance(kept.state, BackingOff)
                pauses.append(kept.state.until - clock())
                assert await why_not(kept) == "refused"  # at once, without a login
                await asyncio.sleep(pauses[-1] + 0.01)
            bounds = zip((1, 2, 4, 8, 10, 10), pauses, strict=True)
            assert all(bound / 2 <= pause <= bound for bound, pause in bounds), pauses
            server.off()
            await kept.ready(5)
            assert budget.count == 1

    in_virtual_time(scenario())


def test_a_login_that_takes_long_is_waited_for_not_joined_by_another() -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.on_login(after=20.0)
        async with keeping(server) as (kept, budget):
            for _ in range(4):
                assert await why_not(kept) == "timeout"
                assert isinstance(kept.state, LoggingIn)
                assert budget.count == 1
                await asyncio.sleep(2)
            await asyncio.sleep(10)
            await kept.ready(5)
            assert (len(server.sessions), budget.count) == (1, 1)

    in_virtual_time(scenario())


def test_a_login_that_never_ends_is_left_behind_and_keeps_its_place_until_it_is_over() -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.on_login(hangs=True)
        async with keeping(server, size=2) as (kept, budget):
            for _ in range(12):
                assert await why_not(kept) == "timeout"
                await asyncio.sleep(15)
            assert budget.count == 2  # the one left behind, and the one waited for
            server.off()
            await asyncio.sleep(LONGEST_SILENCE_SECONDS)
            await kept.ready(5)
            assert budget.count == 1

    in_virtual_time(scenario())


def test_after_20_silent_seconds_a_server_that_answers_again_is_found_within_two_scrapes() -> None:
    async def scenario() -> None:
        server, clock = FakeServer(), asyncio.get_running_loop().time
        server.on_login(hangs=True)
        async with keeping(server) as (kept, budget):
            while clock() < 20:
                assert await why_not(kept) == "timeout"
                await asyncio.sleep(1)
            assert budget.count == 1
            server.off()
            server.answering = True
            while not isinstance(kept.state, Open):
                with suppress(ConnectError):
                    await kept.ready(5)
                await asyncio.sleep(1)
            assert clock() <= 20 + 2 * 15
            await asyncio.sleep(1)
            assert budget.count == 1  # the silent login has been given up

    in_virtual_time(scenario())


def test_logins_that_wait_for_a_lock_stay_within_the_budget_although_the_server_answers() -> None:
    async def scenario() -> None:
        server, clock = FakeServer(answering=True), asyncio.get_running_loop().time
        server.on_login(hangs=True)
        async with keeping(server, size=5) as (kept, budget):
            while clock() < 55:
                assert await why_not(kept) == "timeout"
                await asyncio.sleep(1)
            assert budget.count == 2
            while clock() < 500:
                assert await why_not(kept) == "timeout"
                await asyncio.sleep(1)
            assert budget.count == 5

    in_virtual_time(scenario())


def test_a_session_that_answers_again_wins_over_the_login_begun_meanwhile() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with keeping(server) as (kept, budget):
            session, _ = await kept.ready(5)
            server.on("odd", after=30)
            with suppress(QueryError):
                await session.fetch("SELECT /* pgvigil:odd */", 30, patience=1)
            assert await why_not(kept) == "hung"
            server.on_login(hangs=True)
            await asyncio.sleep(10)
            assert await why_not(kept) == "hung"
            assert (isinstance(kept.state, LoggingIn), budget.count) == (True, 2)
            await asyncio.sleep(20)
            assert (await kept.ready(5))[0] is session
            await asyncio.sleep(0)
            assert (isinstance(kept.state, Open), budget.count) == (True, 1)

    in_virtual_time(scenario())


def test_a_session_that_hangs_for_long_is_replaced_and_its_backend_counts() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with keeping(server) as (kept, budget):
            session, _ = await kept.ready(5)
            await hang(kept, server)
            assert await why_not(kept) == "hung"
            await asyncio.sleep(5)
            other, _ = await kept.ready(5)
            assert other is not session
            assert (budget.abandoned, budget.count) == ({session.pid}, 2)
            await budget.end_abandoned(other, 5)
            assert budget.count == 1

    in_virtual_time(scenario())


def test_kept_and_lent_are_never_more_than_the_budget() -> None:
    async def scenario() -> None:
        budget = Budget(5, asyncio.get_running_loop().time)
        lent = [await budget.lend(0) for _ in range(3)]
        with pytest.raises(BusyError, match="none of the 5 connections was free"):
            await budget.lend(0)
        kept = [budget.keep(), budget.keep()]
        assert budget.count == 5
        with pytest.raises(ConnectError, match="all 5 connections"):
            budget.keep()
        for lease in (*lent, *kept):
            await lease.release()
            await lease.release()  # a place is given back once
        assert budget.count == 0

    in_virtual_time(scenario())


def test_the_first_place_that_is_given_back_goes_to_the_one_that_waits() -> None:
    async def scenario() -> None:
        budget = Budget(3, asyncio.get_running_loop().time)
        first = await budget.lend(0)
        waiting = asyncio.create_task(budget.lend(10))
        await asyncio.sleep(5)
        assert not waiting.done()
        await first.release()
        async with await waiting:
            assert budget.count == 1

    in_virtual_time(scenario())


def test_waiting_for_a_place_has_an_end() -> None:
    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        pool = Pool(FakeServer(), 3, clock)
        async with pool.borrowed("postgres"):
            started = clock()
            with pytest.raises(BusyError):
                async with pool.borrowed("shop", timeout=7):
                    pass
            assert clock() - started == 7
        await pool.close()

    in_virtual_time(scenario())


@pytest.mark.parametrize("how", ["error", "cancelled", "no login", "timeout"])
def test_a_borrowed_place_comes_back_however_its_use_ends(how: str) -> None:
    async def scenario() -> None:
        server = FakeServer()
        if how == "no login":
            server.on_login(error=ConnectError("refused", "nobody listens"))
        if how == "timeout":
            server.on_login(after=60)
        pool = Pool(server, 3, asyncio.get_running_loop().time)

        async def use() -> None:
            async with pool.borrowed("shop"):
                if how == "error":
                    raise ValueError
                await asyncio.sleep(1000)

        task = asyncio.create_task(use())
        await asyncio.sleep(5)
        if how == "timeout":
            assert pool.count == 1  # the login goes on, and so does its place
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(60)
        assert (pool.count, server.open) == (0, 0)
        await pool.close()

    in_virtual_time(scenario())


def test_a_login_that_was_left_fails_without_a_trace_in_the_loop() -> None:
    """Its error is retrieved: the loop has nothing to complain of."""

    async def scenario() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        server = FakeServer()
        server.on_login(after=20, error=ConnectError("refused", "nobody listens"))
        pool = Pool(server, 3, asyncio.get_running_loop().time)
        with pytest.raises(ConnectError):
            async with pool.borrowed("shop"):
                pass
        await asyncio.sleep(LOGIN_SECONDS)
        await pool.close()
        assert (pool.count, complaints) == (0, [])

    in_virtual_time(scenario())


HERE, THERE = Place("a", "5432", "192.0.2.1"), Place("b", "5432", "192.0.2.2")


@asynccontextmanager
async def both_stuck(server: FakeServer) -> AsyncIterator[Pool]:
    """Two kept sessions whose server falls silent for half a minute, while another one of the DSN lets us in."""
    server.place = HERE
    pool = Pool(server, 5, asyncio.get_running_loop().time)
    server.on("odd", after=30)
    try:
        for kept in (pool.vital, pool.main):
            session, _ = await kept.ready(5)
            with suppress(QueryError):
                await session.fetch("SELECT /* pgvigil:odd */", 30, patience=1)
        await asyncio.sleep(6)
        server.place = THERE
        yield pool
    finally:
        await pool.close()


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_session_of_the_server_that_was_left_is_not_used_again(seconds: int) -> None:
    """It was stuck, and may answer again by now: the other kept connection has decided."""

    async def scenario() -> None:
        async with both_stuck(server := FakeServer()) as pool:
            assert (await pool.vital.ready(5))[0].place == THERE
            await asyncio.sleep(seconds)
            server.place = HERE
            assert not pool.main.is_ready
            assert (await pool.main.ready(5))[0].place == THERE
            async with pool.borrowed("postgres") as session:
                assert session.place == THERE

    in_virtual_time(scenario())


def test_a_login_that_ends_elsewhere_is_made_again_where_the_others_are() -> None:
    """It began while no session was in use; meanwhile the other one answers again."""

    async def scenario() -> None:
        async with both_stuck(server := FakeServer()) as pool:
            server.on_login(after=20)
            assert await why_not(pool.vital) == "hung"
            server.off()
            await asyncio.sleep(30)
            assert (await pool.main.ready(5))[0].place == HERE
            session, _ = await pool.vital.ready(5)
            assert session.place == HERE
            assert pool.budget.place == HERE

    in_virtual_time(scenario())


def test_a_borrowed_session_ends_when_the_kept_ones_go_elsewhere() -> None:
    async def scenario() -> None:
        async with both_stuck(server := FakeServer()) as pool, pool.borrowed("postgres") as session:
            assert session.place == HERE
            await pool.vital.ready(5)
            assert session.is_lost
            server.on_login(after=2)
            login = asyncio.create_task(_lent(pool))
            await asyncio.sleep(1)
            pool.budget.place = HERE
            with pytest.raises(ConnectError, match="the kept connections went on to a:5432"):
                await login

    in_virtual_time(scenario())


async def _lent(pool: Pool) -> None:
    async with pool.borrowed("postgres"):
        pass
