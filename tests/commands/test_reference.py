"""The generated metrics reference."""

from bench.costs import written_costs
from pages import named
from servers import NEWEST

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


def test_it_says_what_has_not_been_run_on_its_version() -> None:
    """None of those is hidden among those that have been."""
    remark = "Written from the documentation and the sources of PostgreSQL 19, and not run on it yet."
    for collector in load(BUILT_IN):
        has_run = collector.extension or collector.kind != "postgresql" or collector.sql_for((NEWEST,))
        assert (remark in reference(Catalog((collector,)), {})) == (not has_run), collector.name


def test_what_every_collector_costs_has_been_measured() -> None:
    """But for those that run on a standby only, or on a version to come: neither is in the measurement."""
    costs = read_costs(COSTS.read_text())
    ours = [each for each in load(BUILT_IN).of_kind("postgresql") if each.role != "standby"]
    due = {each.name for each in ours if each.extension or each.sql_for((NEWEST,))}
    assert due - costs.keys() == set(), "run: uv run python tests/bench/costs.py"
    assert written_costs(costs) == COSTS.read_text()
