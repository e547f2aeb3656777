"""Subscriptions: one that copies, applies, fails on a conflict and is disabled, between two databases of a server."""

import time
from collections.abc import Iterator

import pytest
from module_database import page_when
from pages import MONITOR, Page, page
from patience import wait_until

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
    senders = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = 'there'"
    wait_until(lambda: server.value(senders) == 0)
    server.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'there'")
    for database in ("here", "there"):
        server.execute(f"DROP DATABASE {database} WITH (FORCE)")


WAL_RECEIVER_TIMEOUT = 60
"""Seconds after which a subscription without a message is taken for dead; PostgreSQL's default."""

ITEMS = {"datname": "here", "subname": "items"}


def test_a_subscription_shows_its_copy_its_errors_and_that_it_is_disabled(subscriber: Cluster, major: int) -> None:
    copied = page_when(subscriber, lambda p: value(p, "relations", state="ready") == 1, "postgres")
    assert value(copied, "relations", state="init") == 0
    assert value(copied, "enabled") == 1
    assert value(copied, "apply_workers") == 1
    assert value(copied, "sync_workers") == 0
    received = value(copied, "received_bytes_total")
    assert 0 <= time.time() - value(copied, "last_message_timestamp_seconds") < WAL_RECEIVER_TIMEOUT
    subscriber.execute("INSERT INTO item VALUES (3)", "there")
    applied = page_when(subscriber, lambda p: value(p, "received_bytes_total") > received, "postgres")
    position = applied.value("pg_wal_position_bytes")
    assert value(applied, "received_bytes_total") == pytest.approx(position, abs=100_000)
    fails(subscriber, major)
    subscriber.execute("ALTER SUBSCRIPTION items DISABLE", "here")
    disabled = page_when(subscriber, lambda p: value(p, "apply_workers") == 0, "postgres")
    assert value(disabled, "enabled") == 0


def value(found: Page, name: str, **labels: str) -> float:
    return found.value(f"pg_subscription_{name}", **ITEMS, **labels)


def fails(server: Cluster, major: int) -> None:
    """A row that is here already stops the subscription."""
    server.execute("INSERT INTO item VALUES (4)", "here")
    server.execute("INSERT INTO item VALUES (4)", "there")
    if major < 15:
        page_when(server, lambda p: value(p, "apply_workers") == 0, "postgres")
        return
    failed = page_when(server, lambda p: value(p, "apply_errors_total") >= 1, "postgres")
    assert value(failed, "sync_errors_total") == 0
    if major >= 18:
        assert value(failed, "conflicts_total", conflict="insert_exists") >= 1
        assert value(failed, "conflicts_total", conflict="update_missing") == 0


def test_without_subscriptions_there_is_no_series(server: Cluster) -> None:
    found = page(server.dsn(user=MONITOR))
    for name in ("enabled", "relations", "apply_errors_total", "conflicts_total"):
        assert found.series(f"pg_subscription_{name}", subname="other") == []
