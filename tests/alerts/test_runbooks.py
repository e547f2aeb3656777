"""Every alert has a runbook that fits on a screen, whose SQL runs on the oldest and on the newest server."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from alerts.patient import Patient
from alerts.ruleset import load
from alerts.runbook import RUNBOOKS, Block, blocks, headings

from exporter.demo.cluster import Cluster

FILES = sorted(RUNBOOKS.glob("*.md"))
LINES = 92

every_runbook = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert {file.stem for file in FILES} == load().alerts.keys()


@every_runbook
def test_it_has_the_five_parts_in_their_order(file: Path) -> None:
    parts = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation", "## Prevention"]
    assert headings(file) == [f"# {file.stem}", *parts]
    text = file.read_text("utf-8")
    assert not re.search(r"^## .*\n+(##|\Z)", text, re.MULTILINE), "an empty part"


@every_runbook
def test_it_fits_on_a_screen(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= LINES


@every_runbook
def test_it_tells_nobody_to_make_it_worse(file: Path) -> None:
    sql = "\n".join(block.sql for block in blocks(file))
    assert not re.search(r"\bVACUUM\s*\(?\s*FULL\b", sql, re.IGNORECASE)
    assert not re.search(r"\bCREATE\s+(UNIQUE\s+)?INDEX\s+(?!CONCURRENTLY)", sql, re.IGNORECASE)
    assert not re.search(r"\bREINDEX\s+(INDEX|TABLE)\s+(?!CONCURRENTLY)", sql, re.IGNORECASE)
    cancel, end = sql.find("pg_cancel_backend(:pid)"), sql.find("pg_terminate_backend(:pid)")
    assert end < 0 or cancel < end, "cancel before you terminate"


@every_runbook
def test_it_says_how_to_set_what_its_sql_takes_from_the_alert(file: Path) -> None:
    diagnosis = file.read_text("utf-8").partition("## Diagnosis\n\n")[2].partition("\n")[0]
    told = set(re.findall(r"`\\set (\w+) [^`]+`", diagnosis))
    assert told == {name for block in blocks(file) for name in block.variables}


@pytest.fixture(scope="module", params=(13, 18), ids=lambda major: f"pg{major}")
def patient(request: pytest.FixtureRequest, servers: Callable[[int], Cluster]) -> Iterator[tuple[int, Patient]]:
    with ExitStack() as undo:
        yield request.param, Patient(servers(request.param).build, undo)


@every_runbook
def test_its_sql_runs(file: Path, patient: tuple[int, Patient]) -> None:
    major, server = patient
    failed = [wrong for block in blocks(file) if block.since <= major and (wrong := tried(block, server))]
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
