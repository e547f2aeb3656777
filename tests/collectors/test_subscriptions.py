"""Subscriptions: one that copies, applies, fails on a conflict and is disabled, between two databases of a server."""

import time
from collections.abc import Callable, Iterator

import pytest
from module_database import eventually
from pages import MONITOR, Page, page

from exporter.demo.cluster import HOST, Cluster


@pytest.fixture(scope="module")
def subscriber(server: Cluster) -> Iterator[Cluster]:
    """A server whose database `here` subscribes to the table of its database `there`."""
    server.execute("CREATE DATABASE there")
    server.execute("CREATE DATABASE here")
    server.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE PUBLICATION items FOR TABLE item", "there")
    server.execute("INSERT INTO item VALUES (1), (2)", "there")
    server.execute("SELECT pg_create_logical_replication_slot('items', 'pgoutput')", "there")
    server.execute("CREATE TABLE item (id int PRIMARY KEY)", "here")
    server.execute(
        f"CREATE SUBSCRIPTION items CONNECTION 'host={HOST} port={server.port} user=postgres dbname=there'"
        " PUBLICATION items WITH (create_slot = false)",
        "here",
    )
    yield server
    server.execute("ALTER SUBSCRIPTION items DISABLE", "here")
    server.execute("ALTER SUBSCRIPTION items SET (slot_name = NONE)", "here")
    server.execute("DROP SUBSCRIPTION items", "here")
    eventually_free(server)
    server.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'there'")
    for database in ("here", "there"):
        server.execute(f"DROP DATABASE {database} WITH (FORCE)")


def eventually_free(server: Cluster) -> None:
    """Wait until no sender holds a slot."""
    give_up = time.monotonic() + 10
    while server.value("SELECT count(*) FROM pg_replication_slots WHERE active AND database = 'there'"):
        assert time.monotonic() < give_up
        time.sleep(0.05)


async def reached(server: Cluster, holds: Callable[[Page], object]) -> Page:
    """The first page on which something holds."""

    async def found() -> Page | None:
        now = page(server.dsn(user=MONITOR))
        return now if holds(now) else None

    result: Page = await eventually(found, 20)
    return result


ITEMS = {"datname": "here", "subname": "items"}


async def test_a_subscription_shows_its_copy_its_errors_and_that_it_is_disabled(
    subscriber: Cluster, major: int
) -> None:
    copied = await reached(subscriber, lambda p: value(p, "relations", state="ready") == 1)
    assert value(copied, "relations", state="init") == 0
    assert value(copied, "enabled") == 1
    assert value(copied, "apply_workers") == 1
    assert value(copied, "sync_workers") == 0
    received = value(copied, "received_bytes_total")
    assert value(copied, "last_message_timestamp_seconds") == pytest.approx(time.time(), abs=60)
    subscriber.execute("INSERT INTO item VALUES (3)", "there")
    applied = await reached(subscriber, lambda p: value(p, "received_bytes_total") > received)
    position = applied.value("pg_wal_position_bytes")
    assert value(applied, "received_bytes_total") == pytest.approx(position, abs=100_000)
    await fails(subscriber, major)
    subscriber.execute("ALTER SUBSCRIPTION items DISABLE", "here")
    disabled = await reached(subscriber, lambda p: value(p, "apply_workers") == 0)
    assert value(disabled, "enabled") == 0


def value(found: Page, name: str, **labels: str) -> float:
    return found.value(f"pg_subscription_{name}", **ITEMS, **labels)


async def fails(server: Cluster, major: int) -> None:
    """A row that is here already stops the subscription."""
    server.execute("INSERT INTO item VALUES (4)", "here")
    server.execute("INSERT INTO item VALUES (4)", "there")
    if major < 15:
        await reached(server, lambda p: value(p, "apply_workers") == 0)
        return
    failed = await reached(server, lambda p: value(p, "apply_errors_total") >= 1)
    assert value(failed, "sync_errors_total") == 0
    if major >= 18:
        assert value(failed, "conflicts_total", conflict="insert_exists") >= 1
        assert value(failed, "conflicts_total", conflict="update_missing") == 0


def test_without_subscriptions_there_is_no_series(server: Cluster) -> None:
    found = page(server.dsn(user=MONITOR))
    for name in ("enabled", "relations", "apply_errors_total", "conflicts_total"):
        assert found.series(f"pg_subscription_{name}", subname="other") == []
