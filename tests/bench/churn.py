"""Measures how many texts come and go while clients run ever new statements: `uv run python tests/bench/churn.py`."""

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

import asyncpg
from bench import data  # needs the line above
from pages import MONITOR, read
from servers import NEWEST
from serving import Exporter, serving

from exporter.demo.cluster import Cluster

INFO = "pg_statement_info"
EVERY_SECONDS = 15.0


async def run_statements(cluster: Cluster, a_minute: int, until: float) -> int:
    """Run statements of which no two are the same, and say how many."""
    session = await asyncpg.connect(cluster.dsn())
    begun, count = time.monotonic(), 0
    while time.monotonic() < until:
        columns = ", ".join("ab"[int(bit)] for bit in f"{count:b}")
        await session.execute(f"SELECT {columns} FROM pair WHERE a = {count}")
        count += 1
        await asyncio.sleep(max(begun + count * 60 / a_minute - time.monotonic(), 0))
    await session.close()
    return count


async def scrape(exporter: Exporter, until: float) -> tuple[set[str], int]:
    """Scrape as Prometheus does; gives all texts that were on a page, and the most on one page."""
    seen: set[str] = set()
    most = 0
    while time.monotonic() < until:
        page = read((await asyncio.to_thread(exporter.get)).text)
        shown = {str(sorted(labels.items())) for labels, _ in page.series(INFO)}
        seen |= shown
        most = max(most, len(shown))
        await asyncio.sleep(EVERY_SECONDS)
    return seen, most


async def measure(cluster: Cluster, exporter: Exporter, a_minute: int, minutes: float) -> None:
    """Run and scrape for some minutes, and print what came of it."""
    until = time.monotonic() + 60 * minutes
    count, (seen, most) = await asyncio.gather(run_statements(cluster, a_minute, until), scrape(exporter, until))
    page = read(exporter.get().text)
    print(f"{count} distinct statements in {minutes:g} minutes; {most} texts on a page at most, {len(seen)} in all")
    print(f"time of reading texts: {page.value('pgvigil_collector_seconds_total', collector='statement_texts'):.2f} s")
    print(f"series on the page: {sum(map(len, page.samples.values()))}")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--a-minute", type=int, default=12_000)
    parser.add_argument("--minutes", type=float, default=5)
    arguments = parser.parse_args()
    with data.server(NEWEST) as cluster:
        data.create_roles(cluster, (MONITOR,))
        cluster.execute("CREATE TABLE pair AS SELECT 1 AS a, 2 AS b")
        with serving(dsn=cluster.dsn(user=MONITOR)) as exporter:
            asyncio.run(measure(cluster, exporter, arguments.a_minute, arguments.minutes))


if __name__ == "__main__":
    main()
