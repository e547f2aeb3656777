"""The generated metrics reference."""

from exporter.catalog import BUILT_IN, load
from exporter.reference import reference


def test_it_is_up_to_date() -> None:
    written = (BUILT_IN / "README.md").read_text("utf-8")
    assert written == reference(load(BUILT_IN)), "run: uv run pgvigil reference"


def test_it_has_every_metric_once() -> None:
    text = reference(load(BUILT_IN))
    for collector in load(BUILT_IN):
        for metric in collector.metrics:
            assert text.count(f"| `{metric.name}` |") == 1
