"""Several queries by one statement: what comes back is what each returns alone."""

import math
from dataclasses import replace
from typing import Any

import pytest
from pages import MONITOR, catalog
from pydantic import SecretStr

from exporter.connections.postgres import Postgres
from exporter.connections.postgres_session import PostgresSession
from exporter.connections.session import Known, Question
from exporter.demo.cluster import Cluster
from exporter.errors import QueryError
from exporter.planning.plan import plan
from exporter.planning.server import Server
from exporter.samples.convert import columns

VALUES = """
SELECT *
  FROM (VALUES (1, 9223372036854775807, 0.1::float8, 12345678901234567890.5, true, 4294967295::oid,
                ARRAY[5, 16384]::oid[], e'a "b" \\\\ c\\n\\u00e9\\u2028', 'name'::name),
               (2, -1, 'NaN', 'NaN', false, 0, '{}', '', 'x'),
               (3, 0, '-Infinity', 1e-30, NULL, NULL, NULL, NULL, NULL),
               (4, 2, 5e-324, -0.0, true, 1, ARRAY[NULL, 7]::oid[], chr(127), ''))
         AS v (small, large, double, number, yes, oid, oids, text, name)
 ORDER BY small
"""


def question(sql: str, **tables: str) -> Question:
    return Question(sql, sql, tables)


async def session_on(server: Cluster) -> PostgresSession:
    return await Postgres(SecretStr(server.dsn(user=MONITOR))).connect()


def like(value: Any) -> Any:
    """A value by which two that mean the same are equal: a number may be int, float or Decimal."""
    if isinstance(value, list | tuple):
        return tuple(map(like, value))
    if isinstance(value, str | bool) or value is None:
        return value
    return "NaN" if math.isnan(value) else float(value) if not isinstance(value, int) else value


async def test_an_answer_that_is_known_is_not_read_again(server18: Cluster) -> None:
    asked = [
        "SELECT n, 'x' AS text FROM generate_series(1, 3) AS n",
        "SELECT extract(epoch FROM clock_timestamp()) AS n",
    ]
    async with await session_on(server18) as session:
        for sql in asked:
            await session.fetch(sql, 5)
        first = await session.fetch_jointly([question(sql) for sql in asked], 5)
        known = [Known(answer.fingerprint or 0, len(answer.rows)) for answer in first]
        same, other = await session.fetch_jointly(
            [replace(question(sql), known=each) for sql, each in zip(asked, known, strict=True)], 5
        )
    assert (same.is_known, same.table, len(same.rows), same.fingerprint) == (True, None, 3, first[0].fingerprint)
    assert (other.is_known, len(other.rows)) == (False, 1)
    assert first[1].table is not None
    assert other.table is not None
    assert other.table["n"][0] > first[1].table["n"][0]


async def test_values_of_every_type_are_the_same(server: Cluster) -> None:
    async with await session_on(server) as session:
        alone = await session.fetch(VALUES, 5)
        await session.fetch("SELECT 1 AS a WHERE false", 5)
        assert session.can_join(VALUES)
        joint, none = await session.fetch_jointly([question(VALUES), question("SELECT 1 AS a WHERE false")], 5)
    assert joint.table is not None
    assert {name: like(values) for name, values in joint.table.items()} == {
        name: like(values) for name, values in columns(alone.rows).items()
    }
    assert len(joint.rows) == 4
    assert (len(none.rows), none.table) == (0, {})


@pytest.mark.parametrize(
    "sql", ["SELECT now() AS a", "SELECT '1 s'::interval AS a", "SELECT 0.1::float4 AS a", "SELECT '{}'::json"]
)
async def test_what_json_would_change_is_asked_alone(server18: Cluster, sql: str) -> None:
    async with await session_on(server18) as session:
        assert not session.can_join(sql), "it has not been asked yet"
        await session.fetch(sql, 5)
        assert not session.can_join(sql)


async def test_sources_are_read_once(server18: Cluster) -> None:
    """Both parts see the same draw."""
    drawn = {"drawn": "SELECT random() AS a"}
    async with await session_on(server18) as session:
        for sql in ("SELECT a AS b FROM drawn", "SELECT a AS c FROM drawn"):
            await session.fetch(f"WITH drawn AS (SELECT random() AS a) {sql}", 5)
        asked = [
            Question(f"WITH drawn AS (SELECT random() AS a) {sql}", sql, drawn)
            for sql in ("SELECT a AS b FROM drawn", "SELECT a AS c FROM drawn")
        ]
        one, two = await session.fetch_jointly(asked, 5)
    assert one.table
    assert two.table
    assert one.table["b"] == two.table["c"]


async def test_the_time_of_each_is_its_own(server18: Cluster) -> None:
    asked = [f"SELECT {i} AS a FROM pg_sleep({seconds})" for i, seconds in enumerate((0.0, 0.3, 0.0))]
    async with await session_on(server18) as session:
        for sql in asked:
            await session.fetch(sql, 5)
        found = await session.fetch_jointly([question(sql) for sql in asked], 5)
    assert [each.seconds >= 0.3 for each in found] == [False, True, False]


async def test_one_with_too_many_rows_is_an_error_of_all(server18: Cluster) -> None:
    many = "SELECT g AS a FROM generate_series(1, 10001) AS g"
    async with await session_on(server18) as session:
        await session.fetch(many, 5)
        with pytest.raises(QueryError, match="more than 10000 rows"):
            await session.fetch_jointly([question(many)], 5)


async def test_one_that_fails_is_an_error_of_all_and_the_session_goes_on(server18: Cluster) -> None:
    good, bad = "SELECT 1 AS a", "SELECT 1 / (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')::int4 AS b"
    async with await session_on(server18) as session:
        await session.fetch(good, 5)
        await session.fetch("SELECT pg_advisory_lock_shared(7) IS NULL AS c", 5)
        await session.fetch(bad, 5)
        await session.fetch("SELECT pg_advisory_unlock_shared(7) AS d", 5)
        with pytest.raises(QueryError, match="division by zero"):
            await session.fetch_jointly([question(good), question(bad)], 5)
        assert (await session.fetch(good, 5)).rows[0]["a"] == 1


async def test_built_in_collectors_say_the_same_in_both_ways(server: Cluster) -> None:
    """Columns, labels, and what values are, of all that is read on a kept connection."""
    async with await session_on(server) as session:
        vitals = await session.vitals(5)
        found = plan(
            catalog().of_kind("postgresql"), Server(vitals.version, vitals.in_recovery, "postgres", ("postgres",))
        )
        jobs = [job for job in found.jobs if job.can_join]
        alone = {job.key: columns((await session.fetch(job.sql, 5, labels=job.label_columns)).rows) for job in jobs}
        joined = [job for job in jobs if session.can_join(job.sql)]
        answers = await session.fetch_jointly([Question(job.sql, job.part, job.tables) for job in joined], 5)
    assert {job.key for job in jobs} - {job.key for job in joined} == set()
    for job, answer in zip(joined, answers, strict=True):
        assert answer.table is not None
        assert list(answer.table) == list(alone[job.key]), job.key
        for name, values in answer.table.items():
            before = alone[job.key][name]
            if name in job.collector.all_labels and not job.cache:
                assert like(values) == like(before), (job.key, name)
            kinds = {*map(type, map(like, values))} ^ {*map(type, map(like, before))}
            assert kinds <= {type(None)}, (job.key, name)


async def test_columns_go_by_their_names_also_when_a_view_is_made_anew(server18: Cluster) -> None:
    sql = "SELECT * FROM public.swapped"
    grant = "GRANT SELECT ON swapped TO PUBLIC"
    server18.execute(f"CREATE VIEW swapped AS SELECT 1 AS a, 2 AS b; {grant}")
    async with await session_on(server18) as session:
        await session.fetch(sql, 5)
        await session.fetch_jointly([question(sql)], 5)
        server18.execute(
            "DROP VIEW swapped; CREATE VIEW swapped AS SELECT 2 AS b, 1 AS a; GRANT SELECT ON swapped TO PUBLIC"
        )
        [found] = await session.fetch_jointly([question(sql)], 5)
        assert found.table == {"a": [1], "b": [2]}
        server18.execute("ALTER VIEW swapped RENAME COLUMN b TO c")
        with pytest.raises(QueryError, match="does not exist"):
            await session.fetch_jointly([question(sql)], 5)
    server18.execute("DROP VIEW swapped")


async def test_a_column_that_is_there_twice_is_asked_alone(server18: Cluster) -> None:
    async with await session_on(server18) as session:
        await session.fetch("SELECT 1 AS a, 2 AS a", 5)
        assert not session.can_join("SELECT 1 AS a, 2 AS a")
