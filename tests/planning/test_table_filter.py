"""Which tables get series of their own: patterns as the shell reads them, and every collector that heeds them."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
from pages import MONITOR, Page, catalog, scraped, target
from servers import NEWEST

from exporter.catalog.model import Catalog, Collector
from exporter.demo.cluster import Cluster
from exporter.planning.table_filter import TableFilter
from exporter.sql import quoted

TABLES = (
    "shop.orders",
    "shop.order_items",
    "audit.log",
    "Audit.log",
    "a+b.c^d",
    "shop.back\\slash",
    "shop.it's",
    "shop.two\nlines",
    "shop.bestellungen_für_österreich",
)


@pytest.fixture(scope="module")
def named(server: Cluster) -> Iterator[Cluster]:
    """The shared server with a database that has a table of each name."""
    server.execute("CREATE DATABASE named")
    for name in TABLES:
        schema, table = map(quoted, name.split(".", 1))
        server.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE {schema}.{table} ()", "named")
    yield server
    server.execute("DROP DATABASE named WITH (FORCE)")


@pytest.mark.parametrize("conforming", ["on", "off"])
@pytest.mark.parametrize(
    ("include", "exclude"),
    [
        ((), ()),
        (("shop.*",), ()),
        (("*.order*", "audit.lo?"), ("*_items",)),
        ((), ("[aA]udit.*", "*\\*")),
        (("*.[!o]*",), ("*[\\'^]*",)),
        (("*+*.*",), ()),
        (("*.*\n*", "*.*ö*"), ()),
        (("*.*^*", "nobody.*"), ()),
    ],
)
def test_patterns_are_those_of_the_shell(
    named: Cluster, include: tuple[str, ...], exclude: tuple[str, ...], conforming: str
) -> None:
    named.execute(f"ALTER DATABASE named SET standard_conforming_strings = {conforming}")
    asked = TableFilter(include, exclude).over(
        "SELECT c.oid, n.nspname || '.' || c.relname AS name FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid >= 16384 AND c.relkind = 'r' ORDER BY name",
        "oid",
    )
    found = {name for _, name in named.query(asked, database="named")}
    wanted = (name for name in TABLES if not include or any(fnmatchcase(name, pattern) for pattern in include))
    assert found == {name for name in wanted if not any(fnmatchcase(name, pattern) for pattern in exclude)}


def test_a_dot_in_a_name_is_no_schema(named: Cluster) -> None:
    named.execute('CREATE TABLE shop."e.log" ()', "named")
    asked = TableFilter(("log",)).over("SELECT oid, relname::text FROM pg_class WHERE relname LIKE '%log'", "oid")
    assert {name for _, name in named.query(asked, database="named")} == {"log"}
    whole = TableFilter(("*.log",)).over("SELECT oid, relname::text FROM pg_class WHERE relname LIKE '%log'", "oid")
    assert {name for _, name in named.query(whole, database="named")} == {"log", "e.log"}  # of schema and table as one
    named.execute('DROP TABLE shop."e.log"', "named")


def test_a_pattern_without_a_dot_is_of_a_table_in_whatever_schema(named: Cluster) -> None:
    asked = TableFilter(("log",)).over("SELECT oid, relnamespace::regnamespace::text FROM pg_class", "oid")
    assert {schema for _, schema in named.query(asked, database="named")} == {"audit", '"Audit"'}


SCENE = """
    CREATE TABLE {0}.parents (id integer PRIMARY KEY);
    CREATE TABLE {0}.children (parent_id bigint REFERENCES {0}.parents, note text);
    CREATE INDEX ON {0}.children (note);
    CREATE INDEX ON {0}.children (note);
    INSERT INTO {0}.parents SELECT generate_series(1, 1000);
    INSERT INTO {0}.children SELECT n, repeat('x', 100) || n FROM generate_series(1, 1000) AS n;
    CREATE TABLE {0}.whole (id integer) PARTITION BY RANGE (id);
    CREATE TABLE {0}.part PARTITION OF {0}.whole FOR VALUES FROM (0) TO (1000);
    INSERT INTO {0}.whole SELECT generate_series(1, 100);
    GRANT USAGE ON SCHEMA {0} TO pgvigil;
    GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO pgvigil;
    ANALYZE {0}.parents; ANALYZE {0}.children; ANALYZE {0}.whole;
"""


@pytest.fixture(scope="module")
def twins(server: Cluster) -> Iterator[Cluster]:
    """The shared server with a database of two schemas that have the same tables."""
    server.execute("CREATE DATABASE twins")
    for schema in ("audit", "shop"):
        server.execute(f"CREATE SCHEMA {schema}", "twins")
        server.execute(SCENE.format(schema), "twins")
    yield server
    server.execute("DROP DATABASE twins WITH (FORCE)")


def heeding() -> list[Collector]:
    """The collectors that tell of tables, on the newest version that is supported."""
    return [each for each in catalog() if each.table and each.sql_for((NEWEST,))]


async def filtered(server: Cluster, tables: TableFilter) -> Page:
    """A page with every collector that tells of tables."""
    switched_on = [each.model_copy(update={"enabled": True}) for each in heeding()]
    others = [
        each.model_copy(update={"limit": None}) if each.name == "table_freeze" else each
        for each in catalog()
        if not each.table
    ]
    of = target(server.dsn("twins", MONITOR), Catalog((*switched_on, *others)), tables=tables)
    try:
        found = await scraped(of)
    finally:
        await of.close()
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
    return found


def tables_of(found: Page) -> dict[str, set[tuple[str, str]]]:
    """Collector that heeds the patterns -> the tables that it tells of."""
    return {
        each.name: {
            (had["schemaname"], had["relname"])
            for metric in each.metrics
            for had, _ in found.series(metric.name, datname="twins")
            if had["schemaname"] in ("audit", "shop")
        }
        for each in heeding()
    }


async def test_only_tables_that_are_chosen_have_series(twins: Cluster) -> None:
    every = await filtered(twins, TableFilter())
    some = await filtered(twins, TableFilter(exclude=("audit.*",)))
    for name, all_of_them in tables_of(every).items():
        assert {schema for schema, _ in all_of_them} == {"audit", "shop"}, name
        assert tables_of(some)[name] == {(schema, table) for schema, table in all_of_them if schema == "shop"}, name
    children = tables_of(await filtered(twins, TableFilter(("children",))))
    assert children["table_access"] == children["indexes"] == {("audit", "children"), ("shop", "children")}


async def test_what_concerns_the_whole_server_is_told_of_every_table(twins: Cluster) -> None:
    """A table that nobody wants to see can bring the server down all the same."""
    found = await filtered(twins, TableFilter(("nobody.*",)))
    assert {name for name, tables in tables_of(found).items() if tables} == set()
    frozen = {(had["schemaname"], had["relname"]) for had, _ in found.series("pg_table_xid_age", datname="twins")}
    assert frozen >= {("audit", "children"), ("shop", "children")}
