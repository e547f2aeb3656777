"""Rows -> samples: NULL, numbers, labels, bad rows, limits."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from collector_files import collector

from exporter.planning.oid_names import Names
from exporter.planning.plan import Job
from exporter.samples.convert import columns, missing_columns, samples, transformed
from exporter.samples.label_values import label_text
from exporter.samples.model import Columns, Rest


def job(database: str = "app", **changes: object) -> Job:
    """A job of a collector with a metric `a` and, unless changed, a label `x`."""
    made = collector(**({"labels": ["x"]} | changes))
    return Job(made, database, "SELECT", made.metrics)


def pairs(made: Job, rows: list[dict[str, Any]], names: Names | None = None) -> list[tuple[str, Any]]:
    """Label text and value of the first metric's samples."""
    table = {key: [row[key] for row in rows] for key in rows[0]}
    family = samples(made, table, names or Names()).families[0]
    return list(zip(family.labels, family.values, strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", 'x="plain"'),
        (None, 'x=""'),
        ("", 'x=""'),
        ('say "hi"', r'x="say \"hi\""'),
        ("back\\slash", r'x="back\\slash"'),
        ("two\nlines", r'x="two\nlines"'),
        ("\\n", r'x="\\n"'),
        ("🐘 näme", 'x="🐘 näme"'),
        ("a,b={}", 'x="a,b={}"'),
        (True, 'x="true"'),
        (42, 'x="42"'),
    ],
)
def test_a_label_is_escaped_text(value: object, text: str) -> None:
    assert pairs(job(), [{"x": value, "a": 1}]) == [(text, 1)]


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1), (0.5, 0.5), (True, 1), (Decimal("2.5"), 2.5), (2**70, 2**70), (None, None)]
)
def test_a_value_is_a_number_or_none(value: object, number: object) -> None:
    assert pairs(job(), [{"x": "v", "a": value}]) == [('x="v"', number)]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1),
        (True, 1),
        (Decimal("2.5"), 2.5),
        ("2.5", 2.5),
        (b"3", 3),
        ("many", None),
        (None, None),
        ([1], None),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        (datetime(2024, 2, 3, 4, 5, 6, 999999, tzinfo=UTC), 1706933106),
        (datetime(2024, 2, 3, 5, 5, 6, tzinfo=timezone(timedelta(hours=1))), 1706933106),
        (datetime(2024, 2, 3, 4, 5, 6), 1706933106),  # noqa: DTZ001  # a timestamp without time zone
        (date(2024, 2, 3), 1706918400),
        (datetime.max.replace(tzinfo=UTC), math.inf),
        (datetime.min.replace(tzinfo=UTC), -math.inf),
    ],
)
def test_leniently_whatever_stands_for_a_number_is_one(value: object, number: object) -> None:
    assert pairs(job(lenient=True), [{"x": "v", "a": value}]) == [('x="v"', number)]


def test_leniently_a_column_or_a_label_may_be_missing() -> None:
    made = job(lenient=True)
    assert missing_columns(made, ["x"]) == ["a"]
    assert missing_columns(made, ["a"]) == ["x"]
    assert pairs(made, [{"x": "v"}]) == [('x="v"', None)]
    assert pairs(made, [{"a": 1}]) == [('x=""', 1)]


def test_the_first_of_two_rows_with_the_same_labels_stays_and_the_other_is_counted() -> None:
    found = samples(job(), {"x": ["u", "v", "u"], "a": [1, 2, 3]}, Names())
    assert (found.families[0].labels, found.families[0].values) == (['x="u"', 'x="v"'], [1, 2])
    assert found.rejected == {"duplicate": 1}


def test_a_row_that_gives_no_sample_is_no_duplicate() -> None:
    """So rows that carry the states of a thing may carry its other values once."""
    metrics = [
        {"name": "pg_a", "type": "gauge", "help": "A.", "column": "a"},
        {"name": "pg_b", "type": "gauge", "help": "B.", "column": "b", "labels": ["state"]},
    ]
    rows: Columns = {"x": ["u", "u"], "state": ["on", "off"], "a": [None, 7], "b": [0, 1]}
    found = samples(job(metrics=metrics), rows, Names())
    assert [(family.labels, family.values) for family in found.families] == [
        (['x="u"'], [7]),
        (['x="u",state="on"', 'x="u",state="off"'], [0, 1]),
    ]
    assert found.rejected == {}


def test_a_row_with_a_value_that_is_no_number_costs_that_row_only() -> None:
    found = samples(job(), {"x": ["u", "v"], "a": ["many", 2]}, Names())
    assert (found.families[0].labels, found.families[0].values) == (['x="v"'], [2])
    assert found.rejected == {"malformed": 1}


def test_a_metric_has_its_own_labels_beside_the_common_ones() -> None:
    metrics = [
        {"name": "m", "type": "gauge", "help": "M.", "column": "a"},
        {"name": "n", "type": "gauge", "help": "N.", "column": "b", "labels": ["y"]},
    ]
    found = samples(job(metrics=metrics), {"x": ["u"], "y": ["w"], "a": [1], "b": [2]}, Names())
    assert [list(family.labels) for family in found.families] == [['x="u"'], ['x="u",y="w"']]


def test_samples_of_one_database_begin_with_its_name() -> None:
    assert pairs(job("crm", scope="database"), [{"x": "u", "a": 1}]) == [('datname="crm",x="u"', 1)]


def test_metrics_of_a_job_share_their_label_texts() -> None:
    metrics = [{"name": name, "type": "gauge", "help": "M.", "column": "a"} for name in ("m", "n")]
    first, second = samples(job(metrics=metrics), {"x": ["u", "v"], "a": [1, 2]}, Names()).families
    assert first.labels is second.labels


def test_no_rows_are_families_without_samples() -> None:
    found = samples(job(), columns([]), Names())
    assert [len(family.values) for family in found.families] == [0]
    assert found.rows == 0


def test_oids_become_names_and_unknown_ones_numbers() -> None:
    names = Names()
    names.replace({5: "crm"}, {10: "alice"})
    names.learn({(5, 16384): "public.orders", (0, 1262): "pg_catalog.pg_database"})
    made = job(labels=["d", "r", "t"], names={"d": "database", "r": "role", "t": "relation"})
    rows: list[dict[str, Any]] = [
        {"d": 5, "r": 10, "t": [5, 16384], "a": 1},
        {"d": 6, "r": 11, "t": [6, 16384], "a": 2},
        {"d": 0, "r": None, "t": [None, 1262], "a": 3},
        {"d": None, "r": 10, "t": [5, None], "a": 4},
    ]
    assert [text for text, _ in pairs(made, rows, names)] == [
        'd="crm",r="alice",t="public.orders"',
        'd="6",r="11",t="16384"',
        'd="",r="",t="pg_catalog.pg_database"',
        'd="",r="alice",t=""',
    ]


def test_names_that_have_yet_to_be_asked_for_are_told() -> None:
    names = Names()
    names.learn({(5, 1): "public.a"})
    assert names.unknown("relation", [[5, 1], [5, 2], [None, 3], [5, None], None]) == {(5, 2), (0, 3)}
    names.forget_relations()
    assert names.unknown("relation", [[5, 1]]) == {(5, 1)}


def test_what_a_limit_cut_is_rows_sum_and_share() -> None:
    metrics = [{"name": "a_total", "type": "counter", "help": "A.", "column": "a", "rest": True}]
    made = job(metrics=metrics, limit=2)
    table: Columns = {"x": ["u", "v"], "a": [60, 20], "pgvigil_rows_in_all": [5, 5], "pgvigil_sum_a": [100.0, 100.0]}
    found = samples(made, table, Names())
    assert found.truncated_rows == 3
    assert found.rest == (Rest("a_total", 20.0, 100.0),)


def test_a_limit_that_cut_nothing_says_so() -> None:
    metrics = [{"name": "a_total", "type": "counter", "help": "A.", "column": "a", "rest": True}]
    table: Columns = {"x": ["u"], "a": [None], "pgvigil_rows_in_all": [1], "pgvigil_sum_a": [None]}
    found = samples(job(metrics=metrics, limit=2), table, Names())
    assert (found.truncated_rows, found.rest) == (0, (Rest("a_total", 0.0, 0.0),))


def test_a_limit_cuts_the_rows_of_a_transform_as_it_cuts_those_of_a_query() -> None:
    """Three roots with one session behind each: the first is kept, and what the others carried is counted."""
    blocked = {"name": "blocked", "type": "gauge", "help": "A.", "column": "blocked_sessions", "rest": True}
    made = job(labels=["owner", "mode", "held_mode"], metrics=[blocked], transform="wait_roots", limit=1)
    held = {"owner": (1, 2, 3), "object": ("a", "b", "c"), "mode": ("ShareLock",) * 3, "granted": (True,) * 3}
    waiting = {"owner": (4, 5, 6), "object": ("a", "b", "c"), "mode": ("ExclusiveLock",) * 3, "granted": (False,) * 3}
    table = {name: held[name] + waiting[name] for name in held} | {"waited_seconds": (None, None, None, 1.0, 3.0, 2.0)}
    table["locktype"] = ("relation",) * 6
    found = samples(made, transformed(made, table), Names())
    assert found.families[0].labels == ['owner="2",mode="ExclusiveLock",held_mode="ShareLock"']
    assert (found.rows, found.truncated_rows, found.rest) == (1, 2, (Rest("blocked", 2.0, 3.0),))
    assert missing_columns(made, ["owner", "mode", "object", "locktype", "granted"]) == ["waited_seconds"]


def test_columns_that_the_query_lacks_are_named() -> None:
    assert missing_columns(job(), ["a"]) == ["x"]
    assert missing_columns(job(), ["x", "a", "more"]) == []


def test_labels_are_written_as_they_stand_between_the_braces() -> None:
    assert label_text({"a": "1", "b": 'x"y'}) == r'a="1",b="x\"y"'
