"""Thirty databases, visited one after another within the budget of connections; a real server throughout."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import asyncpg
import pytest
from collector_files import collector
from pages import MONITOR, Page, scraped, target
from servers import NEWEST, build

from exporter.catalog.model import Catalog
from exporter.connections.session import APPLICATION_NAME
from exporter.demo.cluster import FAST, Cluster
from exporter.planning.plan import FULL_LIMITS

NAMES = [f"many_{n:02}" for n in range(30)]
ROUND_SECONDS = 4.0
GAP_SECONDS = 0.25

CLOCK = Catalog(
    (
        collector(
            name="looked",
            sql="SELECT 'it' AS what, date_part('epoch', clock_timestamp()) AS at FROM pg_sleep(0.01)",
            labels=["what"],
            metrics=[{"name": "looked_at", "type": "gauge", "help": "When.", "column": "at"}],
            scope="database",
            cache=0.5,
        ),
    )
)
"""Says of each database when it was looked into; to look takes a hundredth of a second."""


@pytest.fixture(scope="module")
def many() -> Iterator[Cluster]:
    """A server of our own with thirty databases, which need not be dropped one by one."""
    with Cluster(build(NEWEST), settings=FAST) as server:
        server.execute(f"CREATE ROLE {MONITOR} LOGIN; GRANT pg_monitor TO {MONITOR}")
        server.execute(f"CREATE DATABASE {NAMES[0]}")
        server.execute("CREATE TABLE one ()", NAMES[0])  # a database without a table is seldom looked into
        for name in NAMES[1:]:
            server.execute(f"CREATE DATABASE {name} TEMPLATE {NAMES[0]}")
        yield server


@asynccontextmanager
async def counted(server: Cluster) -> AsyncIterator[list[int]]:
    """Look all the time how many connections of the exporter there are."""
    connection = await asyncpg.connect(server.dsn())
    seen: list[int] = []

    async def look() -> None:
        while True:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
            seen.append(await connection.fetchval(sql, APPLICATION_NAME))
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await connection.close()


def looked_at(page: Page) -> dict[str, float]:
    return {labels["datname"]: at for labels, at in page.series("looked_at")}


@pytest.mark.full
async def test_each_database_is_visited_in_its_turn_and_none_starves(
    many: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What costs more than the budget runs once a round; the longest round is four seconds here instead of minutes."""
    monkeypatch.setattr("exporter.schedule.cost_budget.LONGEST_INTERVAL_SECONDS", ROUND_SECONDS)
    watched = target(many.dsn(user=MONITOR), CLOCK, cost_budget=0.001)
    visits: dict[str, set[float]] = {name: set() for name in NAMES}
    async with counted(many) as connections:
        first = await scraped(watched)
        while min(map(len, visits.values())) < 5:
            page = await scraped(watched)
            for name in NAMES:
                visits[name].add(looked_at(page)[name])
            counts = Counter(map(len, visits.values()))
            assert max(counts) - min(counts) <= 2, counts
            await asyncio.sleep(GAP_SECONDS)
    await watched.close()
    assert looked_at(first).keys() >= set(NAMES), "the first page has all of them"
    assert 3 <= max(connections) <= 5
    assert page.value("pgvigil_database_visit_interval_seconds") == ROUND_SECONDS


@pytest.mark.full
async def test_what_is_due_at_the_next_visit_waits_for_it(many: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Visits are two seconds apart; what is kept for four does not run at each of them."""
    monkeypatch.setattr("exporter.schedule.schedule.USUAL_SCRAPE_INTERVAL", GAP_SECONDS)
    often, seldom = (
        collector(
            name=name,
            sql="SELECT date_part('epoch', clock_timestamp()) AS at",
            metrics=[{"name": name, "type": "gauge", "help": "When.", "column": "at"}],
            scope="database",
            cache=cache,
        )
        for name, cache in (("often", 2.0), ("seldom", 4.0))
    )
    watched = target(many.dsn(user=MONITOR), Catalog((often, seldom)))
    runs: dict[str, list[float]] = {"often": [], "seldom": []}
    while len(runs["seldom"]) < 4:
        page = await scraped(watched)
        for name, times in runs.items():
            times += [at for labels, at in page.series(name) if labels["datname"] == NAMES[0] and at not in times]
        await asyncio.sleep(GAP_SECONDS)
    await watched.close()
    assert len(runs["often"]) > 4
    assert min(later - earlier for earlier, later in pairwise(runs["seldom"])) > 2.1


async def test_databases_that_let_nobody_in_keep_no_other_from_its_visit(many: Cluster) -> None:
    """They come first by name, and more of them than visitors: each page tries some, and the others have their turn."""
    shut = NAMES[:4]
    async with AsyncExitStack() as stack:
        for name in shut:
            many.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 1")
            stack.callback(many.execute, f"ALTER DATABASE {name} CONNECTION LIMIT -1")
            stack.push_async_callback((await asyncpg.connect(many.dsn(name, MONITOR), ssl="disable")).close)
        watched = target(many.dsn(user=MONITOR), CLOCK)
        stack.push_async_callback(watched.close)
        pages = [await scraped(watched) for _ in range(4)]
    assert looked_at(pages[-1]).keys() >= set(NAMES[4:])
    for name in shut:
        assert pages[-1].value("pgvigil_collector_success", collector="looked", datname=name) == 0
        assert pages[-1].value("pgvigil_collector_errors_total", datname=name, reason="connection") >= 1


@pytest.mark.full
async def test_databases_whose_logins_are_rejected_are_seldom_asked(many: Cluster) -> None:
    """Of 31 each one after almost eight seconds: a login in vain costs the server a process all the same."""
    hba = many.data / "pg_hba.conf"
    before = hba.read_text()

    def login(rejected: bool) -> None:
        hba.write_text(f"host {','.join(NAMES)} {MONITOR} 127.0.0.1/32 reject\n{before}" if rejected else before)
        many.execute("SELECT pg_reload_conf()")

    async def visits() -> float:
        return (await scraped(watched)).value("pgvigil_database_visits_total")

    watched = target(many.dsn(user=MONITOR), CLOCK)
    try:
        login(rejected=True)
        while await visits() < len(NAMES):
            await asyncio.sleep(GAP_SECONDS)
        page = await scraped(watched)
        assert page.series("pgvigil_collector_errors_total", reason="connection")
        assert looked_at(page).keys() == {"postgres"}
        tried = [await visits() for _ in range(3)]
        assert tried == [len(NAMES)] * 3
        login(rejected=False)
        while not looked_at(await scraped(watched)).keys() >= set(NAMES):
            await asyncio.sleep(GAP_SECONDS)
    finally:
        login(rejected=False)
        await watched.close()


async def test_many_databases_share_the_rows_of_a_limit_and_what_is_cut_is_said(many: Cluster) -> None:
    """The page does not grow with their number, nor does what it says of the exporter itself."""
    cut = collector(
        name="cut",
        sql="SELECT i::text AS what, 1 AS one FROM generate_series(1, 100) AS i",
        labels=["what"],
        metrics=[{"name": "ones_total", "type": "counter", "help": "One.", "column": "one", "rest": True}],
        scope="database",
        limit=10,
    )
    watched = target(many.dsn(user=MONITOR), Catalog((cut,)))
    found = await scraped(watched)
    databases = len(watched.plan.by_database)
    await watched.close()
    rows = 10 * FULL_LIMITS // databases
    assert (databases, rows) == (31, 8)
    assert len(found.series("ones_total")) == databases * rows
    assert len(found.series("pgvigil_collector_success")) == databases
    assert found.series("pgvigil_collector_truncated_rows") == [
        ({"collector": "cut", "datname": ""}, databases * (100 - rows))
    ]
    assert found.value("pgvigil_collector_truncated_value", metric="ones_total") == databases * (100 - rows)
    assert found.value("pgvigil_collector_truncated_ratio", metric="ones_total") == pytest.approx(1 - rows / 100)
