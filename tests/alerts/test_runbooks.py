"""Every alert has a runbook that fits on a screen, whose SQL runs on the oldest and on the newest server."""

import re
from collections.abc import Callable
from contextlib import ExitStack

import asyncpg
import pytest
from alerts.patient import Patient
from alerts.ruleset import load
from alerts.runbook import RUNBOOKS, Block, blocks, headings

from exporter.demo.cluster import Cluster
from exporter.errors import CONNECT_REASONS, MEANINGS

FILES = sorted(RUNBOOKS.glob("*.md"))
LINES = 92


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert {file.stem for file in FILES} == load().alerts.keys()


def test_it_has_the_five_parts_in_their_order(subtests: pytest.Subtests) -> None:
    parts = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation", "## Prevention"]
    for file in FILES:
        with subtests.test(file.stem):
            assert headings(file) == [f"# {file.stem}", *parts]
            text = file.read_text("utf-8")
            assert not re.search(r"^## .*\n+(##|\Z)", text, re.MULTILINE), "an empty part"


def test_that_of_a_server_that_is_down_explains_each_reason() -> None:
    text = (RUNBOOKS / "PostgreSQLDown.md").read_text("utf-8")
    explained = {
        name for names in re.findall(r"^- ((?:`\w+`(?:, )?)+):", text, re.MULTILINE) for name in names.split(", ")
    }
    assert explained == {f"`{reason}`" for reason in CONNECT_REASONS}
    assert MEANINGS.keys() == {*CONNECT_REASONS}


def test_it_fits_on_a_screen() -> None:
    lines = {file.stem: len(file.read_text("utf-8").splitlines()) for file in FILES}
    assert {name: count for name, count in lines.items() if count > LINES} == {}


def test_it_tells_nobody_to_make_it_worse(subtests: pytest.Subtests) -> None:
    for file in FILES:
        with subtests.test(file.stem):
            sql = "\n".join(block.sql for block in blocks(file))
            assert not re.search(r"\bVACUUM\s*\(?\s*FULL\b", sql, re.IGNORECASE)
            assert not re.search(r"\bCREATE\s+(UNIQUE\s+)?INDEX\s+(?!CONCURRENTLY)", sql, re.IGNORECASE)
            assert not re.search(r"\bREINDEX\s+(INDEX|TABLE)\s+(?!CONCURRENTLY)", sql, re.IGNORECASE)
            cancel, end = sql.find("pg_cancel_backend(:pid)"), sql.find("pg_terminate_backend(:pid)")
            assert end < 0 or cancel < end, "cancel before you terminate"


def test_it_says_how_to_set_what_its_sql_takes_from_the_alert(subtests: pytest.Subtests) -> None:
    for file in FILES:
        with subtests.test(file.stem):
            diagnosis = file.read_text("utf-8").partition("## Diagnosis\n\n")[2].partition("\n")[0]
            told = set(re.findall(r"`\\set (\w+) [^`]+`", diagnosis))
            assert told == {name for block in blocks(file) for name in block.variables}


@pytest.mark.parametrize("major", [13, 18])
def test_its_sql_runs(major: int, servers: Callable[[int], Cluster]) -> None:
    with ExitStack() as undo:
        server = Patient(servers(major).build, undo)
        wanted = [block for file in FILES for block in blocks(file) if block.since <= major]
        failed = [wrong for block in wanted if (wrong := tried(block, server))]
    assert not failed, "\n\n".join(failed)


def tried(block: Block, server: Patient) -> str:
    """Run a block; says what is wrong, if anything."""
    try:
        server.tries(block)
    except KeyError as error:
        return f"{block}\nno value is known for the variable {error}"
    except asyncpg.PostgresError as error:
        return f"{block}\n{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :pid::int, ':pid', x::text; -- :pid;\nSELECT 2", ["SELECT 7::int, ':pid', x::text", "SELECT 2"]),
        ("DROP TABLE :\"name\"; SELECT :'name'", ['DROP TABLE "a""b\'c"', "SELECT 'a\"b''c'"]),
        ("DO $$ BEGIN; END $$;", ["DO $$ BEGIN; END $$"]),
        ("SELECT ';' AS \"a;b\";\n-- the end;\n", ["SELECT ';' AS \"a;b\""]),
    ],
)
def test_blocks_are_read_as_psql_reads_them(sql: str, expected: list[str]) -> None:
    block = Block("a.md", 1, sql, owner=False, since=0)
    found = block.statements({"pid": "7", "name": "a\"b'c"})
    assert [re.sub(r"^-- :pid;\n", "", statement) for statement in found] == expected
