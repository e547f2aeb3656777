"""Catalog -> its reference in Markdown. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from exporter.catalog.by_version import NEWEST
from exporter.catalog.model import Catalog, Collector, Metric
from exporter.exposition.self_metrics import OWN
from exporter.kinds import PRODUCTS
from exporter.schedule.next_run import FRESH_SECONDS
from exporter.scrape import statement_texts
from exporter.watch import wait_sampler

_HEAD = """# Metrics reference

Written by `pgvigil reference` from the collector files beside it; a test fails when it is out of date.

Collectors *of PgBouncer* run on its console, for targets of that kind; all others on PostgreSQL.
Every collector of scope *database* runs in each database that the role may connect to, and adds the label `datname`.
*also* is the name that postgres_exporter (of PgBouncer: pgbouncer_exporter since 0.11) gives the same value, served as
well with `compatibility_names`. With it the collectors in `compatibility/` run too, which serve what has other labels
or units there; `pgvigil reference --diff postgres_exporter` lists every name of postgres_exporter with ours.

*A run costs* is what PostgreSQL 18 counts of the collector's statement, planning included, in a database of 20 tables
and in one of 10 000 with two indexes each, 20 runs each on 2 cores; `uv run python tests/bench/costs.py` measures it
anew. A collector runs at every scrape, or as seldom as said. What it costs on your server is in
`pgvigil_collector_server_seconds_total`.
"""

_TEXTS = (
    "The texts of the statements that have series of their own, read beside the scrapes, once each: by a login every"
    f" {statement_texts.READ_SECONDS:.0f} s at most, while there are new ones; no file, but code. Names in a text, such"
    " as a schema's, may be personal data: `statement_text_length: 0` leaves texts off the page."
)

_SAMPLER = (
    "What sessions do and wait for between scrapes, looked at every `sample_interval` seconds, half as often while no"
    " session is at work; no file, but code."
)

_IN_CODE: Mapping[str, tuple[str, Sequence[Metric]]] = {
    statement_texts.COLLECTOR: (_TEXTS, statement_texts.METRICS),
    wait_sampler.COLLECTOR: (_SAMPLER, wait_sampler.METRICS),
}
"""Collectors that are code: what they do, and their metrics."""


class RunCost(NamedTuple):
    """Cost of one run of a collector with 20 and with 10 000 tables: milliseconds, and blocks of 8 kB that are read."""

    small_ms: float
    small_blocks: float
    large_ms: float
    large_blocks: float


def read_costs(text: str) -> dict[str, RunCost]:
    """Read the table of costs: collector, and the four numbers, separated by tabs, under a line that names them."""
    rows = (line.split("\t") for line in text.splitlines()[1:])
    return {name: RunCost(*map(float, numbers)) for name, *numbers in rows}


def reference(catalog: Catalog, costs: Mapping[str, RunCost]) -> str:
    """Describe every collector and metric, the exporter's own at the end."""
    parts = [_HEAD]
    parts += [
        _collector(collector, costs.get(collector.name))
        for collector in sorted(catalog, key=lambda collector: collector.name)
    ]
    for name, (text, metrics) in _IN_CODE.items():
        parts.append(f"## {name}\n\n{text}\n\n" + _table((metric, metric.labels) for metric in metrics))
    parts.append("## The exporter itself\n\n" + _table((metric, metric.labels) for metric in OWN))
    return "\n".join(parts)


def _collector(collector: Collector, cost: RunCost | None) -> str:
    totals = [(total, ()) for metric in collector.metrics if (total := metric.in_total())]
    metrics = [(metric, collector.labels_of(metric)) for metric in collector.metrics]
    facts = "\n".join(filter(None, (_facts(collector), _sources(collector), _costs(cost), _untried(collector))))
    return f"## {collector.name}\n\n{collector.help}\n\n{facts}\n\n{_table([*metrics, *totals])}"


def _facts(collector: Collector) -> str:
    scope = f"Scope {collector.scope}" if collector.kind == "postgresql" else f"Of {PRODUCTS[collector.kind]}"
    facts = [scope, f"time limit {collector.timeout:g} s"]
    if collector.extension:
        facts.append(f"needs the extension {collector.extension}")
    if collector.needs_tables:
        facts.append("only where somebody has made a table")
    if collector.role != "any":
        facts.append(f"on a {collector.role} only")
    if collector.cache:
        is_sooner = collector.fresh and collector.cache > FRESH_SECONDS
        sooner = f", or {FRESH_SECONDS:g} s where a run costs little" if is_sooner else ""
        facts.append(f"collected every {collector.cache:g} s at most{sooner}")
    if collector.table:
        facts.append("of the tables that the settings choose")
    if collector.limit:
        facts.append(f"at most {collector.limit} rows")
    if not collector.enabled:
        facts.append("off by default")
    return ", ".join(facts) + "."


_RELATION = re.compile(r"(?:pg_catalog|\{schema\})\.(\w+)\b(?!\()")
_SHOWN = re.compile(r"\bshow_([a-z_]+)")
_FUNCTION = re.compile(r"\b((?:pg_stat|pg_ls|pg_lock|pg_control|pg_show|pg_prepared|pg_buffercache)\w*)\(")


def _sources(collector: Collector) -> str:
    """Name the catalogs, the views and the statistics functions that the queries read."""
    text = "\n".join(re.sub(r"--.*", "", query) for query in collector.queries())
    found = {f"`{name}`" for name in _RELATION.findall(text)} | {f"`{name}()`" for name in _FUNCTION.findall(text)}
    found |= {f"`SHOW {name.upper()}`" for name in _SHOWN.findall(text)}
    return f"Reads {', '.join(sorted(found))}." if found else ""


def _costs(cost: RunCost | None) -> str:
    if not cost:
        return ""
    small, large = (f"{_short(ms)} ms and {_short(blocks)} blocks" for ms, blocks in (cost[:2], cost[2:]))
    return f"A run costs {small} with 20 tables, {large} with 10 000."


def _untried(collector: Collector) -> str:
    """Say so where no version that the tests run on has a query; the versions of extensions are smaller numbers."""
    first = next(version for version, sql in collector.sql.items() if sql is not None)
    if first <= (NEWEST,):
        return ""
    return f"Written from the documentation and the sources of PostgreSQL {first[0]}, and not run on it yet."


def _short(number: float) -> str:
    """Write a number with two digits that count."""
    return f"{number:.2g}" if number < 100 else f"{float(f'{number:.2g}'):.0f}"


def _table(metrics: Iterable[tuple[Metric, tuple[str, ...]]]) -> str:
    lines = ["| metric | type | labels | versions | meaning |", "|---|---|---|---|---|"]
    for metric, labels in metrics:
        also = f" *also* `{metric.also}`" if metric.also else ""
        shown = ", ".join(f"`{label}`" for label in labels)
        lines.append(
            f"| `{metric.name}` | {metric.type} | {shown} | {_versions(metric)} | {_cell(metric.help)}{also} |"
        )
    return "\n".join(lines) + "\n"


def _versions(metric: Metric) -> str:
    since = ".".join(map(str, metric.since)) + "+" if metric.since else ""
    until = "before " + ".".join(map(str, metric.until)) if metric.until else ""
    return ", ".join(filter(None, (since, until)))


def _cell(text: str) -> str:
    return text.strip().replace("|", r"\|").replace("\n", " ")
