"""Catalog x server facts -> jobs: a table of servers and what runs on them."""

from dataclasses import replace

import pytest
from collector_files import collector

from exporter.catalog.model import Catalog
from exporter.planning.plan import plan, with_limit
from exporter.planning.server import Extension, Server
from exporter.sql import quoted, signed

STATEMENTS = {"pg_stat_statements": Extension((1, 11), 'odd "schema"')}
PRIMARY = Server((17, 2), False, "app", ("app", "crm"), {"app": {}, "crm": STATEMENTS})
STANDBY = Server((17, 2), True, "app", ("app", "crm"), {"app": {}, "crm": {}})
OLD = Server((13, 23), False, "app", ("app",), {"app": {}})
EXTENSION = {"extension": "pg_stat_statements", "sql": {"1.9": "SELECT 1 AS a FROM {schema}.f()"}}


@pytest.mark.parametrize(
    ("changes", "server", "databases", "reason"),
    [
        ({}, PRIMARY, ["app"], None),
        ({"scope": "database"}, PRIMARY, ["app", "crm"], None),
        ({"enabled": False}, PRIMARY, [], "switched off"),
        ({"role": "standby"}, PRIMARY, [], "runs on a standby only"),
        ({"role": "standby"}, STANDBY, ["app"], None),
        ({"role": "primary"}, STANDBY, [], "runs on a primary only"),
        ({"sql": {14: "a"}}, OLD, [], "has no query for PostgreSQL 13.23"),
        ({"sql": {13: "a", 17: None}}, PRIMARY, [], "has no query for PostgreSQL 17.2"),
        (EXTENSION, PRIMARY, ["crm"], None),
        (EXTENSION, STANDBY, [], "extension pg_stat_statements is not installed"),
        (EXTENSION, OLD, [], "extension pg_stat_statements is not installed"),
        (EXTENSION | {"sql": {"1.12": "a"}}, PRIMARY, [], "has no query for pg_stat_statements 1.11"),
        (EXTENSION | {"scope": "database"}, PRIMARY, ["crm"], None),
        ({"scope": "database", "needs_tables": True}, PRIMARY, ["app", "crm"], None),
        ({"scope": "database", "databases": ["c*"]}, PRIMARY, ["crm"], None),
        ({"scope": "database", "databases": ["x", "app"]}, PRIMARY, ["app"], None),
        (
            {"scope": "database", "databases": ["x", "shop_*"]},
            PRIMARY,
            [],
            "no database that is looked into matches x, shop_*",
        ),
        (
            {"scope": "database", "needs_tables": True},
            replace(PRIMARY, without_tables=frozenset({"app"})),
            ["crm"],
            None,
        ),
        (
            {"scope": "database", "needs_tables": True},
            replace(PRIMARY, without_tables=frozenset({"app", "crm"})),
            [],
            "no database has a table",
        ),
        (
            EXTENSION | {"scope": "database", "needs_tables": True},
            replace(PRIMARY, without_tables=frozenset({"crm"})),
            [],
            "no database has a table",
        ),
    ],
)
def test_where_a_collector_runs_or_why_not(
    changes: dict[str, object], server: Server, databases: list[str], reason: str | None
) -> None:
    found = plan(Catalog((collector(**changes),)), server)
    assert [job.database for job in found.jobs] == databases
    assert found.skipped.get("a") == reason


def test_an_extension_is_addressed_in_the_schema_it_lives_in() -> None:
    [job] = plan(Catalog((collector(**EXTENSION),)), PRIMARY).jobs
    assert job.sql.splitlines()[0] == 'SELECT 1 AS a FROM "odd ""schema""".f()'


def test_whether_it_runs_is_unknown_until_the_extensions_are_listed() -> None:
    found = plan(Catalog((collector(**EXTENSION),)), replace(OLD, extensions={}))
    assert (found.jobs, dict(found.skipped), found.unknown) == ((), {}, ("a",))


@pytest.mark.parametrize(
    ("scope", "cache", "expected"),
    [("database", 60, [300, 60]), ("database", 600, [600, 600]), ("database", 0, [0, 0]), ("server", 60, [60])],
)
def test_a_database_without_a_table_is_looked_into_less_often(scope: str, cache: float, expected: list[float]) -> None:
    """Unless every scrape is to read it anew; what a collector says of the whole server does not depend on it."""
    found = plan(Catalog((collector(scope=scope, cache=cache),)), replace(PRIMARY, without_tables=frozenset({"app"})))
    assert [job.cache for job in found.jobs] == expected


def test_every_query_says_who_asks() -> None:
    assert signed("SELECT 1;\n-- why\n", "locks") == "SELECT 1\n/* pgvigil:locks */"
    [job] = plan(Catalog((collector(limit=3),)), PRIMARY).jobs
    assert job.sql.endswith(f"\n/* pgvigil:{job.collector.name} */")


def test_a_metric_of_another_version_is_left_out() -> None:
    metrics = [
        {"name": "m13", "type": "gauge", "help": "M.", "column": "a", "until": 17},
        {"name": "m17", "type": "gauge", "help": "M.", "column": "b", "since": 17},
    ]
    [job] = plan(Catalog((collector(metrics=metrics),)), PRIMARY).jobs
    assert [metric.name for metric in job.metrics] == ["m17"]


def test_a_collector_whose_metrics_are_all_of_other_versions_is_skipped() -> None:
    metrics = [{"name": "m18", "type": "gauge", "help": "M.", "column": "a", "since": 18}]
    assert plan(Catalog((collector(metrics=metrics),)), PRIMARY).skipped == {"a": "has no query for PostgreSQL 17.2"}


def test_only_samples_of_one_database_carry_its_name() -> None:
    catalog = Catalog((collector(), collector(name="b", scope="database")))
    assert [job.key for job in plan(catalog, PRIMARY).jobs] == [("a", ""), ("b", "app"), ("b", "crm")]


def test_a_limit_counts_and_sums_what_it_cuts() -> None:
    metrics = collector(
        metrics=[{"name": "a_total", "type": "counter", "help": "A.", "column": "a", "rest": True}]
    ).metrics
    sql = with_limit("SELECT 1 AS a;", 7, metrics)
    assert 'CAST(sum("a") OVER () AS float8) AS "pgvigil_sum_a"' in sql
    assert "count(*) OVER () AS pgvigil_rows_in_all" in sql
    assert sql.endswith("LIMIT 7")


@pytest.mark.parametrize(("server", "details"), [(OLD, "SELECT 'old'"), (PRIMARY, "SELECT 'new'")])
def test_details_have_a_query_for_each_version_as_well(server: Server, details: str) -> None:
    queries = {13: "SELECT 'old'", 17: "SELECT 'new';"}
    [job] = plan(Catalog((collector(limit=3, details=queries),)), server).jobs
    assert details in job.sql
    assert job.sql.index("LIMIT 3") < job.sql.index(details)
    assert ";" not in job.sql


def test_details_are_asked_in_the_schema_of_the_extension_as_well() -> None:
    details = "SELECT * FROM {schema}.g(kept.a)"
    [job] = plan(Catalog((collector(**EXTENSION, limit=3, details=details),)), PRIMARY).jobs
    assert 'SELECT * FROM "odd ""schema""".g(kept.a)' in job.sql


def test_an_identifier_is_quoted() -> None:
    assert quoted('a"b') == '"a""b"'
