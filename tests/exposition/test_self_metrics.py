"""The exporter's own metrics: each value, with its labels, as it stands on a page."""

from pathlib import Path

import pytest
from exposition import reports
from pages import compatible

from exporter.exposition.process_metrics import OF_PROCESS
from exporter.exposition.self_metrics import COMPATIBLE, OWN, up_families
from exporter.report import Report

GOLDEN = Path(__file__).with_name("golden")
CASES = {
    "few_databases": reports.FEW_DATABASES,
    "many_databases": reports.MANY_DATABASES,
    "console_down": reports.CONSOLE_DOWN,
}


NOT_OURS = ("# HELP ", "# TYPE pg_values", "pg_values")
"""Help texts are in the reference, and `pg_values` are the samples of a collector."""


def own_lines(report: Report) -> list[str]:
    return [line for line in compatible(report).splitlines() if not line.startswith(NOT_OURS)]


@pytest.mark.parametrize("case", CASES)
def test_a_page_says_of_a_scrape_what_the_golden_one_says(case: str) -> None:
    assert own_lines(CASES[case]) == (GOLDEN / f"{case}.txt").read_text("utf-8").splitlines()


def test_every_own_metric_stands_on_a_golden_page() -> None:
    """A new own metric needs its declaration and, here, the samples that it is to have."""
    golden = "".join(file.read_text("utf-8") for file in GOLDEN.iterdir())
    missing = {metric.name for metric in (*OWN, *COMPATIBLE) if f"# TYPE {metric.name} " not in golden}
    assert missing == {each.name for each in OF_PROCESS}


def test_of_several_targets_each_says_whether_it_is_up_and_why_not() -> None:
    found = [
        (family.metric.name, labels)
        for family in up_families(reports.CONSOLE_DOWN, {"target": "pool"})
        for labels, value in zip(family.labels, family.values, strict=True)
        if value == int(family.metric.name == "pgbouncer_up_reason")
    ]
    assert found == [("pgbouncer_up", 'target="pool"'), ("pgbouncer_up_reason", 'target="pool",reason="refused"')]
