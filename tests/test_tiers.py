"""The tiers: which tests a command line runs."""

from pathlib import Path

import pytest
from tiers import EVERY_MAJOR, HEAVY, SLOWEST, Asked, Test

LIGHT = Test("tests/test_logs.py::test_a_line")
NEW = Test("tests/collectors/test_locks.py::test_a_queue[pg18]", 18)
OLD = Test("tests/collectors/test_locks.py::test_a_queue[pg13]", 13)
CONTRACT = Test("tests/collectors/test_contract.py::test_every_query[pg13]", 13)
FAULT = Test("tests/faults/test_fault_server.py::test_a_crash[18]", 18)
MARKED = Test("tests/alerts/test_rules.py::test_the_rule_tests_pass[newest]", heavy=True)
ALL = {LIGHT, NEW, OLD, CONTRACT, FAULT, MARKED}


@pytest.mark.parametrize(
    ("asked", "run"),
    [
        (Asked(), {LIGHT, NEW, CONTRACT}),
        (Asked(full=True), ALL),
        (Asked(major="13"), {OLD, CONTRACT}),
        (Asked(major="18"), {NEW}),
        (Asked(major="none"), {LIGHT}),
        (Asked(full=True, major="18"), {NEW, FAULT}),
        (Asked(full=True, major="none"), {LIGHT, MARKED}),
        (Asked(places=("tests/faults",)), {LIGHT, NEW, CONTRACT, FAULT}),
        (Asked(places=("tests/alerts/test_rules.py",)), {LIGHT, NEW, CONTRACT, MARKED}),
        (Asked(places=("tests/alerts/test_rules.py::test_the_rule_tests_pass",)), {LIGHT, NEW, CONTRACT, MARKED}),
        (Asked(places=("tests/collectors/test_locks.py",)), {LIGHT, NEW, CONTRACT}),
        (Asked(places=(OLD.nodeid,)), {LIGHT, NEW, OLD, CONTRACT}),
        (Asked(major="13", places=("tests/faults",)), {OLD, CONTRACT}),
    ],
)
def test_what_is_asked_for_is_run(asked: Asked, run: set[Test]) -> None:
    """Of the places that are named pytest collects nothing else; these tests are all collected."""
    assert {test for test in ALL if asked.runs(test)} == run


def test_the_tiers_name_what_there_is() -> None:
    for place in (*HEAVY, *EVERY_MAJOR, *SLOWEST):
        path, _, function = place.partition("::")
        named = Path(__file__).parents[1] / path
        assert named.exists(), place
        assert not function or f"def {function}(" in named.read_text("utf-8"), place


def test_the_slowest_files_start_first_and_no_file_is_torn() -> None:
    slowest = Test(f"{SLOWEST[0]}::test_z")
    tests = sorted([NEW, LIGHT, slowest, OLD], key=lambda test: test.start)
    assert tests == [slowest, NEW, OLD, LIGHT]
