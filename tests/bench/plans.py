"""Explains every default query on a large and busy server: `uv run python tests/bench/plans.py --markdown FILE`.

The server has 10 000 tables and 100 000 relations in one database, 800 sessions, 30 000 locks held and 5 000
statements. The plans are those of the exporter's own runs, with its settings and parameters, as auto_explain logs them.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

from bench import data  # needs the line above
from bench.load import Load, held
from bench.report import table
from pages import MONITOR, scraped, target
from servers import MAJORS, NEWEST

from exporter.catalog.load import BUILT_IN, load
from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster

LOAD = Load(sessions=800, locks=30_000)

SETTINGS = {
    "max_connections": "900",
    "max_locks_per_transaction": "128",  # as many as a batch of tables needs
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "-1",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
}

_SHOWN_MILLISECONDS = 1.0
"""Plans of queries that take less are left out; the table has them."""
_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Explained:
    """A statement that ran, and its plan."""

    collector: str
    milliseconds: float
    plan: str

    @property
    def blocks(self) -> int:
        """Blocks of shared buffers that it read, from memory or disk."""
        return self._buffers("shared", "hit", "read")

    @property
    def temporary(self) -> int:
        """Blocks of temporary files that it wrote: sorts, hashes and materialised rows beyond work_mem."""
        return self._buffers("temp", "written")

    def _buffers(self, kind: str, *counts: str) -> int:
        """Add up counts of the top node, which includes the nodes below it."""
        top = re.search(rf"^ *Buffers: (?:.*, )?{kind} ([^,\n]*)", self.plan.partition("->")[0], re.MULTILINE)
        return sum(int(n) for name, n in re.findall(r"(\w+)=(\d+)", top[1]) if name in counts) if top else 0

    @property
    def spills(self) -> tuple[str, ...]:
        """The nodes that did not fit in work_mem, as the plan words it."""
        return tuple(re.findall(r"Sort Method: external.*|Batches: (?!1\b)\d+.*|Disk Usage: .*", self.plan))


_ENTRY = re.compile(r"LOG:  duration: ([\d.]+) ms  plan:\n((?:\t.*\n)+)")
_TAG = re.compile(r"/\* pgvigil:(\w+) \*/\n")


def explained(log: str) -> Iterator[Explained]:
    """Read the plans of our queries off a server's log."""
    for milliseconds, entry in _ENTRY.findall(log):
        if tag := _TAG.search(entry):
            plan = "\n".join(line.removeprefix("\t") for line in entry[tag.end() :].splitlines())
            yield Explained(tag[1], float(milliseconds), plan)


def report(found: Sequence[Explained], version: str) -> str:
    """The slowest run of each collector, and the plans of those that matter."""
    slowest: dict[str, Explained] = {}
    for each in found:
        if each.collector not in slowest or each.milliseconds > slowest[each.collector].milliseconds:
            slowest[each.collector] = each
    ordered = sorted(slowest.values(), key=lambda each: -each.milliseconds)
    rows = [
        (
            *(each.collector, "; ".join(each.spills), f"{each.milliseconds:,.2f}"),
            *(f"{each.blocks:,}", f"{each.temporary:,}"),
        )
        for each in ordered
    ]
    head = (
        f"The slowest run of each default query, as EXPLAIN (ANALYZE, BUFFERS) has it, on PostgreSQL {version} with"
        f" {data.TABLES:,} tables, 100,000 relations, {LOAD.sessions} sessions, {LOAD.locks:,} locks held and"
        f" {data.STATEMENTS:,} statements. Plans follow of those of {_SHOWN_MILLISECONDS:g} ms and more."
    )
    parts = [head, table(("collector", "nodes that spill", "ms", "blocks", "temporary blocks"), rows)]
    for each in ordered:
        if each.milliseconds >= _SHOWN_MILLISECONDS:
            parts += [f"### {each.collector}: {each.milliseconds:,.1f} ms", f"```\n{each.plan}\n```"]
    return "\n\n".join(parts) + "\n"


def plans(major: int) -> str:
    """Make the server, have each default collector run twice, and report the second runs."""
    with data.server(major, SETTINGS) as cluster:
        data.create_roles(cluster, (MONITOR,))
        cluster.execute(f"ALTER ROLE {MONITOR} SET auto_explain.log_min_duration = 0")
        data.create_small(cluster)
        data.run_statements(cluster)
        data.create_relations(cluster)
        _say(f"{cluster.value('SELECT count(*) FROM pg_class', database=data.LARGE):,} relations")
        with held(cluster, LOAD):
            log = asyncio.run(_second_runs(cluster))
        return report([*explained(log)], cluster.value("SHOW server_version"))


async def _second_runs(cluster: Cluster) -> str:
    """Scrape twice; what the server logs at the second time, when it has read everything once."""
    fresh = {"cache": 0.0, "timeout": _TIMEOUT_SECONDS}
    collectors = tuple(each.model_copy(update=fresh) for each in load(BUILT_IN) if each.enabled)
    watched = target(cluster.dsn(data.LARGE, MONITOR), Catalog(collectors), cost_budget=0)
    log = cluster.folder / "server.log"
    try:
        await scraped(watched, timeout=_TIMEOUT_SECONDS)
        before = len(log.read_bytes())
        await scraped(watched, timeout=_TIMEOUT_SECONDS)
    finally:
        await watched.close()
    return log.read_bytes()[before:].decode(errors="replace")


def main(arguments: Sequence[str] | None = None) -> None:
    """Explain, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--major", type=int, choices=MAJORS, default=NEWEST, help=f"PostgreSQL's version ({NEWEST})")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report to a file instead")
    options = parser.parse_args(arguments)
    text = plans(options.major)
    if options.markdown:
        options.markdown.write_text(text)
    else:
        print(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
