"""Normalised texts: no literal of anybody's reaches a page."""

import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import examples

from exporter.literals import NAME, without_literals
from exporter.scrape.statement_texts import ASK_AGAIN_SECONDS, Texts
from exporter.statement_text import shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT $1 FROM t WHERE a = $2", "SELECT $1 FROM t WHERE a = $2"),
        ("ALTER ROLE app PASSWORD 's3cret'", "ALTER ROLE app PASSWORD ?"),
        ("SELECT 'it''s', E'a\\'b', U&'x', x'1F'", "SELECT ?, ?, U&?, ?"),
        ("SET work_mem = 64000", "SET work_mem = ?"),
        ("UPDATE t SET tok$$ = 'abc$$hunter2'", "UPDATE t SET tok$$ = ?"),
        ("SELECT sys$sess$x FROM v$session WHERE a = 5", "SELECT sys$sess$x FROM v$session WHERE a = ?"),
        ("SELECT 1.5e3 FROM t2 AS a1", "SELECT ? FROM t2 AS a1"),
        ("DO $body$ BEGIN PERFORM 's3cret'; END $body$", "DO ?"),
        ("DO $$ s3cret $$", "DO ?"),
        ('SELECT "a  b" FROM "2"', 'SELECT "a  b" FROM "2"'),
        ('SELECT "a \'s3cret" FROM "2"', 'SELECT ? FROM "2"'),  # a name, or two texts that are not well formed
        ("UPDATE u SET p = 'x' WHERE n = \"it's and c = 's3cret'", "UPDATE u SET p = ? WHERE n = ?"),
        ('SELECT "s3cret', "SELECT ?"),
        ("SELECT $1, $77702", "SELECT $1, $?"),
        ("ALTER SUBSCRIPTION s SET (application = s3cret)", "ALTER SUBSCRIPTION s SET ( ?"),
        ("SELECT .5e3, 1e-5, 2.5E+3, 1_000, 0x1F, -.5", "SELECT ?, ?, ?, ?, ?, -?"),
        ("SELECT 1 -- s3cret\nFROM t /* s3cret */", "SELECT ?  \nFROM t"),
        ("CREATE ROLE x PASSWORD 's3cret", "CREATE ROLE x PASSWORD ?"),
        ("DO $$ s3cret", "DO ?"),
        ("OPTIONS (user 'CORP\\', password 's3cret')", "OPTIONS (user ?"),
        ("/* a /* b */ it's */ CREATE ROLE r PASSWORD 's3cret'", "?"),
        ("CREATE ROLE r PASSWORD $a1$s3cret$a1$", "CREATE ROLE r PASSWORD ?"),
        ("CREATE ROLE r PASSWORD $é$s3cret$é$", "CREATE ROLE r PASSWORD ?"),
        ("SET app.jwt = s3cret", "SET app.jwt = ?"),
        ("set local app.jwt to s3cret, more", "set local app.jwt to ?"),
        ('SET app.jwt = "s3cret"; SELECT a FROM t', "SET app.jwt = ?; SELECT a FROM t"),
        ("SET app.jwt=s3cret.a-b/c", "SET app.jwt= ?"),
        ("SET app.jwt = hun;s3cret;s3cret", "SET app.jwt = ?;?;?"),
        ("ALTER USER u PASSWORD hun;s3cret; SELECT a", "ALTER USER u PASSWORD ?;?; SELECT a"),
        ("SELECT a;SELECT b", "SELECT a;SELECT b"),
        ("SET app.jwt s3cret", "SET app.jwt ?"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET SESSION CHARACTERISTICS ?"),
        ("SET ROLE app", "SET ROLE app"),
        ("SET LOCAL ROLE app", "SET LOCAL ROLE app"),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
        ("SELECT 1; SET app.jwt = s3cret; SELECT b", "SELECT ?; SET app.jwt = ?; SELECT b"),
        ("ALTER ROLE app IN DATABASE d SET app.key = s3cret", "ALTER ROLE app IN DATABASE d SET app.key = ?"),
        ('ALTER DATABASE "a;b" SET "app"."key" TO s3cret', 'ALTER DATABASE "a;b" SET "app"."key" TO ?'),
        ("ALTER SYSTEM SET app.key = s3cret", "ALTER SYSTEM SET app.key = ?"),
        (
            "CREATE FUNCTION f() RETURNS int SET app.key = s3cret AS 'x'",
            "CREATE FUNCTION f() RETURNS int SET app.key = ?",
        ),
        ("CREATE USER u PASSWORD s3cret", "CREATE USER u PASSWORD ?"),
        (
            "ALTER USER u WITH ENCRYPTED PASSWORD s3-cret VALID UNTIL now",
            "ALTER USER u WITH ENCRYPTED PASSWORD ?",
        ),
        ('ALTER USER u PASSWORD "s3cret"', "ALTER USER u PASSWORD ?"),
        ("COPY t FROM PROGRAM 'curl -u a:s3cret'", "COPY t FROM PROGRAM ?"),
        ("COPY t FROM PROGRAM curl -u a:s3cret", "COPY t FROM PROGRAM ?"),
        ("CREATE SERVER s OPTIONS (host h, ADD password s3cret)", "CREATE SERVER s OPTIONS (host ?"),
        (
            "CREATE SERVER s OPTIONS (host 'h', ADD password 'x', DROP y)",
            "CREATE SERVER s OPTIONS (host ?, ADD password ?, DROP y)",
        ),
        ("CREATE SERVER s OPTIONS (password s3)cret)", "CREATE SERVER s OPTIONS (password ?"),
        ('CREATE SERVER s OPTIONS (password "s3,cr)et")', "CREATE SERVER s OPTIONS (password ?"),
        ("CREATE SUBSCRIPTION s CONNECTION host=h password=s3cret", "CREATE SUBSCRIPTION s CONNECTION ?"),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", "CREATE SUBSCRIPTION s CONNECTION ? PUBLICATION p"),
        ("CREATE ROLE r CONNECTION LIMIT 5", "CREATE ROLE r CONNECTION LIMIT ?"),
        ("SET/*x*/app.jwt=s3cret", "SET app.jwt= ?"),
        ("SET--c\napp.jwt--d\n=--e\ns3cret", "SET \napp.jwt \n= ?"),
        ("ALTER ROLE r SET/**/app.key = s3cret", "ALTER ROLE r SET app.key = ?"),
        ("ALTER ROLE r SET app-key = s3cret", "ALTER ROLE r SET app ?"),
        ("ALTER ROLE r SET app.key s3cret", "ALTER ROLE r SET app.key ?"),
        ("ALTER DATABASE d SET TABLESPACE s", "ALTER DATABASE d SET TABLESPACE s"),
        ("SET app-key = s3cret", "SET app ?"),
        ('SET"app.jwt"=s3cret', 'SET"app.jwt"= ?'),
        ("SET U&\"a!0061\" UESCAPE '!' = s3cret", 'SET U&"a!0061" UESCAPE ? = ?'),
        ('ALTER USER u PASSWORD "s3 cret"', "ALTER USER u PASSWORD ?"),
        ("ALTER USER u PASSWORD s3 cret", "ALTER USER u PASSWORD ?"),
        ('COPY t FROM PROGRAM"curl s3cret"', "COPY t FROM PROGRAM ?"),
        ("EXECUTE p(s3cret)", "EXECUTE p(?)"),
        ("EXECUTE p('s3cret', 1)", "EXECUTE p(?, ?)"),
        ("EXPLAIN (ANALYZE) EXECUTE p(s3cret)", "EXPLAIN (ANALYZE) EXECUTE p(?)"),
        ("CREATE TABLE t AS EXECUTE p(s3cret)", "CREATE TABLE t AS EXECUTE p(?)"),
        (
            "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION b.f(s3cret)",
            "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION b.f(?)",
        ),
        ("GRANT EXECUTE ON FUNCTION f(int) TO a", "GRANT EXECUTE ON FUNCTION f(int) TO a"),
        ("CALL a.f(s3cret)", "CALL a.f(?)"),
        ("CALL a.f($1, $2)", "CALL a.f($1, $2)"),
        ("NOTIFY channel, s3cret", "NOTIFY channel, ?"),
        ("COMMENT ON TABLE t IS s3cret", "COMMENT ON TABLE t IS ?"),
        ("SECURITY LABEL FOR p ON TABLE t IS s3cret", "SECURITY LABEL FOR p ON TABLE t IS ?"),
        ("UPDATE t SET a = b, password = c WHERE d = e", "UPDATE t SET a = b, password = c WHERE d = e"),
        ("INSERT INTO t ON CONFLICT DO UPDATE SET a = b", "INSERT INTO t ON CONFLICT DO UPDATE SET a = b"),
        ("WITH x AS (UPDATE t SET a = b) SELECT c", "WITH x AS (UPDATE t SET a = b) SELECT c"),
        ("ALTER TABLE t ALTER c SET DEFAULT now()", "ALTER TABLE t ALTER c SET DEFAULT now()"),
        ("ALTER TABLE a RENAME TO b", "ALTER TABLE a RENAME TO b"),
        ('UPDATE a SET b = E\'{"token":"s3cret\\', "UPDATE a SET b = ?"),
        ("UPDATE a SET b = 's3cret\\", "UPDATE a SET b = ?"),
        ("SELECT $😀$s3cret pass$😀$ FROM a", "SELECT ? FROM a"),
        ("SET app.a😀b = s3cret", "SET app.a😀b = ?"),
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


SECRET = "zq7" + "x" * 8

ODD = st.sampled_from(["{}", "{}){}", "{},{}", "{} {}", "{}-{}", "{}={}", "{}({}", "{}\\t{}", "p://u:{}@h/{}"])
"""Secrets of two parts, as they are not well formed without quotes."""

BLANK = st.sampled_from([" ", "\t\n", "/**/", "/* c */", " /* 'c */ ", "--c\n", "-- it's\n "])

QUOTED = st.sampled_from(["{}", "'{}'", '"{}"', "$${}$$", "E'{}'", "$a${}$a$"])

PLACES = st.sampled_from(
    [
        "SET app.jwt = {}",
        "SET app.jwt TO {}",
        "set session app.jwt={}",
        "SET LOCAL app.jwt = a, {}",
        "ALTER ROLE r SET app.key = {}",
        "ALTER ROLE ALL IN DATABASE d SET app.key TO {}",
        "ALTER DATABASE d SET a.b.c = {}",
        "ALTER SYSTEM SET app.key = {}",
        "ALTER FUNCTION f(int) SET app.key = {}",
        "CREATE ROLE r LOGIN PASSWORD {}",
        "ALTER USER r ENCRYPTED PASSWORD {} NOSUPERUSER",
        "CREATE USER MAPPING FOR r SERVER s OPTIONS (user u, password {})",
        "ALTER USER MAPPING FOR r SERVER s OPTIONS (SET password {})",
        "COPY t TO PROGRAM {}",
        "COPY t FROM PROGRAM {}",
        'SET "app"."jwt" = {}',
        "SET app-jwt = {}",
        "ALTER ROLE r SET app.key {}",
        "CREATE SERVER s OPTIONS (host h, token {})",
        "CREATE SUBSCRIPTION s CONNECTION {}",
        "ALTER SUBSCRIPTION s CONNECTION {}",
        "SECURITY LABEL FOR p ON ROLE r IS {}",
        "COMMENT ON ROLE r IS {}",
        "NOTIFY ch, {}",
        "EXECUTE p({})",
        "EXECUTE p (a, {})",
        "EXPLAIN EXECUTE p({})",
        "CREATE TABLE t AS EXECUTE p({})",
        "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f({})",
        "CALL s.f({})",
    ]
)

AROUND = st.sampled_from(
    ["{}", "{};", " /* c */ {}", "SELECT a FROM t; {}; SELECT b", "BEGIN;{};COMMIT", "\n-- c\n{}\n"]
)


@given(PLACES, QUOTED, ODD, BLANK, AROUND, st.sampled_from([str, str.lower]), st.integers(0, 60), st.integers(40, 200))
@settings(max_examples=examples(600), deadline=None)
def test_a_secret_of_a_utility_statement_never_shows_however_it_is_written_or_cut_off(
    place: str, quoted: str, odd: str, blank: str, around: str, case: Callable[[str], str], cut: int, length: int
) -> None:
    """Nor when it is shortened afterwards."""
    secret = quoted.format(odd.format(SECRET, SECRET))
    text = case(around.format(place.replace(" ", blank))).format(secret)
    for shown in (without_literals(text), without_literals(text[: text.index(SECRET) + 4 + cut])):
        assert "zq7" not in shown
        assert "zq7" not in shortened(shown, length)


ONE, TWO = ("shop", "web", "1"), ("shop", "web", "2")


def test_texts_are_read_once_and_forgotten_with_their_statement() -> None:
    texts = Texts()
    assert texts.missing([ONE, TWO], 0) == [ONE, TWO]
    texts.learn({ONE: "SELECT 5"}, [ONE, TWO], 0)
    later = ASK_AGAIN_SECONDS
    assert texts.missing([ONE, TWO], later) == [TWO]
    assert (texts.text(ONE), texts.text(TWO)) == ("SELECT ?", "")
    assert texts.missing([TWO], 2 * later) == [TWO]
    assert texts.text(ONE) == ""


def test_a_text_that_cannot_be_read_is_not_asked_for_by_every_client() -> None:
    texts = Texts()
    assert texts.missing([ONE], 0) == [ONE]
    assert [texts.missing([ONE], second) for second in range(1, 15)] == [[]] * 14
    assert texts.missing([ONE], ASK_AGAIN_SECONDS) == [ONE]


def test_a_name_has_the_characters_of_postgresql_and_of_our_own_placeholders() -> None:
    plain, ours = (re.compile(pattern, re.IGNORECASE) for pattern in (r"[\w$?\x80-\U0010ffff]", NAME))
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    assert [each for each in characters if bool(plain.fullmatch(each)) != bool(ours.fullmatch(each))] == []
