"""Functions by calls and time, as track_functions counts them."""

import time

import pytest
from module_database import DATABASE, page_of, page_when
from pages import Page, catalog, named

from exporter.demo.cluster import Cluster

COLLECTORS = ("functions",)

CALLS = "pg_function_calls_total"
TOTAL = "pg_function_seconds_total"
SELF = "pg_function_self_seconds_total"

INNER, OUTER = 0.03, 0.05
"""Seconds that one call of each function sleeps."""


def called(found: Page, function: str) -> float:
    return sum(value for _, value in found.series(CALLS, funcname=function, datname=DATABASE))


def test_calls_and_seconds_are_counted_with_and_without_the_functions_called(database: Cluster) -> None:
    database.execute(
        f"""
        CREATE FUNCTION inner_one() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep({INNER}); END';
        CREATE FUNCTION outer_one() RETURNS void LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep({OUTER}); PERFORM inner_one(); PERFORM inner_one(); END';
        """,
        DATABASE,
    )
    began_at = time.monotonic()
    database.execute("SET track_functions = pl; SELECT outer_one(); SELECT outer_one(); SELECT outer_one()", DATABASE)
    elapsed = time.monotonic() - began_at
    database.execute("SELECT inner_one()", DATABASE)  # track_functions is none: not counted
    found = page_when(database, lambda page: called(page, "outer_one") == 3)

    inner = {"funcname": "inner_one", "schemaname": "public", "arguments": "", "datname": DATABASE}
    outer = inner | {"funcname": "outer_one"}
    assert found.value(CALLS, **inner) == 6
    assert found.value(CALLS, **outer) == 3
    assert 6 * INNER <= found.value(SELF, **inner) == pytest.approx(found.value(TOTAL, **inner), abs=0.0001)
    assert found.value(SELF, **outer) >= 3 * OUTER
    assert found.value(TOTAL, **outer) == pytest.approx(
        found.value(SELF, **outer) + found.value(TOTAL, **inner), abs=0.0001
    )
    assert 6 * INNER + 3 * OUTER <= found.value(TOTAL, **outer) <= elapsed


def test_functions_of_one_name_are_told_apart_by_their_arguments(database: Cluster) -> None:
    database.execute(
        """
        CREATE FUNCTION twin(i int, t text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
        CREATE FUNCTION twin(t text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 2; END';
        CREATE PROCEDURE twin() LANGUAGE plpgsql AS 'BEGIN END';
        SET track_functions = pl; SELECT twin(1, 'a') FROM generate_series(1, 7); SELECT twin('a'); CALL twin();
        """,
        DATABASE,
    )
    found = page_when(database, lambda page: called(page, "twin") == 9)
    counted = {had["arguments"]: calls for had, calls in found.series(CALLS, funcname="twin")}
    assert counted == {"integer, text": 7, "text": 1, "": 1}


def test_what_the_limit_cuts_is_published_and_takes_the_least_time(database: Cluster) -> None:
    database.execute("CREATE DATABASE many_functions")
    try:
        _check_the_limit(database, "many_functions")
    finally:
        database.execute("DROP DATABASE many_functions WITH (FORCE)")


def _check_the_limit(server: Cluster, datname: str) -> None:
    limit = named(catalog(), "functions").limit
    assert limit
    server.execute(
        f"""
        DO $$ BEGIN FOR i IN 1..{limit + 4} LOOP
            EXECUTE format('CREATE FUNCTION f%s() RETURNS void LANGUAGE plpgsql AS ''BEGIN END''', i);
        END LOOP; END $$;
        CREATE FUNCTION slow() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); END';
        """,
        datname,
    )
    calls = "; ".join(f"SELECT f{i}()" for i in range(1, limit + 5))
    server.execute(f"SET track_functions = pl; {calls}; SELECT slow()", datname)
    cut = {"collector": "functions", "datname": datname}
    found = page_when(
        server,
        lambda page: any(value == 5 for _, value in page.series("pgvigil_collector_truncated_rows", **cut)),
        datname,
    )
    shown = found.series(CALLS, datname=datname)
    assert len(shown) == limit
    assert shown[0][0]["funcname"] == "slow"
    assert found.value("pgvigil_collector_truncated_value", metric=CALLS, **cut) == 5


def test_without_track_functions_there_is_no_series(database: Cluster) -> None:
    database.execute("CREATE FUNCTION unseen() RETURNS void LANGUAGE plpgsql AS 'BEGIN END'; SELECT unseen()", DATABASE)
    found = page_of(database)
    assert not found.series(CALLS, funcname="unseen")
    assert found.value("pgvigil_collector_success", collector="functions", datname=DATABASE) == 1
