"""Catalog and settings -> their reference in Markdown. Pure."""

from collections.abc import Iterable

from exporter.catalog import Catalog, Collector, Metric
from exporter.own import OWN
from exporter.sampler import METRICS as SAMPLED
from exporter.settings import PREFIX, Settings
from exporter.watch import NAME

_HEAD = """# Metrics reference

Written by `pgvigil reference` from the collector files beside it; a test fails when it is out of date.

Every collector of scope *database* runs in each database that the role may connect to, and adds the label `datname`.
*also* is the name that postgres_exporter gives the same value, served as well with `compatibility_names`. With it the
collectors in `compatibility/` run too, which serve what has other labels or units there; `pgvigil reference --diff
postgres_exporter` lists every name of postgres_exporter with ours.
"""

_SAMPLER = (
    "What sessions do and wait for between scrapes, looked at every `sample_interval` seconds; no file, but code."
)


def reference(catalog: Catalog) -> str:
    """Describe every collector and metric, the exporter's own at the end."""
    parts = [_HEAD]
    parts += [_collector(collector) for collector in sorted(catalog, key=lambda collector: collector.name)]
    parts.append(f"## {NAME}\n\n{_SAMPLER}\n\n" + _table((metric, metric.labels) for metric in SAMPLED))
    parts.append("## The exporter itself\n\n" + _table((metric, metric.labels) for metric in OWN))
    return "\n".join(parts)


def _collector(collector: Collector) -> str:
    totals = [(total, ()) for metric in collector.metrics if (total := metric.in_total())]
    metrics = [(metric, collector.labels_of(metric)) for metric in collector.metrics]
    return f"## {collector.name}\n\n{collector.help}\n\n{_facts(collector)}\n\n{_table([*metrics, *totals])}"


def _facts(collector: Collector) -> str:
    facts = [f"Scope {collector.scope}", f"time limit {collector.timeout:g} s"]
    if collector.extension:
        facts.append(f"needs the extension {collector.extension}")
    if collector.role != "any":
        facts.append(f"on a {collector.role} only")
    if collector.cache:
        facts.append(f"collected every {collector.cache:g} s at most")
    if collector.limit:
        facts.append(f"at most {collector.limit} rows")
    if not collector.enabled:
        facts.append("off by default")
    return ", ".join(facts) + "."


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


def settings_table() -> str:
    """Describe every setting, as README.md has it."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if not default or "Secret" in type(default).__name__ else f"`{default}`"
        shown = "`false`" if default is False else shown
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {_cell(field.description or '')} |")
    return "\n".join(lines)
