"""Normalised texts: no literal of anybody's reaches a page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.literals import without_literals
from exporter.scrape.statement_texts import Texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT $1 FROM t WHERE a = $2", "SELECT $1 FROM t WHERE a = $2"),
        ("ALTER ROLE app PASSWORD 's3cret'", "ALTER ROLE app PASSWORD ?"),
        ("SELECT 'it''s', E'a\\'b', U&'x', x'1F'", "SELECT ?, ?, U&?, ?"),
        ("SET work_mem = 64000", "SET work_mem = ?"),
        ("SELECT 1.5e3 FROM t2 AS a1", "SELECT ? FROM t2 AS a1"),
        ("DO $body$ BEGIN PERFORM 's3cret'; END $body$", "DO ?"),
        ("DO $$ s3cret $$", "DO ?"),
        ('SELECT "a \'b" FROM "2"', 'SELECT "a \'b" FROM "2"'),
        ("SELECT 1 -- s3cret\nFROM t /* s3cret */", "SELECT ? \nFROM t"),
        ("CREATE ROLE x PASSWORD 's3cret", "CREATE ROLE x PASSWORD ?"),
        ("DO $$ s3cret", "DO ?"),
        ("OPTIONS (user 'CORP\\', password 's3cret')", "OPTIONS (user ?"),
        ("/* a /* b */ it's */ CREATE ROLE r PASSWORD 's3cret'", "?"),
        ("CREATE ROLE r PASSWORD $a1$s3cret$a1$", "CREATE ROLE r PASSWORD ?"),
        ("CREATE ROLE r PASSWORD $é$s3cret$é$", "CREATE ROLE r PASSWORD ?"),
    ],
)
def test_literals_become_question_marks(text: str, shown: str) -> None:
    assert without_literals(text) == shown


@given(st.text())
def test_any_text_is_normalised_without_an_error(text: str) -> None:
    assert isinstance(without_literals(text), str)


@given(st.text(st.characters(codec="utf-8", exclude_characters="'\\"), min_size=1))
def test_no_string_literal_survives(secret: str) -> None:
    assert (
        without_literals(f"ALTER ROLE a PASSWORD '{secret}' VALID UNTIL 'x'") == "ALTER ROLE a PASSWORD ? VALID UNTIL ?"
    )


def test_texts_are_read_once_and_forgotten_with_their_statement() -> None:
    texts = Texts()
    assert texts.missing([1, 2]) == [1, 2]
    texts.learn({1: "SELECT 5"})
    assert (texts.missing([1, 2]), texts.text("1"), texts.text("2"), texts.text("other")) == ([2], "SELECT ?", "", "")
    assert texts.missing([2]) == [2]
    assert texts.text("1") == ""
