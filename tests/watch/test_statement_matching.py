"""Texts of sessions and of pg_stat_statements that are the same statement, and those that are not."""

import pytest

from exporter.watch import statement_matching
from exporter.watch.statement_matching import MOST_BYTES, OTHER, Statement, StatementMatcher, comparable

PAY: Statement = ("shop", "app", "11")


@pytest.mark.parametrize(
    ("listed", "running"),
    [
        ("SELECT * FROM a WHERE id = $1", "SELECT * FROM a WHERE id = 5"),
        ("SELECT * FROM a WHERE id = $1", "SELECT *\n  FROM a\n WHERE id = $1;"),
        ("SELECT * FROM a WHERE id = $1", "SELECT * FROM a WHERE id = -5 -- why"),
        ("SELECT * FROM a WHERE id=$1", "SELECT * FROM a WHERE id=-5"),
        ("SELECT * FROM a WHERE id IN ($1 /*, ... */)", "SELECT * FROM a WHERE id IN (1, 2, 3)"),
        ("SELECT * FROM a WHERE id IN ($1, $2)", "SELECT * FROM a WHERE id IN (1, 2, 3)"),
        ("INSERT INTO a VALUES ($1, $2)", "INSERT INTO a VALUES ('it''s', -1.5e3) /* from web */"),
        ("SELECT $1::text, now() - interval $2", "SELECT 'a'::text, now() - interval '1 day'"),
        ("LOCK TABLE a", "LOCK TABLE a;"),
        ("SELECT * FROM a WHERE b BETWEEN $1 AND $2", "SELECT * FROM a WHERE b BETWEEN -4 AND -5"),
        ("SELECT CASE WHEN a THEN $1 ELSE $2 END", "SELECT CASE WHEN a THEN -2 ELSE -3 END"),
        ("SELECT $1 - $2, ARRAY[$3,$4], $5", "SELECT 1 - -1, ARRAY[-1,2], .5e-3"),
    ],
)
def test_it_is_the_same_statement(listed: str, running: str) -> None:
    assert comparable(listed, folds_lists=True) == comparable(running, folds_lists=True)


@pytest.mark.parametrize(
    ("listed", "running"),
    [
        ("SELECT * FROM a WHERE id = $1", "SELECT * FROM a WHERE it = 5"),
        ("SELECT a - $1 FROM a", "SELECT a + 1 FROM a"),
        ('SELECT "a$1" FROM a', "SELECT a FROM a"),
    ],
)
def test_it_is_another_statement(listed: str, running: str) -> None:
    assert comparable(listed) != comparable(running)


def test_blanks_cost_no_more_than_what_they_are() -> None:
    blanks = " " * 100_000
    assert comparable(f"SELECT{blanks}a{blanks}+{blanks}1") == "SELECT a+?"  # quadratic, it would take minutes


def test_a_text_belongs_to_its_database_and_user() -> None:
    matcher = StatementMatcher()
    matcher.begin({PAY: "SELECT $1", ("shop", "app", "12"): ""})
    assert matcher.statement("shop", "app", b"SELECT 8") == PAY
    assert matcher.statement("shop", "root", b"SELECT 8") == OTHER
    assert matcher.statement("mall", "app", b"SELECT 8") == OTHER
    assert matcher.statement("shop", "app", b"") == OTHER


def test_lists_of_another_length_are_another_statement_before_18() -> None:
    matcher = StatementMatcher()
    listed = {PAY: "SELECT * FROM a WHERE id IN ($1, $2)"}
    matcher.begin(listed)
    assert matcher.statement("shop", "app", b"SELECT * FROM a WHERE id IN (1, 2)") == PAY
    assert matcher.statement("shop", "app", b"SELECT * FROM a WHERE id IN (1)") == OTHER
    matcher.begin(listed, folds_lists=True)
    assert matcher.statement("shop", "app", b"SELECT * FROM a WHERE id IN (1)") == PAY


def test_of_two_statements_with_one_text_neither_is_named() -> None:
    """Tables of one name in two schemas."""
    matcher = StatementMatcher()
    ship, sell = ("shop", "app", "12"), ("shop", "app", "13")
    matcher.begin({PAY: "SELECT $1 FROM orders", ship: "SELECT $1  FROM orders", sell: "SELECT $1 FROM sales"})
    assert matcher.statement("shop", "app", b"SELECT 8 FROM orders") == OTHER
    assert matcher.statement("shop", "app", b"SELECT 8 FROM sales") == sell
    matcher.begin({PAY: "SELECT $1 FROM orders", sell: "SELECT $1 FROM sales"})
    assert matcher.statement("shop", "app", b"SELECT 8 FROM orders") == PAY
    assert matcher.statement("shop", "app", b"SELECT 8 FROM sales") == sell


def test_what_is_listed_from_now_on_counts() -> None:
    matcher = StatementMatcher()
    matcher.begin({})
    assert matcher.statement("shop", "app", b"SELECT 8") == OTHER
    matcher.begin({PAY: "SELECT $1"})
    assert matcher.statement("shop", "app", b"SELECT 8") == PAY


def test_a_text_that_may_be_cut_matches_none() -> None:
    matcher = StatementMatcher()
    matcher.begin({PAY: f"SELECT {'a' * MOST_BYTES}"})
    assert matcher.statement("shop", "app", f"SELECT {'a' * MOST_BYTES}".encode()[:MOST_BYTES]) == OTHER


def test_the_work_of_a_look_and_what_is_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def counted(text: str, *, folds_lists: bool) -> str:
        compared.append(text)
        return comparable(text, folds_lists=folds_lists)

    monkeypatch.setattr(statement_matching, "comparable", counted)
    monkeypatch.setattr(statement_matching, "_REMEMBERED", 150)
    matcher = StatementMatcher()
    listed = {PAY: "SELECT $1"}
    for look in range(5):
        matcher.begin(listed)
        found = [matcher.statement("shop", "app", b"SELECT %d" % (look * 500 + number)) for number in range(500)]
        assert found.count(PAY) == 100
    assert len(compared) == 1 + 5 * 100  # those of what is listed are kept
    assert len(matcher._known) <= 150
