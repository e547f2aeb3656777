"""Asks the engine for a page of a server and looks things up on it."""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from exporter.catalog.load import BUILT_IN, load
from exporter.catalog.model import Catalog, Collector
from exporter.connections.postgres import Postgres
from exporter.exposition.negotiation import negotiate
from exporter.exposition.page import Pages
from exporter.report import Report
from exporter.scrape.target import Options, Target

MONITOR = "pgvigil"
"""The role that the exporter connects as in tests: a member of pg_monitor, nothing more."""

MAX_SAMPLES = 500_000
"""The limit of a page, as `max_samples` has it by default."""

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Page:
    """A page as Prometheus reads it."""

    text: str
    samples: Mapping[str, list[tuple[Labels, float]]]

    def series(self, name: str, /, **labels: object) -> list[tuple[Labels, float]]:
        """All series of a metric that have these labels."""
        wanted = {label: str(value) for label, value in labels.items()}
        return [(had, value) for had, value in self.samples.get(name, []) if wanted.items() <= had.items()]

    def value(self, name: str, /, **labels: object) -> float:
        """The value of the only series that has these labels."""
        found = self.series(name, **labels)
        assert len(found) == 1, f"{name}{labels}: {len(found)} series instead of one: {found}"
        return found[0][1]

    def labels(self, name: str, /, **labels: object) -> Labels:
        """The labels of the only series that has these labels."""
        [(had, _)] = self.series(name, **labels)
        return had


class Parsed(Mapping[str, list[tuple[Labels, float]]]):
    """The series of a page by metric. Each metric is parsed when it is asked for: tests look at a few of hundreds."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, list[str]] = {}
        for line in text.split("\n"):
            if line and not line.startswith("#"):
                self._lines.setdefault(re.split("[{ ]", line, maxsplit=1)[0], []).append(line)
        self._known: dict[str, list[tuple[Labels, float]]] = {}

    def __getitem__(self, name: str) -> list[tuple[Labels, float]]:
        """Parse one metric with prometheus-client."""
        if name not in self._known:
            families = text_string_to_metric_families("\n".join(self._lines[name]) + "\n")
            self._known[name] = [(sample.labels, sample.value) for each in families for sample in each.samples]
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        """Give the names of all metrics."""
        return iter(self._lines)

    def __len__(self) -> int:
        """Count them."""
        return len(self._lines)


@cache
def catalog() -> Catalog:
    """The built-in collectors, read once."""
    return load(BUILT_IN)


def named(catalog: Catalog, name: str) -> Collector:
    """The collector of that name."""
    return next(collector for collector in catalog if collector.name == name)


_looked_at: Catalog | None = None


@contextmanager
def only(names: Sequence[str]) -> Iterator[None]:
    """Let the targets made meanwhile have these built-in collectors alone: all of them take ten times as long."""
    global _looked_at  # pages are asked for in dozens of helpers
    _looked_at = Catalog(tuple(named(catalog(), name) for name in names))
    try:
        yield
    finally:
        _looked_at = None


def read(text: str) -> Page:
    """Parse a page, as far as it is looked at."""
    return Page(text, Parsed(text))


def read_whole(text: str) -> Page:
    """Parse all of a page with prometheus-client, which refuses what is none."""
    samples: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Page(text, samples)


def target(dsn: str, collectors: Catalog | None = None, **options: Any) -> Target:
    """A target as `serve` makes it."""
    return Target(collectors or _looked_at or catalog(), Postgres(SecretStr(dsn)), Options(**options))


def uncached(*names: str) -> Catalog:
    """The built-in collectors, of which these, or all of them, read the server at every scrape."""
    return Catalog(tuple(c.model_copy(update={"cache": 0.0}) if c.name in names or not names else c for c in catalog()))


def written(report: Report, max_samples: int = MAX_SAMPLES) -> Page:
    """The page of a report, with the exporter's own metrics of that target."""
    return read(Pages(max_samples).page(report, negotiate(""), gzip=False).decode())


def compatible(report: Report, accept: str = "") -> str:
    """The text of a report's page with `compatibility_names`."""
    return Pages(MAX_SAMPLES, compatibility_names=True).page(report, negotiate(accept), gzip=False).decode()


async def scraped(of: Target, timeout: float = 30.0) -> Page:
    """One scrape of a target that a test keeps."""
    return written(await of.scrape(timeout))


def page(dsn: str, *own: Path, timeout: float = 30.0, **options: Any) -> Page:
    """One scrape by a target made for it; also callable from async tests, whose loop waits meanwhile."""

    async def once() -> Page:
        made = target(dsn, load(BUILT_IN, *own) if own else None, **options)
        try:
            return await scraped(made, timeout)
        finally:
            await made.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, once()).result()


def adds_up(found: Page) -> bool:
    """Tell whether the series of every summed metric of statements add up to its total."""
    for name in ("calls", "exec_seconds", "wal_bytes", "temp_blocks_written"):
        parts = sum(value for _, value in found.series(f"pg_statements_{name}_total"))
        total = found.value(f"pg_statements_all_{name}_total")
        if abs(parts - total) > 1e-9 * total:
            return False
    return True


def line(metric: str, value: float, labels: Mapping[str, str] = {}) -> str:
    """One sample as a page has it."""
    said = ",".join(f'{name}="{text}"' for name, text in labels.items())
    return f"{metric}{{{said}}} {value}\n"
