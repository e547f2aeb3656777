"""The text of a label is what PostgreSQL makes of its value, in our own format and in postgres_exporter's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import MONITOR, Page, page, scraped, target
from serving import run

from exporter.catalog.load import load
from exporter.demo.cluster import Cluster
from exporter.planning.label_columns import PLAIN_TYPES, LabelColumns
from exporter.sql import signed, without_end

VALUES = {
    "bool": "true",
    "char": "'x'::\"char\"",
    "bpchar": "'ab'::char(4)",
    "bytea": "'\\xdeadbeef'::bytea",
    "name": "'café'::name",
    "int2": "(-7)::int2",
    "int8": "9223372036854775807",
    "oid": "4294967295::oid",
    "xid": "'4294967290'::xid",
    "float_whole": "1::float8",
    "float_large": "1e15::float8",
    "float_small": "0.00001::float8",
    "float_infinite": "'-Infinity'::float8",
    "float_none": "'NaN'::float8",
    "real": "0.1::float4",
    "numeric": "1e20::numeric",
    "numeric_zeros": "1.500::numeric",
    "money": "'12.34'::money",
    "interval": "'-1.5 seconds'::interval",
    "interval_years": "'-1 year 2 mons 3 days -04:05:06.7'::interval",
    "interval_long": "'100000 years'::interval",
    "time": "'04:05:06.7'::time",
    "timetz": "'04:05:06+02'::timetz",
    "json": """'{"b": 1,  "a": [1.0]}'::json""",
    "jsonb": """'{"b": 1,  "a": [1.0]}'::jsonb""",
    "inet": "'10.0.0.1'::inet",
    "inet_network": "'10.0.0.1/8'::inet",
    "cidr": "'10.0.0.0/8'::cidr",
    "macaddr": "'08-00-2b-01-02-03'::macaddr",
    "uuid": "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid",
    "bit": "B'0101'",
    "varbit": "B'101'::varbit",
    "point": "'(1,2.5)'::point",
    "box": "'(1,2),(0,0.5)'::box",
    "pg_lsn": "'16/B374D848'::pg_lsn",
    "tsvector": "'fat cat'::tsvector",
    "regclass": "'pg_class'::regclass",
    "array": "ARRAY[1.0, NULL, 3]",
    "array_of_text": """ARRAY['a b', 'say "hi"', NULL, '']""",
    "array_of_intervals": "ARRAY['1 day'::interval, '-1 second']",
    "array_of_arrays": "ARRAY[[1,2],[3,4]]",
    "array_of_times": "ARRAY['2024-02-03 04:05:06+00'::timestamptz]",
    "range": "int4range(1, 5)",
    "range_of_times": "tsrange('2024-02-03', NULL)",
    "row": "ROW(1, 'a b', NULL, '1 day'::interval)",
    "acl": "(SELECT relacl FROM pg_catalog.pg_class WHERE relname = 'pg_authid')",
    "enum": "'it''s'::public.mood",
    "array_of_enums": "ARRAY['sad', 'it''s']::public.mood[]",
    "composite": "ROW(1.50, '(x)')::public.pair",
    "domain": "'-90 minutes'::public.pause",
}

TIMES = {
    "date": "'2024-02-03'::date",
    "timestamp": "'2024-02-03 04:05:06.7'::timestamp",
    "timestamptz": "'2024-02-03 04:05:06.7+00'::timestamptz",
    "timestamptz_far": "'20000-01-01 00:00:00+00'::timestamptz",
    "timestamptz_old": "'0044-03-15 00:00:00+00 BC'::timestamptz",
    "never": "'infinity'::timestamptz",
}

TYPES = """
    CREATE TYPE public.mood AS ENUM ('sad', 'it''s');
    CREATE TYPE public.pair AS (amount numeric, what text);
    CREATE DOMAIN public.pause AS interval;
"""

SELECT = "SELECT {columns}, 1 AS b, 2.5::numeric AS both"

OURS = """
name: ours
help: Labels of every type.
sql: |
  {sql}
labels: [{labels}, both]
metrics:
  - {{name: ours_b, type: gauge, help: One., column: b}}
  - {{name: ours_both, type: gauge, help: A column that is a label and a value., column: both}}
"""

THEIRS = """
theirs:
  query: |
    {sql};
  metrics:
{labels}
    - b: {{usage: GAUGE}}
"""


@pytest.fixture
def typed(server: Cluster) -> Iterator[Cluster]:
    """A server with types of users."""
    server.execute(TYPES)
    yield server
    server.execute("DROP TYPE public.mood; DROP TYPE public.pair; DROP DOMAIN public.pause")


def shown(server: Cluster, folder: Path, values: dict[str, str]) -> Page:
    """A page with these values as labels, from a file of each format."""
    sql = SELECT.format(columns=", ".join(f'{value} AS "{name}"' for name, value in values.items()))
    (folder / "ours.yaml").write_text(OURS.format(sql=sql, labels=", ".join(values)))
    labels = "\n".join(f"    - {name}: {{usage: LABEL}}" for name in values)
    (folder / "theirs.yaml").write_text(THEIRS.format(sql=sql, labels=labels))
    return page(server.dsn(user=MONITOR), folder)


def text_of(server: Cluster, values: dict[str, str]) -> dict[str, str]:
    """What PostgreSQL makes of them."""
    [row] = server.query("SELECT " + ", ".join(f"({value})::text" for value in values.values()))
    return dict(zip(values, row, strict=True))


def test_a_label_is_the_text_of_its_value(major: int, typed: Cluster, tmp_path: Path) -> None:
    values = {**VALUES, **({"multirange": "int4multirange(int4range(1, 5))"} if major >= 14 else {})}
    found, expected = shown(typed, tmp_path, values), text_of(typed, values)
    for name in ("ours_b", "theirs_b"):
        labels = found.labels(name)
        assert {label: labels[label] for label in values} == expected
    assert found.labels("ours_both")["both"] == "2.5"
    assert found.value("ours_both") == 2.5


def test_a_time_is_text_in_our_format_and_unix_seconds_in_theirs(typed: Cluster, tmp_path: Path) -> None:
    """postgres_exporter writes dates and times as Unix seconds, and its dashboards read them."""
    found, expected = shown(typed, tmp_path, TIMES), text_of(typed, TIMES)
    labels = found.labels("ours_b")
    assert {label: labels[label] for label in TIMES} == expected
    [seconds] = typed.query(
        "SELECT " + ", ".join(f"floor(extract(epoch FROM {value}))::text" for value in TIMES.values())
    )
    there = found.labels("theirs_b")
    assert {label: there[label] for label in TIMES} == dict(zip(TIMES, seconds, strict=True)) | {"never": "infinity"}


def test_a_query_whose_labels_are_text_runs_as_it_is() -> None:
    labels = LabelColumns(frozenset({"a", "b"}))
    columns = [("a", 25), ("b", 20), ("c", 1186)]
    assert labels.query("SELECT a, b, c", columns) == "SELECT a, b, c"
    assert {oid for _, oid in columns[:2]} <= PLAIN_TYPES


def test_only_labels_of_other_types_are_cast_and_the_tag_stays_at_the_end() -> None:
    sql = signed("SELECT 1 AS a, 2 AS a, now() AS t -- now;", "mine")
    assert LabelColumns(frozenset({"t"})).query(sql, [("a", 23), ("a", 23), ("t", 1184)]) == (
        'SELECT c0 AS "a",\n       c1 AS "a",\n       CAST(c2 AS pg_catalog.text) AS "t"\n'
        "  FROM (\nSELECT 1 AS a, 2 AS a, now() AS t\n) AS labelled (c0, c1, c2)\n/* pgvigil:mine */"
    )


def test_a_time_that_the_driver_has_no_value_for_costs_nothing_else(server: Cluster, tmp_path: Path) -> None:
    (tmp_path / "queries.yaml").write_text(
        """
pg_a:
  query: |
    SELECT '20000-01-01 00:00:00.5+00'::timestamptz AS far, '-infinity'::date AS never,
           '100000 years'::interval AS took, '20000-01-01'::date AS not_listed, 'x' AS kind, 1 AS b
  metrics:
    - kind: {usage: LABEL}
    - far: {usage: GAUGE}
    - never: {usage: GAUGE}
    - took: {usage: GAUGE}
    - b: {usage: GAUGE}
"""
    )
    found = page(server.dsn(user=MONITOR), tmp_path)
    assert found.value("pg_a_b", kind="x") == 1
    assert found.value("pg_a_far") == server.value(
        "SELECT extract(epoch FROM '20000-01-01 00:00:00+00'::timestamptz)::float8"
    )
    assert found.value("pg_a_never") == float("-inf")
    assert found.value("pg_a_took") == server.value("SELECT extract(epoch FROM '100000 years'::interval)::float8")


ENDS = [";", ";;", " ; ; ", "; /* c */", ";\n-- c", "-- c", " -- c;", "/* a /* nested; */ b */;", ";/**/;-- x\n\n", ""]

BEGINNINGS = [
    "SELECT 1 AS b",
    "SELECT 1 AS b, '; -- no comment' AS s",
    "SELECT 1 AS b, E'it\\'s; /*' AS s",
    'SELECT 1 AS b, 2 AS "; --"',
    "SELECT 1 AS b, $x$; -- $y$ /* $x$ AS s",
    "SELECT 1 AS b, '/*' AS s /* c */, 2 AS c",
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("sql", BEGINNINGS)
def test_what_ends_a_statement_is_taken_off(sql: str, end: str) -> None:
    assert without_end(sql + end) == sql


def test_a_statement_that_ends_in_a_string_stays() -> None:
    for sql in ("SELECT '-- no comment;'", 'SELECT 1 AS "/* */"', "SELECT $$ -- ;$$", "SELECT 'a\n--b;'"):
        assert without_end(sql) == sql


@pytest.mark.parametrize("limit", ["", "limit: 5"])
def test_queries_may_end_in_semicolons_and_comments(limit: str, server18: Cluster, tmp_path: Path) -> None:
    for i, (sql, end) in enumerate((sql, end) for sql in BEGINNINGS for end in ENDS):
        query = "\n".join("    " + line for line in (sql + end).splitlines())
        (tmp_path / f"theirs{i}.yaml").write_text(
            f"t{i}:\n  query: |\n{query}\n  metrics:\n    - b: {{usage: GAUGE}}\n"
        )
        (tmp_path / f"ours{i}.yaml").write_text(
            f"name: o{i}\nhelp: O.\n{limit}\nsql: |\n{query}\n"
            f"metrics: [{{name: o{i}_b, type: gauge, help: B., column: b}}]\n"
        )
    found = page(server18.dsn(user=MONITOR), tmp_path)
    count = len(BEGINNINGS) * len(ENDS)
    missing = [name for i in range(count) for name in (f"t{i}_b", f"o{i}_b") if not found.series(name)]
    assert missing == []


LACKING = """
pg_a:
  query: SELECT 1 AS b, '1h' AS took, 'x' AS kind
  metrics:
    - kind: {usage: LABEL}
    - region: {usage: LABEL}
    - b: {usage: GAUGE}
    - c: {usage: GAUGE}
    - took: {usage: DURATION}
    - rested: {usage: DURATION}
    - state: {usage: MAPPEDMETRIC, metric_mapping: {on: 1}}
"""


async def test_a_column_that_a_query_lacks_costs_what_needs_it_and_is_said_once(
    server: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "queries.yaml").write_text(LACKING)
    watched = target(server.dsn(user=MONITOR), load(tmp_path))
    await watched.scrape(30)
    found = await scraped(watched)
    await watched.close()
    names = {name for name in found.samples if name.startswith("pg_a_")}
    assert names == {"pg_a_b", "pg_a_took_milliseconds"}
    assert found.value("pg_a_b", kind="x") == 1
    assert found.labels("pg_a_b").get("region", "") == ""
    assert found.value("pg_a_took_milliseconds") == 3600000
    said = [record.getMessage() for record in caplog.records if "no column" in record.getMessage()]
    assert said == ["the query has no column region, c, rested, state: metrics and labels that need it are left out"]


def test_a_query_that_writes_is_told_what_to_do_instead(server18: Cluster, tmp_path: Path) -> None:
    server18.execute(
        "CREATE TABLE seen (n int); CREATE FUNCTION noted() RETURNS int LANGUAGE sql"
        f" AS 'INSERT INTO seen VALUES (1) RETURNING n'; GRANT ALL ON seen TO {MONITOR}"
    )
    (tmp_path / "queries.yaml").write_text(LACKING.replace("SELECT 1 AS b", "SELECT noted() AS b"))
    checked = run("check", dsn=server18.dsn(user=MONITOR), collectors_dir=str(tmp_path))
    server18.execute("DROP FUNCTION noted(); DROP TABLE seen")
    assert "(SQLSTATE 25006): pgvigil's sessions are read-only. Let a job of your own write" in checked.stdout


def test_check_names_what_a_query_lacks(server18: Cluster, tmp_path: Path) -> None:
    (tmp_path / "queries.yaml").write_text(LACKING)
    checked = run("check", dsn=server18.dsn(user=MONITOR), collectors_dir=str(tmp_path))
    assert "no column region, c, rested, state" in checked.stdout
