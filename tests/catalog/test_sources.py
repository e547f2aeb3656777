"""Sources: what several collectors read is named in their files, and stands before the query."""

import re

import pytest
from collector_files import collector
from pydantic import ValidationError

from exporter.catalog.load import BUILT_IN, load

_FUNCTION = re.compile(r"pg_stat_get_activity\(NULL\)|pg_lock_status\(|pg_locks")


def test_a_query_finds_its_sources_before_it() -> None:
    found = collector(sql="SELECT count(*) AS a FROM activity;", sources=["activity", "locks"]).sql_for((14,))
    assert found is not None
    assert found.startswith("WITH activity AS MATERIALIZED (")
    assert "FROM pg_catalog.pg_lock_status()" in found
    assert found.endswith("FROM (\nSELECT count(*) AS a FROM activity\n) AS asked")


@pytest.mark.parametrize(("version", "has_query_id"), [((13,), False), ((14,), True), ((18,), True)])
def test_a_source_has_the_columns_of_its_version(version: tuple[int, ...], has_query_id: bool) -> None:
    assert ("query_id" in str(collector(sql="SELECT 1 AS a", sources=["activity"]).sql_for(version))) == has_query_id


def test_each_version_of_a_source_is_among_the_queries() -> None:
    assert len(list(collector(sql="SELECT 1 AS a", sources=["activity"]).queries())) == 2


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"sources": ["tables"]}, "sources"),
        ({"sources": ["activity", "activity"]}, "named twice"),
        ({"sources": ["activity"], "extension": "pg_stat_statements", "sql": {"1.8": "a"}}, "not with an extension"),
        ({"sources": ["activity"], "kind": "pgbouncer", "sql": "SELECT 1 AS a"}, "not with kind: pgbouncer"),
    ],
)
def test_sources_that_cannot_be_are_refused(more: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        collector(**more)


def test_what_runs_at_every_scrape_reads_sessions_and_locks_as_sources() -> None:
    """So that each function is called once for all of them."""
    every_scrape = [each for each in load(BUILT_IN) if each.kind == "postgresql" and each.cache == 0]
    assert [each.name for each in every_scrape if _FUNCTION.search(each.part_for((18,)) or "")] == []
