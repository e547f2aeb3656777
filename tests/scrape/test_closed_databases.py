"""Databases that the role may not connect to: the page names them, since their tables have no series."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pages import MONITOR, page, scraped, target, written

from exporter.demo.cluster import Cluster
from exporter.exposition.self_metrics import _MOST_CLOSED
from exporter.planning.database_filter import DatabaseFilter

CLOSED = "pgvigil_database_closed"


@pytest.fixture(scope="module")
def revoked(server: Cluster) -> Iterator[Cluster]:
    """A server with databases that are closed to the public, for one reason or another, and one that is open."""
    names = ["shut", "shut_too", "open", "rdsadmin", "no_connections", "a_template"]
    for name in names:
        server.execute(f"CREATE DATABASE {name}")
        if name != "open":
            server.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    server.execute("ALTER DATABASE no_connections ALLOW_CONNECTIONS false")
    server.execute("ALTER DATABASE a_template IS_TEMPLATE true")
    yield server
    server.execute("ALTER DATABASE a_template IS_TEMPLATE false")
    for name in names:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def closed(server: Cluster, database_filter: DatabaseFilter | None = None) -> dict[str, float]:
    """The databases that a page calls closed."""
    found = page(server.dsn(user=MONITOR), databases=database_filter or DatabaseFilter())
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
    return {labels["datname"]: value for labels, value in found.series(CLOSED)}


def test_a_database_that_the_role_may_not_connect_to_is_on_the_page(
    revoked: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    assert closed(revoked) == {"shut": 1, "shut_too": 1}
    [record] = [each for each in caplog.records if "CONNECT was not granted" in each.message]
    assert getattr(record, "datname", "") == "shut, shut_too"
    assert closed(revoked, DatabaseFilter(exclude=("shut*",))) == {}
    assert closed(revoked, DatabaseFilter(include=("open", "*_too"))) == {"shut_too": 1}
    revoked.execute(f"GRANT CONNECT ON DATABASE shut TO {MONITOR}")
    assert closed(revoked) == {"shut_too": 1}
    revoked.execute(f"REVOKE CONNECT ON DATABASE shut FROM {MONITOR}")


async def test_a_host_of_many_tenants_has_a_bounded_number_of_series(server18: Cluster) -> None:
    made = target(server18.dsn(user=MONITOR))
    try:
        await scraped(made)
        many = tuple(f"tenant_{number:04}" for number in range(2000))
        found = written(replace(await made.scrape(30), closed=many))
    finally:
        await made.close()
    series = {labels["datname"]: value for labels, value in found.series(CLOSED)}
    assert len(series) == _MOST_CLOSED + 1
    assert sum(series.values()) == len(many)


def test_a_database_that_lets_nobody_in_is_not_tried(server18: Cluster) -> None:
    """PostgreSQL adds the seconds since the year 2000 to its session time for each login that it refuses."""
    server18.execute("CREATE DATABASE nobody CONNECTION LIMIT 0")
    try:
        for _ in range(2):
            found = page(server18.dsn(user=MONITOR))
        refused = server18.value("SELECT sessions_fatal FROM pg_stat_database WHERE datname = 'nobody'")
    finally:
        server18.execute("DROP DATABASE nobody")
    assert refused == 0
    assert {value for _, value in found.series("pg_database_session_seconds_total", datname="nobody")} <= {0}
    assert found.series("pgvigil_collector_success", datname="nobody") == []
