"""Collectors made for one test."""

from exporter.catalog.model import Collector


def collector(**changes: object) -> Collector:
    """A valid collector but for the changes."""
    metric = {"name": "pg_a_total", "type": "counter", "help": "A.", "column": "a"}
    plain = {"name": "a", "help": "A.", "sql": "SELECT 1 AS a", "metrics": [metric]}
    return Collector.model_validate(plain | changes)
