"""Incidents of statements that read more than they did before."""

import asyncio

from exporter.demo.scenarios.scene import Culprit, Scenario, Scene

# 1. A dashboard's query that no index serves; clients retry three times over until no connection is left.

# It reads all orders once for each tenant.
DASHBOARD_QUERY = """
    SELECT t.name, (SELECT sum(o.total) FROM orders AS o WHERE o.tenant_id = t.id) AS spent FROM tenants AS t ORDER BY 2
"""


async def _deploy_the_dashboard(scene: Scene) -> Culprit:
    scene.crowd(4, "web", "dashboard", DASHBOARD_QUERY)
    scene.start(_retries, scene)
    return {
        "rolname": "web",
        "application_name": "dashboard",
        "relname": "orders",
        "queryid": await _queryid(scene, "%AS spent FROM tenants%"),
    }


async def _retries(scene: Scene) -> None:
    while True:
        await asyncio.sleep(1)
        scene.crowd(3, "web", "dashboard", DASHBOARD_QUERY)


async def _queryid(scene: Scene, like: str) -> str:
    """The number that the server gave to a statement, as soon as it has run once."""
    while True:
        if rows := await scene.owner("SELECT queryid::text FROM pg_stat_statements WHERE query LIKE $1", like):
            return str(rows[0][0])
        await asyncio.sleep(0.2)


async def _roll_the_dashboard_back(scene: Scene) -> None:
    await scene.terminate("dashboard")


FRIDAY_DEPLOY = Scenario(
    1,
    "friday-deploy",
    "The Friday deploy: a query without an index, and retries until nobody can log in",
    (
        "pg_connections_available falls to 0; pg_sessions says that dashboard holds them",
        "pg_statements_exec_seconds_total: one queryid takes nearly all the time; pg_statement_info has its text",
        "pg_table_seq_tuples_read_total points at orders",
        "the page stays there while logins fail",
    ),
    _deploy_the_dashboard,
    _roll_the_dashboard_back,
)


# 2. A search that an index served, until the planner thought better of it.

SEARCH = "SELECT count(*) FROM titles WHERE lower(name) LIKE 'title 77%'"
TITLES = 1_000_000


async def _search_well(scene: Scene) -> None:
    await scene.owner(
        f"CREATE TABLE titles AS SELECT i AS id, 'Title ' || i AS name FROM generate_series(1, {TITLES}) AS i"
    )
    await scene.owner("CREATE INDEX titles_name_idx ON titles (lower(name) text_pattern_ops)")
    await scene.owner("GRANT SELECT ON titles TO web")
    await scene.owner("ANALYZE titles")
    scene.crowd(4, "web", "search", SEARCH, pause=0.5)


async def _plan_worse(scene: Scene) -> Culprit:
    """Make the search read the whole table. Settings stand in for stale statistics here."""
    await _plan(scene, "off")
    return {"usename": "web", "queryid": await _queryid(scene, "%FROM titles WHERE lower(name)%")}


async def _plan_well(scene: Scene) -> None:
    await _plan(scene, "on")


async def _plan(scene: Scene, switch: str) -> None:
    for way in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
        await scene.owner(f"ALTER ROLE web SET {way} = {switch}")
    await scene.owner("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'search'")


BLACK_FRIDAY = Scenario(
    2,
    "black-friday",
    "Black Friday: a search reads the whole table where an index served it before",
    (
        "pg_statements_exec_seconds_total per pg_statements_calls_total of one queryid rises many times",
        "pg_statement_info has its text, as /statements does",
        "pg_table_seq_tuples_read_total points at titles",
    ),
    _plan_worse,
    _plan_well,
    _search_well,
)


# 8. A table that grew sixfold without ANALYZE: the planner's statistics are stale.


async def _grow_without_analyze(scene: Scene) -> Culprit:
    await scene.owner("ALTER TABLE orders SET (autovacuum_enabled = false)")
    await scene.owner(
        "INSERT INTO orders (tenant_id, user_id, total) SELECT 51, 7, 20 FROM generate_series(1, 1000000)"
    )
    return {"schemaname": "public", "relname": "orders"}


async def _analyze(scene: Scene) -> None:
    await scene.owner("ALTER TABLE orders RESET (autovacuum_enabled)")
    await scene.owner("ANALYZE orders")


STALE_STATISTICS = Scenario(
    8,
    "stale-statistics",
    "Stale statistics: a table grew sixfold without ANALYZE",
    (
        "pg_table_modified_since_analyze_tuples of orders is many times pg_table_analyze_threshold_tuples",
        "pg_table_autovacuum_disabled is 1",
    ),
    _grow_without_analyze,
    _analyze,
)
