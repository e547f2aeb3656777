"""Measures what pgvigil costs, beside Debian's prometheus-postgres-exporter: `uv run python tests/bench/run.py`."""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

from bench import data  # needs the line above
from bench.cases import CASES, FULL_TABLES, MANY_STATEMENTS, MANY_TABLES, SMALL_DATABASE, Outcome, run
from bench.exporters import ROLES, their_version
from bench.report import report

from exporter import __version__
from exporter.demo.cluster import Cluster


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases that were asked for and print the tables; a goal that is missed is no failure."""
    options = _options(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pgvigil-bench-") as folder, data.server() as cluster:
        data.create_roles(cluster, ROLES)
        outcomes = _outcomes(cluster, Path(folder), options)
        version = cluster.value("SHOW server_version")
    versions = f"pgvigil {__version__}, postgres_exporter {their_version() or 'not installed'}, PostgreSQL {version}"
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    text = report(outcomes, machine, versions)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)
    _say(f"took {time.monotonic() - started:.0f} s")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--only", action="append", choices=names, help="only this case; may be given several times")
    parser.add_argument("--repeats", type=int, default=3, help="bursts of each exporter (3)")
    parser.add_argument("--requests", type=int, help="scrapes in a burst (8 to 60, as the case is large or small)")
    parser.add_argument("--windows", type=int, default=1, help="quarters of an hour at the rhythm of Prometheus (1)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to a file as well")
    return parser.parse_args(arguments)


def _outcomes(cluster: Cluster, folder: Path, options: argparse.Namespace) -> list[Outcome]:
    """Run the cases in an order in which one server can grow from case to case."""
    prepare = {
        SMALL_DATABASE: (data.create_small,),
        MANY_STATEMENTS: (data.run_statements,),
        FULL_TABLES: (data.create_large, data.forget_statements),
        MANY_TABLES: (data.copy_large, data.forget_statements),
    }
    wanted = options.only or [case.name for case in CASES]
    outcomes = []
    for case, steps in prepare.items():
        if case is not SMALL_DATABASE and not any(later.name in wanted for later in CASES[CASES.index(case) :]):
            break
        for step in steps:
            step(cluster)
        if case.name in wanted:
            _say(f"{case.title}: {time.strftime('%H:%M:%S')}")
            outcomes.append(
                run(cluster, case, folder, repeats=options.repeats, scrapes=options.requests, windows=options.windows)
            )
    return outcomes


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
