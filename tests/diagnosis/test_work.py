"""Statements that take the server's time, and those that have become slow."""

import pytest
from pages import line

from exporter.demo.cluster import Cluster
from exporter.diagnosis.findings import Finding
from exporter.diagnosis.readings import Readings
from exporter.diagnosis.work import StatementWork, Work, work

DASHBOARD = "SELECT sum(total) FROM orders WHERE tenant_id = $1"
WHO = {"datname": "shop", "usename": "web"}


def statement(calls: float, seconds: float, before: float | None = None, query: str = DASHBOARD) -> StatementWork:
    """One statement of five minutes."""
    return StatementWork("shop", "web", "-42", query, "dashboard", calls, seconds, before)


def page(version: str = "18.1") -> str:
    """Who runs it."""
    return line("pg_server_info", 1, {"short_version": version}) + line(
        "pg_statement_running_sessions", 8, {**WHO, "queryid": "-42"}
    )


def found(all_seconds: float, *statements: StatementWork, version: str = "18.1") -> list[Finding]:
    """What is said of five minutes."""
    return [*work(Work(300.0, all_seconds, statements), Readings.of_page(page(version)))]


def test_a_statement_with_most_of_the_time_is_named_with_who_runs_it_and_how_it_is_looked_at_and_stopped() -> None:
    [finding] = found(400, statement(60, 390))
    assert (finding.alert, finding.severity) == ("PostgreSQLStatementDominates", "warning")
    assert finding.sentence == (
        "a statement of web in shop (application dashboard) takes 98% of all execution time of the last 5 min:"
        " 6.5 s a call"
    )
    assert finding.labels == {**WHO, "queryid": "-42"}
    assert finding.statement == DASHBOARD
    assert [each.sql for each in finding.remedies] == [
        f"EXPLAIN (GENERIC_PLAN) {DASHBOARD};",
        (
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query_id = -42"
            " AND usename = 'web' AND datname = 'shop' AND query_start < now() - interval '5 seconds';"
        ),
    ]
    assert finding.remedies[1].effect == "Cancel it where it runs for long, in 8 sessions: clients get errors."


def test_a_statement_that_became_slow_is_compared_with_the_hour_before() -> None:
    [finding] = found(400, statement(1000, 98, 0.0022))
    assert finding.alert == "PostgreSQLStatementSlower"
    assert finding.sentence == (
        "a statement of web in shop (application dashboard) takes 98 ms a call, 45 times as long as in the hour before"
    )


def test_one_call_is_no_trend_however_short_the_time() -> None:
    report = statement(1, 35)
    assert [*work(Work(60.0, 36.0, [report]), Readings.of_page(page()))] == []


@pytest.mark.parametrize(
    ("all_seconds", "usual"),
    [
        (400.0, statement(60, 199)),  # half of the time
        (140.0, statement(60, 139)),  # of a server with little to do
        (400.0, statement(4000, 390)),  # fast
        (400.0, statement(4, 390)),  # a few reports
        (900.0, statement(1000, 98, 0.04)),  # not three times as long
        (900.0, statement(5000, 98, 0.001)),  # longer by less than anybody notices
        (900.0, statement(500, 70, 0.001)),  # seldom
        (900.0, statement(4, 98, 0.001)),  # a few calls
        (900.0, statement(1000, 98, None)),  # nothing to compare with
    ],
)
def test_what_the_alerts_leave_out_is_not_said(all_seconds: float, usual: StatementWork) -> None:
    assert found(all_seconds, usual) == []


@pytest.mark.parametrize(
    ("version", "query", "remedies"),
    [
        ("16.4", DASHBOARD, 2),
        ("15.8", DASHBOARD, 1),
        ("13.2", DASHBOARD, 0),
        ("", DASHBOARD, 0),
        ("18.1", "", 1),
        ("18.1", "SELECT pg_sleep(?)", 1),
        ("18.1", "SELECT $1; DROP TABLE orders", 1),
        ("18.1", "SELECT $1 -- of tenant", 1),
        ("18.1", "SELECT FROM titles WHERE lower(name) LIKE $1", 2),
        ("18.1", "REFRESH MATERIALIZED VIEW totals", 1),
        ("18.1", f"SELECT {'a' * 2000}", 1),
    ],
)
def test_only_what_runs_as_it_stands_is_there_to_copy(version: str, query: str, remedies: int) -> None:
    [finding] = found(400, statement(60, 390, query=query), version=version)
    assert len(finding.remedies) == remedies


SHAPES = {
    "SELECT count(*) FROM pg_class WHERE relname = 'a' AND relpages > 3": True,
    "SELECT count(*) FROM pg_class WHERE relpages BETWEEN 1 AND 3 OR NOT relname = 'b' LIMIT 5 OFFSET 2": True,
    "SELECT CASE WHEN relpages > 3 THEN 'large' ELSE 'small' END FROM pg_class": True,
    "SELECT substring(relname::text FROM 2 FOR 3) FROM pg_class FETCH FIRST 3 ROWS ONLY": True,
    "SELECT x FROM (VALUES (1, 'a'), (2, 'b')) AS v (x, y) WHERE x IS DISTINCT FROM 3": True,
    "SELECT relname FROM pg_class WHERE oid = ANY ('{1,2}'::oid[]) ORDER BY relpages + 1": True,
    "UPDATE pg_temp.t SET n = 1 WHERE n = 2 RETURNING 3": True,
    "SELECT now() AT TIME ZONE 'UTC', CAST('1' AS integer)": True,
    "SELECT now() - interval '1 day'": False,
    "SELECT count(*) FROM pg_stat_activity WHERE backend_start > timestamptz '2026-01-01'": False,
    "SELECT date '2026-01-01', extract(hour FROM now())": False,
    "SELECT extract('hour' FROM now())": False,
    "SELECT double precision '1.5', timestamp(3) '2026-01-01 00:00:00.1234'": False,
    "SELECT timestamp with time zone '2026-01-01', pg_catalog.jsonb '{}'": False,
    "SELECT relpages / 10, count(*) FROM pg_class GROUP BY relpages / 10": False,
    "SELECT DISTINCT relpages / 10 FROM pg_class ORDER BY relpages / 10": False,
    "SELECT relkind, count(*) FROM pg_class GROUP BY relkind HAVING count(*) > 1 ORDER BY 2 LIMIT 3": True,
    "SELECT DISTINCT relname FROM pg_class WHERE relpages > 1 ORDER BY relname LIMIT 3": True,
    "SELECT 1 WHERE 'a' IS NULL": False,
}
"""Statements, and whether EXPLAIN takes what pg_stat_statements makes of them."""


def test_only_what_explain_takes_is_offered(server18: Cluster) -> None:
    """The text has parameters in the place of constants, which the grammar does not take everywhere."""
    for sql, is_taken in SHAPES.items():
        server18.execute("SELECT pg_stat_statements_reset()")
        server18.execute(f"CREATE TEMP TABLE t (n integer); {sql}")
        texts = server18.query("SELECT query FROM pg_stat_statements WHERE query ~ '[$]1'")
        [text] = [row["query"] for row in texts if "pg_stat_statements" not in row["query"]]
        [finding] = found(400, statement(60, 390, query=text))
        offered = [each.sql for each in finding.remedies if each.sql.startswith("EXPLAIN")]
        assert bool(offered) == is_taken, text
        for explain in offered:
            server18.execute(f"CREATE TEMP TABLE t (n integer); {explain}")
