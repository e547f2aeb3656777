"""The generated metrics reference."""

from bench.costs import written_costs
from pages import named

from exporter.catalog.load import BUILT_IN, load
from exporter.catalog.model import Catalog
from exporter.commands.reference import RunCost, read_costs, reference

COSTS = BUILT_IN / "costs.tsv"


def test_it_is_up_to_date() -> None:
    written = (BUILT_IN / "README.md").read_text("utf-8")
    assert written == reference(load(BUILT_IN), read_costs(COSTS.read_text())), "run: uv run pgvigil reference"


def test_it_has_every_metric_once() -> None:
    text = reference(load(BUILT_IN), {})
    for collector in load(BUILT_IN):
        for metric in collector.metrics:
            assert text.count(f"| `{metric.name}` |") == 1


def test_it_says_what_a_collector_reads_and_costs() -> None:
    catalog = Catalog((named(load(BUILT_IN), "locks"),))
    text = reference(catalog, {"locks": RunCost(0.1234, 0.85, 40.6, 12345.6)})
    assert "Reads `pg_lock_status()`, `pg_stat_get_activity()`." in text
    assert "A run costs 0.12 ms and 0.85 blocks with 20 tables, 41 ms and 12000 blocks with 10 000." in text


def test_what_every_collector_costs_has_been_measured() -> None:
    """But for those that run on a standby only: there is none in the measurement."""
    costs = read_costs(COSTS.read_text())
    due = {each.name for each in load(BUILT_IN).of_kind("postgresql") if each.role != "standby"}
    assert due - costs.keys() == set(), "run: uv run python tests/bench/costs.py"
    assert written_costs(costs) == COSTS.read_text()
