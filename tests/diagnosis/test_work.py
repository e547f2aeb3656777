"""Statements that take the server's time, and those that have become slow."""

import pytest
from pages import line

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
