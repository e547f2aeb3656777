"""Measures what a run of each collector costs the server: `uv run python tests/bench/costs.py` writes costs.tsv.

With names of collectors behind it, it writes their lines only.
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

from bench import data  # needs the line above
from pages import MONITOR, scraped, target
from servers import NEWEST

from exporter.catalog.load import BUILT_IN, load
from exporter.catalog.model import Catalog
from exporter.commands.reference import RunCost, read_costs
from exporter.demo.cluster import Cluster

RUNS = 20
COSTS = BUILT_IN / "costs.tsv"


def main() -> None:
    """Measure on twenty tables and on 10 000, and write the file that the reference reads."""
    with data.server(NEWEST) as cluster:
        data.create_roles(cluster, (MONITOR,))
        data.create_small(cluster)
        print("measuring on twenty tables, then on 10 000; it takes a minute or two", file=sys.stderr)
        small = dict(measured(cluster, data.SMALL))
        data.create_large(cluster)
        large = dict(measured(cluster, data.LARGE))
    found = {name: RunCost(*cost, *large[name]) for name, cost in small.items()}
    if asked := sys.argv[1:]:
        found = read_costs(COSTS.read_text()) | {name: found[name] for name in asked}
    COSTS.write_text(written_costs(found))


def written_costs(costs: Mapping[str, RunCost]) -> str:
    """Write the table of costs."""
    rows = ["\t".join([name, *(f"{number:.2f}" for number in cost)]) for name, cost in sorted(costs.items())]
    return "\n".join(["\t".join(("collector", *RunCost._fields)), *rows]) + "\n"


def measured(cluster: Cluster, database: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """The server's milliseconds and the blocks it reads for a run in a database, by collector."""
    cluster.execute(f"CREATE EXTENSION pg_buffercache; {_RIGHTS}", database)
    data.forget_statements(cluster)
    asyncio.run(_scrapes(cluster.dsn(database, MONITOR)))
    collectors = {each.name for each in load(BUILT_IN)}
    for row in cluster.query(_COSTS, database):
        if row["collector"] in collectors:  # what is asked to know the server is not
            yield row["collector"], (row["milliseconds"], row["blocks"])


_RIGHTS = f"""
GRANT pg_read_all_data TO {MONITOR};
GRANT SELECT ON pg_replication_origin_status TO {MONITOR};
GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status() TO {MONITOR}
"""
"""What collectors that are off by default need beside pg_monitor."""

_COSTS = """
SELECT substring(query FROM '/\\* pgvigil:(\\w+) \\*/') AS collector,
       sum(total_plan_time + total_exec_time) / sum(calls) AS milliseconds,
       (sum(shared_blks_hit + shared_blks_read) / sum(calls))::float8 AS blocks
  FROM pg_stat_statements
 WHERE query LIKE '%/* pgvigil:%'
   AND dbid = (SELECT oid FROM pg_database WHERE datname = $1)
 GROUP BY 1
HAVING sum(calls) > 0
"""


async def _scrapes(dsn: str) -> None:
    """Have every collector run so many times by itself, whatever its cache."""
    alone = {"cache": 0.0, "enabled": True, "joins": False}
    fresh = [each.model_copy(update=alone) for each in load(BUILT_IN)]
    watched = target(dsn, Catalog(tuple(fresh)), cost_budget=0)
    try:
        for _ in range(RUNS):
            await scraped(watched, timeout=60)
    finally:
        await watched.close()


if __name__ == "__main__":
    main()
