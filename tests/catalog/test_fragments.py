"""Fragments: what differs by version is written once, and the rest of a query is not repeated."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from collector_files import collector

from exporter.catalog.by_version import Version
from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Collector
from exporter.errors import CatalogError

SINCE = {13: "a.query_start", 15: "l.waitstart", 18: None}


@pytest.mark.parametrize(
    ("version", "query"),
    [
        ((12,), None),
        ((13,), "SELECT a.query_start AS a"),
        ((14, 9), "SELECT a.query_start AS a"),
        ((15,), "SELECT l.waitstart AS a"),
        ((17, 2), "SELECT l.waitstart AS a"),
        ((18,), "SELECT  AS a"),
        ((19,), "SELECT  AS a"),
    ],
)
def test_the_nearest_text_that_is_not_newer_stands_in_its_place(version: Version, query: str | None) -> None:
    """Nothing stands there where it is null; a version older than the first text has no query."""
    assert collector(sql="SELECT {since} AS a", fragments={"since": SINCE}).sql_for(version) == query


@pytest.mark.parametrize(("version", "query"), [((13,), "13 a"), ((14,), "13 b"), ((16,), None), ((17,), "17 c")])
def test_queries_and_fragments_change_at_versions_of_their_own(version: Version, query: str | None) -> None:
    sql = {13: "13 {word}", 16: None, 17: "17 {word}"}
    assert collector(sql=sql, fragments={"word": {13: "a", 14: "b", 17: "c"}}).sql_for(version) == query


def test_a_fragment_stands_wherever_it_is_named_in_sql_and_details() -> None:
    fragments = {"size": {13: "8", 16: "9"}, "last": {13: None, 16: "b, "}}
    found = collector(sql="{size} '{size}'", details="{last}{size}", limit=5, fragments=fragments)
    assert [found.sql_for((13,)), found.details_for((13,))] == ["8 '8'", "8"]
    assert [found.sql_for((16,)), found.details_for((16,))] == ["9 '9'", "b, 9"]


def test_versions_of_an_extension_are_compared_as_numbers() -> None:
    texts = {"1.9": "old", "1.10": "new"}
    found = collector(sql={"1.9": "{word} {schema}"}, fragments={"word": texts}, extension="pg_stat_statements")
    assert [found.sql_for((1, minor)) for minor in (8, 9, 11)] == [None, "old {schema}", "new {schema}"]


def test_all_queries_are_those_of_each_version_at_which_something_changes() -> None:
    found = collector(
        sql={13: None, 14: "{x}"}, details="d {y}", limit=5, fragments={"x": {14: "a", 16: "b"}, "y": "c"}
    )
    assert list(found.queries()) == ["d c", "d c", "a", "d c", "b", "d c"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '{}'::text[] AS a",
        "SELECT '{a}'::text[] AS a",
        "SELECT x ~ '^a{2,3}b{4}$' AS a",
        "SELECT E'\\'{a}' AS a",
        "SELECT $q${a}$q$ AS a",
        'SELECT 1 AS "{a}"',
        "SELECT 1 AS a -- {a}",
        "SELECT 1 /* {schema} */ AS a",
    ],
)
def test_braces_that_are_sql_stay(sql: str) -> None:
    assert collector(sql=sql).sql_for((18,)) == sql
    assert collector(sql=f"{sql}\n{{b}}", fragments={"b": {13: "c"}}).sql_for((18,)) == f"{sql}\nc"


def test_custom_queries_of_postgres_exporter_have_no_fragments(tmp_path: Path) -> None:
    query = "SELECT count(*) AS n FROM t WHERE tags @> '{paid}' AND code ~ '^[a-z]{2}$'"
    (tmp_path / "queries.yaml").write_text(f'a: {{query: "{query}", metrics: [{{n: {{usage: GAUGE}}}}]}}')
    [found] = load(tmp_path)
    assert query in str(found.sql_for((18,)))


GOOD = {
    "name": "waits",
    "help": "How long sessions wait.",
    "sql": "SELECT {since} AS seconds",
    "fragments": {"since": {13: "a", 14: "b"}},
    "metrics": [{"name": "pg_wait_seconds", "type": "gauge", "help": "Seconds of the longest.", "column": "seconds"}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fragments": ["a"]}, "fragments: Input should be a mapping"),
        ({"fragments": {"long wait": "a"}}, "fragments.long wait.[key]: 'long wait' is no fragment name"),
        ({"fragments": {"since": {13: "a", 14: 5}}}, "fragments.since.14: Input should be a valid string"),
        ({"fragments": {"since": {"x": "a"}}}, "fragments.since: 'x' is no version: write 17 or \"1.11\""),
        ({"fragments": {"since": {14.1: "a"}}}, "fragments.since: version 14.1 must be quoted"),
        (
            {"fragments": {"since": {13: "a", "13": "b"}}},
            "fragments.since: a version is written twice, once with quotes",
        ),
        ({"fragments": {"since": {}}}, "fragments.since: expected SQL, or a map of first version to SQL"),
        ({"fragments": {"since": ["a"]}}, "fragments.since: expected SQL, or a map of first version to SQL"),
        (
            {"fragments": {"since": {1.9: "a"}}, "extension": "e"},
            'fragments.since: version 1.9 of an extension must be quoted: "1.9"',
        ),
        ({"fragments": {}}, "sql: {since} is no fragment; declare it under fragments"),
        ({"sql": {13: "{since}", 16: "{Since}"}}, "sql.16: {Since} is no fragment; declare it under fragments"),
        ({"details": "{last}", "limit": 5}, "details: {last} is no fragment; declare it under fragments"),
        ({"sql": "{since} {schema}"}, "sql: {schema} is the schema of an extension; name the extension with the key"),
        ({"sql": "SELECT '{sinc}'"}, "fragments.since: no query uses {since}; remove it"),
        ({"fragments": {"since": {13: "a", 14: "{b}"}}}, "fragments.since.14: {b} is no fragment; declare it"),
        (
            {"sql": "{a} {b}", "fragments": {"a": "1", "b": {13: "2", 14: "{a}"}}},
            "fragments.b.14: uses {a}, and a fragment cannot use another; put both into the query",
        ),
        (
            {"sql": "{schema}", "fragments": {"schema": "a"}, "extension": "e"},
            "fragments.schema: reserved for the schema of an extension; choose another name",
        ),
        (
            {"fragments": {"since": {14: "a"}}},
            "fragments.since.14: begins too late: sql runs from 13 on; add 13, with null for no text",
        ),
        (
            {"sql": {13: "a", 15: "{since}"}, "fragments": {"since": {15: "a"}}, "details": "{since}", "limit": 5},
            "fragments.since.15: begins too late: details runs from 13 on; add 13, with null for no text",
        ),
        (
            {"fragments": {"since": {"1.9": "a"}}, "extension": "e"},
            'fragments.since.1.9: begins too late: sql runs on every version; make it a map that begins with "1.9"',
        ),
    ],
)
def test_a_bad_fragment_is_refused_with_file_place_and_remedy(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises(CatalogError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"bad.yaml: {message}")


@pytest.mark.parametrize("first", [13, 14])
def test_a_fragment_may_begin_with_the_query_that_uses_it(first: int) -> None:
    sql = {13: "SELECT 1", 14: "SELECT {since}"} if first == 14 else {12: "SELECT {since}"}
    assert collector(sql=sql, fragments={"since": {first: "a"}}).sql_for((14,)) == "SELECT a"


def _repetitive(found: Collector) -> Iterator[str]:
    """Name the texts of which more than a quarter of the lines stand in the text of the version before."""
    maps = {"sql": found.sql, "details": found.details or {}}
    maps |= {f"fragments.{name}": texts for name, texts in found.fragments.items()}
    for key, texts in maps.items():
        for (_, older), (version, newer) in pairwise((first, text) for first, text in texts.items() if text):
            lines, before = ([line.strip() for line in text.splitlines() if line.strip()] for text in (newer, older))
            if sum(line in before for line in lines) > len(lines) / 4:
                yield f"{found.name}: {key}.{'.'.join(map(str, version))}"


def test_no_query_of_ours_repeats_the_one_of_the_version_before() -> None:
    """Queries that are really different may still select a column or two alike."""
    texts = {13: "SELECT a,\n b,\n c\nFROM d", 14: "SELECT a,\n b,\n c2\nFROM d2"}
    assert list(_repetitive(collector(sql=texts))) == ["a: sql.14"]
    assert [text for found in load(BUILT_IN, COMPATIBILITY) for text in _repetitive(found)] == []
