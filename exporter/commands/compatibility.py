"""Names of postgres_exporter: which of them pgvigil serves, its own name for each, and how the two differ."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.catalog.load import COMPATIBILITY
from exporter.catalog.model import Catalog, Metric
from exporter.exposition.process_metrics import process_families
from exporter.exposition.self_metrics import COMPATIBLE, OWN

TABLE = COMPATIBILITY / "postgres_exporter.tsv"
"""Every name of theirs: the one place where a difference, or why a name is not served, is written down."""

_SETTINGS = "pg_settings_"

_HEAD = """# From postgres_exporter's names to ours

Written by `pgvigil reference --diff postgres_exporter`. With `compatibility_names` every name below is served with
postgres_exporter's labels, but for those under *Not served*; the names in the column *ours* are there without it as
well. A counter of theirs whose name does not end with `_total` is untyped, since OpenMetrics knows no such counters.
*where* is the flag of postgres_exporter that switches it on, the releases that had it, or `public rules`: names that
widespread alert rules ask for, and that come from queries of their authors only.
"""


@dataclass(frozen=True)
class Theirs:
    """A metric of postgres_exporter, and how ours differs."""

    name: str
    type: str
    labels: tuple[str, ...]
    since: str
    until: str
    where: str
    """`default`, a flag, the releases that had it, or `public rules`: rules ask for it and no release has it."""
    ours: str
    """Our name for it, where neither `also` nor the name itself tells."""
    difference: str
    """Difference between the two; the reason for a name that is not served."""


Served = Mapping[str, tuple[Metric, tuple[str, ...]]]
"""Name on the page -> the metric as it is declared, under that or its own name, and its labels."""


def names() -> tuple[Theirs, ...]:
    """Read every name of theirs."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return tuple(Theirs(**(row | {"labels": tuple(filter(None, row["labels"].split(",")))})) for row in rows)


def served(catalog: Catalog) -> Served:
    """Name everything that such a catalog and the exporter itself put on a page."""
    declared = [(metric, collector.labels_of(metric)) for collector in catalog for metric in collector.metrics]
    own = [(metric, metric.labels) for metric in (*OWN, *(family.metric for family in process_families()))]
    return {name: each for each in (*declared, *own) for name in (each[0].name, each[0].also) if name}


def served_compatibly(built_in: Catalog, compatible: Catalog) -> Served:
    """Name everything that is on a page with compatibility_names."""
    own = {metric.name: (metric, metric.labels) for metric in COMPATIBLE}
    return {**served(Catalog((*built_in, *compatible))), **own}


def difference(built_in: Catalog, compatible: Catalog) -> str:
    """Write the mapping as Markdown: what is served, which settings, and what is not served and why."""
    always, also = served(built_in), served_compatibly(built_in, compatible)
    there = [theirs for theirs in names() if theirs.name in also]
    missing = [theirs for theirs in names() if theirs.name not in also]
    settings = [theirs for theirs in there if theirs.name.startswith(_SETTINGS)]
    others = [theirs for theirs in there if theirs not in settings]
    return "\n".join(
        [
            _HEAD,
            "## Served\n",
            _table(others, always),
            "## Settings\n\nThe same names; those in bold are there without `compatibility_names`.\n",
            ", ".join(_setting(theirs, always) for theirs in settings) + ".\n",
            "\n".join(f"- `{theirs.name}`: {theirs.difference}" for theirs in settings if theirs.difference) + "\n",
            "## Not served\n",
            _table(missing, always),
        ]
    )


def _table(metrics: Iterable[Theirs], always: Served) -> str:
    lines = ["| postgres_exporter | labels | where | ours | difference |", "|---|---|---|---|---|"]
    for theirs in metrics:
        labels = ", ".join(f"`{label}`" for label in theirs.labels)
        lines.append(f"| `{theirs.name}` | {labels} | {theirs.where} | {_ours(theirs, always)} | {theirs.difference} |")
    return "\n".join(lines) + "\n"


def _ours(theirs: Theirs, always: Served) -> str:
    name = our_name(theirs, always)
    if not name:
        return ""
    labels = ", ".join(always[name][1])
    return f"`{name}{{{labels}}}`" if labels else f"`{name}`"


def our_name(theirs: Theirs, always: Served) -> str:
    """Name the metric that is served without compatibility_names; empty where there is none."""
    if theirs.name in always:
        return always[theirs.name][0].name
    return theirs.ours


def _setting(theirs: Theirs, always: Served) -> str:
    is_ours = theirs.name in always and always[theirs.name][0].name == theirs.name
    return f"**`{theirs.name}`**" if is_ours else f"`{theirs.name}`"
