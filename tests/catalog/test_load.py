"""What a collector file may say, and what is said of one that is wrong."""

import re
from pathlib import Path

import pytest
from collector_files import collector

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Metric
from exporter.errors import CatalogError
from exporter.exposition.self_metrics import COMPATIBLE, OWN

GOOD = """
name: uptime
help: How long the server has been up.
sql: SELECT 1 AS seconds
metrics:
  - name: pg_uptime_seconds
    type: gauge
    help: Seconds since the server started.
    column: seconds
"""

OTHER = GOOD.replace("name: uptime", "name: other").replace("type: gauge", "type: untyped")
"""Beside GOOD, with a metric that may have any name."""

GAUGE, TOTAL = GOOD.replace("pg_uptime_seconds", "pg_b"), OTHER.replace("pg_uptime_seconds", "pg_b_total")
ALSO = OTHER.replace("pg_uptime_seconds", "pg_c") + "    also: pg_b_total\n"
LEDGER = TOTAL + "labels: [a]\nlimit: 5\nledger: {{key: [a], rank: seconds, changes: {{columns: [{}], by: {}}}}}\n"
SUM = (
    OTHER.replace("pg_uptime_seconds", "pg_sum_total")
    + "    total: pg_b_total\nlabels: [a]\nlimit: 5\nledger: {key: [a], rank: seconds}\n"
)


@pytest.mark.parametrize(
    ("version", "query"),
    [((13,), None), ((14,), "a"), ((16, 9), "a"), ((17,), "b"), ((18, 1), "b"), ((19,), None), ((20,), None)],
)
def test_the_nearest_query_that_is_not_newer_runs(version: tuple[int, ...], query: str | None) -> None:
    assert collector(sql={14: "a", 17: "b", 19: None}).sql_for(version) == query


def test_extension_versions_are_compared_as_numbers() -> None:
    found = collector(sql={"1.9": "old", "1.10": "new"}, extension="pg_stat_statements")
    assert [found.sql_for((1, 9)), found.sql_for((1, 10)), found.sql_for((1, 11))] == ["old", "new", "new"]


@pytest.mark.parametrize(
    ("version", "exists"), [((13,), False), ((14,), True), ((16, 9), True), ((17,), False), ((17, 1), False)]
)
def test_a_metric_exists_from_since_up_to_but_not_in_until(version: tuple[int, ...], exists: bool) -> None:
    metric = Metric.model_validate(
        {"name": "m", "type": "gauge", "help": "M.", "column": "m", "since": 14, "until": 17}
    )
    assert metric.exists_in(version) == exists


@pytest.mark.parametrize(
    ("own", "also", "kind"),
    [
        ("pg_a_total", "pg_stat_a_total", "counter"),
        ("pg_a_total", "pg_stat_a", "untyped"),
        ("pg_a", "pg_stat_a", "gauge"),
    ],
)
def test_a_compatibility_name_that_breaks_the_counters_rule_is_untyped(own: str, also: str, kind: str) -> None:
    metric = Metric.model_validate(
        {
            "name": own,
            "type": "counter" if own.endswith("_total") else "gauge",
            "help": "M.",
            "column": "m",
            "also": also,
        }
    )
    twin = metric.twin()
    assert twin is not None
    assert (twin.name, twin.type, twin.also) == (also, kind, None)


def test_the_built_in_collectors_load_and_each_stands_in_the_file_of_its_name() -> None:
    assert {collector.name for collector in load(BUILT_IN)} == {file.stem for file in BUILT_IN.glob("*.yaml")}


CUTS = re.compile(r"\b(?:LIMIT|FETCH FIRST)\s+\S+|\w+_rank\s*<=?\s*\d+")


def test_no_query_cuts_rows_without_saying_so() -> None:
    """The key `limit` counts what it cuts; a batch is followed by the next; one of several reasons is no cut."""
    cuts = {(c.name, cut) for c in load(BUILT_IN, COMPATIBILITY) for sql in c.queries() for cut in CUTS.findall(sql)}
    assert cuts <= {("sequences", "LIMIT $2"), ("lock_blockers", "LIMIT 1")}


BAD = [
    ("- a\n- b\n", "bad.yaml: expected a mapping with name, help, sql and metrics"),
    ("just words\n", "bad.yaml: expected a mapping"),
    ("name: [\n", "bad.yaml: line 2: "),
    (GOOD + "name: again\n", "bad.yaml: line 10: key 'name' is written twice"),
    (
        GOOD.replace("    column: seconds", "    column: a\n    column: b"),
        "bad.yaml: line 10: key 'column' is written twice",
    ),
    (GOOD + "cahce: 5\n", "bad.yaml: cahce: no such key; did you mean cache?"),
    (
        GOOD.replace("    column", "    colunm"),
        "bad.yaml: metrics.0.colunm: no such key; did you mean column?",
    ),
    (GOOD + "databases: [shop]\n", "bad.yaml: databases: only with scope: database"),
    (GOOD + "colour: red\n", "bad.yaml: colour: no such key"),
    (GOOD.replace("    column", "    colunm"), "bad.yaml: metrics.0.colunm: no such key"),
    (GOOD.replace("    column: seconds\n", ""), "bad.yaml: pg_uptime_seconds: names no column"),
    (GOOD.replace("help: How long the server has been up.\n", ""), "bad.yaml: help: Field required"),
    (GOOD.replace("name: uptime", "name: on"), "bad.yaml: name: Input should be a valid string"),
    (GOOD.replace("name: uptime", "name: Up time"), "bad.yaml: name: 'Up time' is no collector name"),
    (
        GOOD.replace("name: pg_uptime_seconds", "name: pg-uptime"),
        "bad.yaml: metrics.0.name: 'pg-uptime' is no metric name",
    ),
    (
        GOOD.replace("type: gauge", "type: gague"),
        "bad.yaml: metrics.0.type: Input should be 'counter', 'gauge' or 'untyped'",
    ),
    (
        GOOD.replace("type: gauge", "type: counter"),
        "bad.yaml: metrics.0: pg_uptime_seconds: a counter's name ends with _total",
    ),
    (
        GOOD.replace("pg_uptime_seconds", "pg_uptime_total"),
        "bad.yaml: metrics.0: pg_uptime_total: a counter's name ends with",
    ),
    (
        GOOD.replace("sql: SELECT 1 AS seconds", "sql: {}"),
        "bad.yaml: sql: expected SQL, or a map of first version to SQL",
    ),
    (GOOD.replace("sql: SELECT 1 AS seconds", "sql: {13.1: a}"), "bad.yaml: sql: version 13.1 must be quoted"),
    (GOOD.replace("sql: SELECT 1 AS seconds", "sql: {x: a}"), "bad.yaml: sql: 'x' is no version: write 17 or \"1.11\""),
    (
        GOOD.replace("sql: SELECT 1 AS seconds", "sql: {1.10: a}\nextension: e"),
        "bad.yaml: sql: version 1.1 of an extension must be quoted",
    ),
    (GOOD.replace("sql: SELECT 1 AS seconds", "sql: {13: 5}"), "bad.yaml: sql.13: Input should be a valid string"),
    (GOOD + "labels: datname\n", "bad.yaml: labels: Input should be a list"),
    (GOOD + "labels: [1]\n", "bad.yaml: labels.0: Input should be a valid string"),
    (GOOD + "labels: [datname]\nscope: database\n", "bad.yaml: labels: datname comes by itself with scope: database"),
    (GOOD + "names: {datname: database}\n", "bad.yaml: names: datname is not among the labels"),
    (GOOD + "labels: [a, a]\n", "bad.yaml: pg_uptime_seconds: a label is named twice"),
    (GOOD.replace("pg_uptime_seconds", "pg_up"), "metric pg_up: the exporter's own; choose another name"),
    (GOOD.replace("pg_uptime_seconds", "pg_statement_info"), "metric pg_statement_info: the exporter's own"),
    (GOOD.replace("name: uptime", "name: wait_sampler"), "collector wait_sampler: declared 2 times"),
    (GOOD.replace("pg_uptime_seconds", "process_x"), "metric process_x: the exporter's own; choose another name"),
    (GOOD + "timeout: 0\n", "bad.yaml: timeout: Input should be greater than or equal to 0.001"),
    (GOOD + "cache: soon\n", "bad.yaml: cache: Input should be a valid number"),
    (GOOD + "limit: 0\n", "bad.yaml: limit: Input should be greater than 0"),
    (GOOD + "enabled: 1\n", "bad.yaml: enabled: Input should be true or false"),
    (GOOD + "kind: odyssey\n", "bad.yaml: kind: Input should be 'postgresql' or 'pgbouncer'"),
    (GOOD + "details: SELECT 1\n", "bad.yaml: details: needs a limit, which decides what rows they are asked for"),
    (GOOD + "batches: {by: a, rows: 5, rank: b}\n", "bad.yaml: batches: needs a limit, and neither a ledger nor"),
    (
        LEDGER.format("seconds", "b"),
        "bad.yaml: ledger.changes.by: b is not in the key; name a column that is",
    ),
    (
        LEDGER.format("seconds, a", "a"),
        "bad.yaml: ledger.changes.columns: a is not the column of a metric that every version has",
    ),
    (
        LEDGER.format("seconds", "a").replace("column: seconds", "column: seconds\n    since: 14"),
        "bad.yaml: ledger.changes.columns: seconds is not the column of a metric that every version has",
    ),
    (LEDGER.format("", "a"), "bad.yaml: ledger.changes.columns: Tuple should have at least 1 item"),
    (LEDGER.format("seconds", "a") + "kind: pgbouncer\n", "bad.yaml: ledger.changes: not with kind: pgbouncer"),
    (GOOD + "limit: 5\nremember: [a]\n", "bad.yaml: remember: only the first row is remembered"),
    (GOOD + "kind: pgbouncer\nlimit: 5\ndetails: SELECT 1\n", "bad.yaml: details: not with kind: pgbouncer"),
    (GOOD + "transform: roots\n", "bad.yaml: transform: Input should be 'wait_roots'"),
    (
        GOOD + "transform: wait_roots\nscope: database\n",
        "bad.yaml: transform: needs scope: server, no ledger and no details",
    ),
    (GOOD + "needs_tables: true\n", "bad.yaml: needs_tables: only with scope: database"),
    (GOOD + "fresh: false\n", "bad.yaml: fresh: without a cache each scrape reads the result anew"),
    (GOOD + "kind: pgbouncer\nscope: database\n", "bad.yaml: scope: not with kind: pgbouncer"),
    (GOOD.replace("pg_uptime_seconds", "pgbouncer_up"), "metric pgbouncer_up: the exporter's own; choose another"),
    (GOOD + "role: replica\n", "bad.yaml: role: Input should be 'any', 'primary' or 'standby'"),
    (GOOD + "? [a]\n: b\n", "bad.yaml: line 10: a key must be plain"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[10:60] for _, message in BAD])
def test_a_bad_file_is_refused_with_file_place_and_reason(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(CatalogError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(message)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogError, match=r"^bad\.yaml: cannot be read: "):
        load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nowhere: no such folder of collectors"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (GOOD, "collector uptime: declared 2 times"),
        (GOOD.replace("name: uptime", "name: other"), "metric pg_uptime_seconds: declared 2 times"),
        (
            GOOD.replace("name: uptime", "name: other").replace("pg_uptime_seconds", "pg_b")
            + "    also: pg_uptime_seconds\n",
            "metric pg_uptime_seconds: declared 2 times",
        ),
    ],
)
def test_a_name_used_twice_is_refused(second: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(second)
    with pytest.raises(CatalogError, match=message):
        load(tmp_path)


def test_no_collector_takes_a_name_of_the_exporter_itself(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for metric in (*OWN, *COMPATIBLE):
        with subtests.test(metric.name):
            (tmp_path / "own.yaml").write_text(OTHER.replace("pg_uptime_seconds", metric.name))
            with pytest.raises(CatalogError, match="the exporter's own"):
                load(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (GAUGE, TOTAL, "b.yaml: pg_b_total: the same family as pg_b in OpenMetrics, which leaves _total out"),
        (TOTAL, GAUGE, "b.yaml: pg_b: the same family as pg_b_total"),
        (GAUGE, ALSO, "b.yaml: pg_b_total: the same family as pg_b"),
        (GAUGE, SUM, "b.yaml: pg_b_total: the same family as pg_b"),
        (GOOD, SUM.replace("total: pg_b_total", "also: pg_sum"), "b.yaml: pg_sum: the same family as pg_sum_total"),
        (GOOD, OTHER.replace("pg_uptime_seconds", "pg_up_total"), "metric pg_up_total: the exporter's own"),
    ],
)
def test_two_names_that_openmetrics_makes_one_family_are_refused(
    first: str, second: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(first)
    (tmp_path / "b.yaml").write_text(second)
    with pytest.raises(CatalogError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(message)


def test_every_metric_is_named_by_the_rules() -> None:
    """Base units, and help that is a sentence or two for a person."""
    odd = [
        metric.name
        for collector in load(BUILT_IN)
        for metric in collector.metrics
        if not metric.name.startswith("pg_" if collector.kind == "postgresql" else "pgbouncer_")
        or metric.name.endswith(("_ms", "_milliseconds", "_kb", "_mb", "_minutes", "_percent"))
        or not metric.help.endswith((".", ")"))
        or len(metric.help) < 25
    ]
    assert odd == []
