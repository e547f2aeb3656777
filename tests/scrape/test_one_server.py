"""A target is one server at a time, whatever its DSN leads to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from clients import until
from pages import MONITOR, Page, scraped, target
from patience import SECONDS
from standby import clone_standby, restart

from exporter.catalog.model import Catalog, Collector
from exporter.demo.cluster import HOST, Cluster
from exporter.scrape.target import Target


def port_of(name: str, **keys: object) -> Collector:
    """Says which server was asked."""
    metric = {"name": name, "type": "gauge", "help": "Port.", "column": "port"}
    sql = "SELECT current_setting('port')::int AS port"
    return Collector.model_validate({"name": name, "help": "Of a test.", "sql": sql, "metrics": [metric], **keys})


PORTS = Catalog((port_of("main_port"), port_of("vital_port", vital=True), port_of("visited_port", scope="database")))


@asynccontextmanager
async def asked(*servers: Cluster, more: str = "") -> AsyncIterator[Target]:
    """A target whose DSN names these servers."""
    hosts, ports = ",".join([HOST] * len(servers)), ",".join(str(server.port) for server in servers)
    made = target(f"host={hosts} port={ports} user={MONITOR} dbname=postgres {more}", PORTS, last_good=0.0)
    try:
        yield made
    finally:
        await made.close()


def ports(page: Page) -> dict[str, float]:
    """Which server each collector asked, in each database."""
    return {
        f"{name} {labels.get('datname', '')}".strip(): value
        for name in ("main_port", "vital_port", "visited_port")
        for labels, value in page.series(name)
    }


def all_of(server: Cluster) -> dict[str, float]:
    """What a page says of one server."""
    return dict.fromkeys(["main_port", "vital_port", "visited_port postgres", "visited_port shop"], server.port)


def with_shop(server: Cluster) -> Cluster:
    """Give a server a database that has to be visited."""
    server.execute("CREATE TABLE one ()")
    server.execute("CREATE DATABASE shop")
    server.execute("CREATE TABLE one ()", "shop")
    return server


async def until_up(of: Target) -> Page:
    """Scrape until the server answers."""

    async def answering() -> Page | None:
        page = await scraped(of)
        return page if page.value("pg_up") else None

    page: Page = await until(answering)
    return page


def logins(server: Cluster) -> int:
    """How often the exporter logged in."""
    log = (server.folder / "server.log").read_text(errors="replace")
    return log.count(f"connection authorized: user={MONITOR} ")


async def test_all_connections_of_a_target_go_to_one_of_several_hosts(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    for interval in ("PROBE_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(f"exporter.connections.login_probe.{interval}", 0.0)
    first, second = (with_shop(cluster(settings={"log_connections": "on"})) for _ in range(2))
    async with asked(first, second) as both:
        assert both.address == f"{HOST}:{first.port}"
        assert ports(await scraped(both)) == all_of(first)
        await asyncio.to_thread(first.stop)
        await until_up(both)
        await asyncio.to_thread(first.start)
        before = logins(first), logins(second)
        scrapes = 0

        async def is_probed() -> bool:
            nonlocal scrapes
            scrapes += 1
            assert ports(await scraped(both)) == all_of(second)
            return logins(second) - before[1] >= scrapes + 2  # one for each visit, the rest of the probe

        await until(is_probed)
        assert both.address == f"{HOST}:{second.port}"
        assert logins(first) == before[0]
        second.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{MONITOR}'")
        assert ports(await until_up(both)) == all_of(first)
        assert both.address == f"{HOST}:{first.port}"


async def test_a_session_that_is_replaced_follows_the_other_one(cluster: Callable[..., Cluster]) -> None:
    first, second = (with_shop(cluster()) for _ in range(2))
    async with asked(first, second) as both:
        await scraped(both)
        await asyncio.to_thread(first.stop)
        await until_up(both)
        await asyncio.to_thread(first.start)
        for kept in (both._parts.pool.main, both._parts.pool.vital):
            await kept.replace()
            assert ports(await scraped(both)) == all_of(second)


async def test_a_standby_that_is_promoted_stays_the_server_while_a_session_lives(
    cluster: Callable[..., Cluster],
) -> None:
    """What a login demands is demanded of the one that decides: later ones would be refused by the same server."""
    primary = with_shop(cluster())
    with clone_standby(primary) as standby:
        async with asked(primary, standby, more="target_session_attrs=standby") as both:
            assert ports(await scraped(both)) == all_of(standby)
            standby.execute("SELECT pg_promote()")
            assert ports(await scraped(both)) == all_of(standby)


async def test_an_answer_before_a_login_is_that_of_the_server_in_use(cluster: Callable[..., Cluster]) -> None:
    """Where a login is silent, another one is tried as soon as that server answers others, not the first of the DSN."""
    first, second = (with_shop(cluster()) for _ in range(2))
    async with asked(first, second) as both, asyncio.timeout(SECONDS):
        await asyncio.to_thread(first.stop)
        await until_up(both)
        await asyncio.to_thread(first.start)
        pool = both._parts.pool
        connector, at = pool.main._connector, pool.budget.destination(is_kept=True)
        assert await connector.is_answering(at)
        await asyncio.to_thread(second.stop)
        assert not await connector.is_answering(at)
        assert await connector.is_answering()


def counted(name: str, **keys: object) -> Collector:
    """Counts tables of a name, once an hour."""
    metric = {"name": name, "type": "gauge", "help": "Tables.", "column": "tables"}
    sql = "SELECT count(*) AS tables FROM pg_class WHERE relname = 'of_old'"
    plain = {"name": name, "help": "Of a test.", "sql": sql, "metrics": [metric], "cache": 3600.0}
    return Collector.model_validate(plain | keys)


HOURLY = Catalog((counted("here"), counted("vitally", vital=True), counted("everywhere", scope="database")))


def tables(page: Page) -> list[float]:
    """What the collectors counted, each in each database; all of it has to be new."""
    assert {value for _, value in page.series("pgvigil_collector_success")} == {1}
    names = ("here", "vitally", "everywhere")
    return [value for name in names for _, value in sorted(page.series(name), key=str)]


async def hourly(dsn: str) -> Target:
    """A target that has read everything, twice within the hour."""
    of = target(dsn, HOURLY)
    for _ in range(2):
        assert tables(await scraped(of)) == [1, 1, 1, 1]
    return of


def old_one(cluster: Callable[..., Cluster]) -> Cluster:
    server = with_shop(cluster())
    for database in ("postgres", "shop"):
        server.execute("CREATE TABLE of_old ()", database)
    return server


@pytest.mark.parametrize("is_seen_down", [True, False])
async def test_nothing_is_served_of_a_server_that_another_one_replaced_at_its_address(
    cluster: Callable[..., Cluster], is_seen_down: bool
) -> None:
    """Of the same version, and with the same system identifier, as a clone would be."""
    old = old_one(cluster)
    of = await hourly(old.dsn(user=MONITOR))
    try:
        await asyncio.to_thread(old.stop)
        if is_seen_down:
            assert [value for _, value in (await scraped(of)).series("here")] == [1]
        with_shop(cluster(port=old.port))
        if is_seen_down:
            await until(lambda: _is_up(of))
        assert tables(await scraped(of)) == [0, 0, 0, 0]
    finally:
        await of.close()


async def _is_up(of: Target) -> bool:
    """Ask only whether it is up, which reads nothing else."""
    return (await of.ping(30)).up


async def test_a_server_that_was_restarted_is_read_again_by_the_first_scrape(cluster: Callable[..., Cluster]) -> None:
    server = old_one(cluster)
    of = await hourly(server.dsn(user=MONITOR))
    try:
        server.execute("DROP TABLE of_old")
        await asyncio.to_thread(restart, server)
        assert tables(await scraped(of)) == [0, 0, 0, 1]
    finally:
        await of.close()


async def test_a_session_that_is_replaced_on_the_same_server_costs_no_result(cluster: Callable[..., Cluster]) -> None:
    server = old_one(cluster)
    of = await hourly(server.dsn(user=MONITOR))
    try:
        server.execute("DROP TABLE of_old")
        server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{MONITOR}'")
        assert tables(await scraped(of)) == [1, 1, 1, 1]
    finally:
        await of.close()
