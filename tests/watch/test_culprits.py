"""Who is waited for, as an incident has it: the same sessions that the collectors of locks name."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients import client, waiting
from collectors.test_lock_culprits import parallel_query
from collectors.test_pile_ups import crowd, row
from pages import MONITOR, target
from patience import until
from standby import clone_standby

from exporter.demo.cluster import Cluster
from exporter.scrape.target import Target
from exporter.watch.incidents import Snapshot
from exporter.watch.loop import WatchOptions

both_ends = pytest.mark.parametrize("major", [13, 18])


@pytest.fixture
def shop(major: int, servers: Callable[[int], Cluster]) -> Iterator[Cluster]:
    """The shared server with tables to quarrel about."""
    server = servers(major)
    server.execute(
        "CREATE TABLE orders (id int); CREATE TABLE gate ();"
        " CREATE TABLE many AS SELECT generate_series(1, 10000) AS id; ALTER TABLE many SET (parallel_workers = 2);"
        " CREATE FUNCTION look() RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS"
        " 'BEGIN PERFORM FROM gate; RETURN 1; END'"
    )
    yield server
    server.execute("DROP FUNCTION look; DROP TABLE many; DROP TABLE gate; DROP TABLE orders")


async def incident(server: Cluster) -> tuple[Target, Snapshot]:
    """Look until a wait for a lock is recorded."""
    watched = target(server.dsn(user=MONITOR), watch=WatchOptions(interval=0.1, lock_wait=0.3))
    watched.start()
    try:
        await until(lambda: any(found.kind == "lock_wait" for found in watched.incidents))
    finally:
        await watched.close()
    [found] = [found for found in watched.incidents if found.kind == "lock_wait"]
    return watched, found.snapshots[0]


def by_name(snapshot: Snapshot) -> dict[str, list[Any] | None]:
    """Application -> whom it waits for, by application, or by pid where that is not shown."""
    names = {session["pid"]: session.get("application_name", session["backend_type"]) for session in snapshot.sessions}
    waits = {session["pid"]: session.get("blocked_by") for session in snapshot.sessions}
    return {names[pid]: blocking and [names.get(each, each) for each in blocking] for pid, blocking in waits.items()}


@both_ends
async def test_a_parallel_query_is_one_session_that_of_its_leader(shop: Cluster) -> None:
    async with client(shop, "holder") as holder:
        await holder.execute("BEGIN; LOCK TABLE gate")
        async with parallel_query(shop, "report"), waiting(shop, "victim", "SELECT FROM orders"):
            _, found = await incident(shop)
    assert by_name(found) == {"holder": None, "report": ["holder"], "victim": ["report"]}
    assert found.summary.startswith("2 sessions wait for locks")


@both_ends
async def test_whoever_queues_waits_for_the_one_ahead(shop: Cluster) -> None:
    async with client(shop, "reader") as reader:
        await reader.execute("BEGIN; SELECT FROM orders")
        async with (
            waiting(shop, "alter", "ALTER TABLE orders ADD c int"),
            waiting(shop, "one", "SELECT FROM orders"),
            waiting(shop, "two", "SELECT FROM orders"),
        ):
            _, found = await incident(shop)
    assert by_name(found) == {"reader": None, "alter": ["reader"], "one": ["alter"], "two": ["alter"]}


@both_ends
async def test_a_prepared_transaction_is_named(shop: Cluster) -> None:
    shop.execute("BEGIN; LOCK TABLE orders; PREPARE TRANSACTION 'forgotten'")
    try:
        async with waiting(shop, "victim", "SELECT FROM orders"):
            _, found = await incident(shop)
    finally:
        shop.execute("ROLLBACK PREPARED 'forgotten'")
    assert by_name(found)["victim"] == ["prepared transaction forgotten"]


@both_ends
async def test_on_a_standby_replay_waits_for_the_reader(cluster: Callable[..., Cluster], major: int) -> None:
    """Nobody but replay waits, and then others behind it."""
    primary = cluster(major)
    primary.execute("CREATE TABLE orders (id int)")
    with clone_standby(primary, settings={"max_standby_streaming_delay": "-1"}) as standby:
        async with client(standby, "reader") as reader:
            await reader.execute("BEGIN; SELECT FROM orders")
            primary.execute("ALTER TABLE orders ADD COLUMN c int")
            await until(lambda: standby.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
            _, alone = await incident(standby)
            async with waiting(standby, "behind", "SELECT FROM orders"):
                _, crowded = await incident(standby)
    assert by_name(alone) == {"reader": None, "startup": ["reader"]}
    assert by_name(crowded) == {"reader": None, "startup": ["reader"], "behind": ["startup"]}


@both_ends
@pytest.mark.timeout(300)
async def test_the_culprit_of_a_pile_up_is_shown_and_looking_stays_cheap(
    cluster: Callable[..., Cluster], major: int
) -> None:
    """Three hundred wait for one that is idle; only a hundred sessions are shown, that one first."""
    server = cluster(major, {"max_connections": "400"})
    server.execute("CREATE TABLE crowd (id int PRIMARY KEY, v int); INSERT INTO crowd VALUES (1, 0)")
    async with crowd(server, row(300), 300) as root:
        began = time.monotonic()
        watched, found = await incident(server)
        assert time.monotonic() - began < 20
    first, *others = found.sessions
    assert (first["pid"], first["state"], "blocked_by" in first) == (root, "idle in transaction", False)
    assert sum(bool(session.get("blocked_by")) for session in others) == 99
    assert any(session["blocked_by"] == [root] for session in others)
    assert found.omitted_sessions >= 201
    at_first = int(watched.incidents[0].summary.partition(" sessions wait for locks")[0])
    assert 100 < at_first <= 300  # it says what the first look saw, which on a busy machine comes before the last waits
