"""What the demo says: the findings of the page, in its words, and how near the server is to its limits."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from exporter.demo.display import display
from exporter.demo.screen import Line, lines
from exporter.diagnosis.findings import Finding
from exporter.diagnosis.situation import Situation, Vital

ROOT = "pid 7 (reporting, psql, idle in transaction) blocks 7 sessions on public.users, the longest for 15 s"

NOW = Situation(
    target="",
    address="127.0.0.1:5432",
    product="PostgreSQL",
    is_up=True,
    down_reason="",
    version="18.1",
    role="primary",
    up_seconds=60.0,
    age=1.0,
    vitals=(
        Vital("connections", "9 of 37", "good", "alert from 80% used"),
        Vital("longest lock wait", "15 s", "critical", "alert from 10 s"),
        Vital("fullest sequence", "not known", "unknown", "alert from 80%"),
    ),
    findings=(
        Finding("PostgreSQLLockQueue", "critical", ROOT),
        Finding("PostgreSQLDeadTuples", "warning", "table public.carts has 9 dead rows"),
    ),
    locks=(),
)


def test_what_can_wait_and_what_is_not_judged_stand_apart() -> None:
    waits = replace(NOW.findings[1], can_wait=True)
    now = replace(NOW, findings=(NOW.findings[0], waits), vitals=(), unjudged=("statements (not read yet)",))
    assert [*lines(now)] == [
        Line("critical", "bad", ROOT),
        Line("can wait", "open", "table public.carts has 9 dead rows"),
        Line("not judged", "open", "statements (not read yet)"),
    ]


def test_findings_come_first_and_what_is_near_its_limit_is_marked() -> None:
    assert [*lines(NOW)] == [
        Line("critical", "bad", ROOT),
        Line("warning", "bad", "table public.carts has 9 dead rows"),
        Line("connections", "good", "9 of 37, alert from 80% used"),
        Line("longest lock wait", "bad", "15 s, alert from 10 s"),
        Line("fullest sequence", "open", "not known, alert from 80%"),
    ]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (replace(NOW, findings=(), vitals=()), [Line("good", "good", "nothing is wrong that is known")]),
        (replace(NOW, is_up=False, findings=(), vitals=()), []),
        (
            replace(NOW, is_up=False, vitals=(), findings=(Finding("PostgreSQLDown", "critical", "is down: hung"),)),
            [Line("critical", "bad", "is down: hung")],
        ),
    ],
    ids=["well", "not asked yet", "down"],
)
def test_nothing_is_called_well_that_is_not_known(now: Situation, expected: list[Line]) -> None:
    assert [*lines(now)] == expected


def test_without_a_terminal_a_line_stays_a_line_and_names_are_no_markup() -> None:
    out = io.StringIO()
    with display(Console(file=out, width=40)) as show:
        show([Line("critical", "bad", f"[red]{ROOT}[/red]")])
    assert out.getvalue() == f"! critical             [red]{ROOT}[/red]\n\n"
