"""Measures a day of history at its bounds: the size of its file, and what the exporter needs more for it.

`uv run python tests/bench/history.py`
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `serving` are found in tests/

import psutil
from pages import MONITOR  # needs the line above
from servers import NEWEST, build
from serving import Exporter, serving

from exporter.demo.cluster import FAST, Cluster
from exporter.history.file import HistoryFile
from exporter.history.minute import MOST_STATEMENTS, SECONDS, Minute, Use, largest
from exporter.history.reading import GAUGES
from exporter.watch.active_sessions import Activity

_WAITS = (
    ("CPU", ""),
    ("Lock", "transactionid"),
    ("IO", "DataFileRead"),
    ("LWLock", "WALWrite"),
    ("Client", "ClientRead"),
)
_SCRAPES = 12


def a_minute(at: int, sessions: int, draw: random.Random) -> Minute:
    """A minute in which so many sessions were busy, with more statements and waits than are kept."""
    statements = [("shop", f"user{number % 7}", str(-(10**17) - number)) for number in range(2 * MOST_STATEMENTS)]
    busy: dict[Activity, float] = {}
    for number in range(sessions):
        activity = Activity(draw.choice(statements), f"application {number % 20}", *draw.choice(_WAITS))
        busy[activity] = busy.get(activity, 0.0) + SECONDS
    ran = draw.sample(statements, MOST_STATEMENTS)
    work = {each: Use(draw.randrange(10_000), draw.random() * SECONDS, draw.randrange(10**6)) for each in ran}
    texts = {
        each: f"SELECT * FROM orders AS o JOIN items AS i ON i.order_id = o.id WHERE o.kind = {each[2]}" for each in ran
    }
    return Minute(at, largest(busy), work, dict.fromkeys(GAUGES, draw.random()), texts)


def written(path: Path, minutes: int, sessions: int) -> int:
    """Write the minutes before now; the size of the file."""
    draw, file, size = random.Random(1), HistoryFile(path), 0
    now = int(time.time()) // SECONDS * SECONDS
    for number in range(minutes, 0, -1):
        size = file.write(a_minute(now - number * SECONDS, sessions, draw))
    return size


def resident(exporter: Exporter) -> int:
    """Memory after scrapes, with the pages opened meanwhile."""
    for _ in range(_SCRAPES):
        exporter.get().raise_for_status()
        exporter.get("/").raise_for_status()
        exporter.get("/api/v1/sessions/history?minutes=60").raise_for_status()
        time.sleep(1)
    return int(psutil.Process(exporter.process.pid).memory_info().rss)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a day, and serve with it and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--sessions", type=int, default=500, help="busy sessions (500)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pgvigil-bench-") as made, ExitStack() as stack:
        server = stack.enter_context(Cluster(build(NEWEST), settings=FAST))
        server.execute(f"CREATE ROLE {MONITOR} LOGIN; GRANT pg_monitor TO {MONITOR}")
        memory = {}
        for name, hours in (("none", 0), ("a day", options.hours)):
            folder = Path(made) / name
            folder.mkdir()
            file = folder / f"127.0.0.1%3A{server.port}.pgvigil.sqlite"
            size = written(file, 60 * hours, options.sessions) if hours else 0
            with serving(dsn=server.dsn(user=MONITOR), state_dir=str(folder)) as exporter:
                memory[name] = resident(exporter)
            print(f"{name}: {size / 1e6:.1f} MB of file, {memory[name] / 1e6:.1f} MB resident")
        print(f"more with history: {(memory['a day'] - memory['none']) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
