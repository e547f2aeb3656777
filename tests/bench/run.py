"""Measures what pgvigil costs beside postgres_exporter and others: `uv run python tests/bench/run.py`.

All exporters of a case watch one server, each with a role of its own, and are scraped in turn as Prometheus scrapes:
ours as shipped, with cache 0, and at equal freshness, where it reads what postgres_exporter reads, at every scrape.
postgres_exporter is the newest that Debian has, unpacked with mmdebstrap, unless --postgres-exporter names another.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

from bench import data, exporters, measure  # needs the line above
from bench.cases import CASES, QUICK, Case
from bench.load import held
from bench.report import Outcome, Result, report
from servers import MAJORS

from exporter import __version__
from exporter.demo.cluster import Cluster

_QUICK = {"repeats": 1, "scrapes": 6, "interval": 5.0}
"""Defaults with --quick."""

_FULL = {"repeats": 3, "interval": measure.INTERVAL_SECONDS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases that were asked for and print the tables; a goal that is missed is no failure."""
    options = _options(arguments)
    started = time.monotonic()
    wanted = options.only or (QUICK if options.quick else [case.name for case in CASES])
    cases = [case for case in CASES if case.name in wanted]
    found: list[Outcome] = []
    for outcome in _outcomes(cases, options):
        found.append(outcome)
        text = report(found, _machine(options), _how(options), options.against)
        if options.markdown:  # what is measured by now outlasts a later case that fails
            options.markdown.write_text(text)
    print(text)
    _say(f"took {time.monotonic() - started:.0f} s")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", action="append", choices=[case.name for case in CASES], help="only this case; may be repeated")
    add(
        "--quick",
        action="store_true",
        help="five minutes: five cases, one round, scrapes 5 s apart, so caches flatter us",
    )
    add("--repeats", type=int, help="rounds of each case (3; with --quick 1)")
    add("--scrapes", type=int, help="scrapes of each exporter in a round (8 or 16; with --quick 6)")
    add("--interval", type=float, help=f"seconds between scrapes ({measure.INTERVAL_SECONDS:g}; with --quick 5)")
    add("--major", type=int, choices=MAJORS, default=data.MAJOR, help=f"PostgreSQL's version ({data.MAJOR})")
    add("--postgres-exporter", type=Path, metavar="PATH", help="another binary than Debian's newest")
    add(
        "--peer",
        action="append",
        type=exporters.peer,
        default=[],
        metavar="NAME=COMMAND",
        help="another exporter, which serves /metrics in the foreground; may be repeated. In the command are filled in:"
        f" {', '.join(f'{{{each}}}' for each in exporters.PLACEHOLDERS)}, of which address and port are those to listen"
        " on. Example: --peer 'pgsty=pg_exporter --url={dsn} --web.listen-address={address}'; variables are set with"
        " env: --peer 'other=env DATA_SOURCE_NAME={dsn} other --listen={address}'",
    )
    add(
        "--against", action="append", default=[], metavar="NAME", help="print ratios to this peer, too; may be repeated"
    )
    add("--markdown", type=Path, metavar="FILE", help="write the tables to a file as well")
    options = parser.parse_args(arguments)
    if unknown := set(options.against) - {each.title for each in options.peer}:
        parser.error(f"--against {unknown.pop()}: names no --peer")
    for name, value in (_QUICK if options.quick else _FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.postgres_exporter = options.postgres_exporter or exporters.newest()
    return options


def _outcomes(cases: Sequence[Case], options: argparse.Namespace) -> Iterator[Outcome]:
    """Run the cases; those of one world that follow each other share its server."""
    for world, group in groupby(cases, lambda case: case.world):
        with data.server(options.major, world.settings) as cluster, tempfile.TemporaryDirectory() as folder:
            same = [*group]
            ways = {way.role: way for case in same for way in _ways(case, options)}
            data.create_roles(cluster, [*ways])
            for step in world.steps:
                step(cluster)
            for case in same:
                _say(f"{time.strftime('%H:%M:%S')} {case.title}")
                with held(cluster, case.load):
                    yield _measured(cluster, case, Path(folder), options)


def _ways(case: Case, options: argparse.Namespace) -> list[exporters.Way]:
    program = options.postgres_exporter
    theirs = [exporters.postgres_exporter(program, *case.flags)] if program else []
    return [*case.ours, *theirs, *options.peer]


def _measured(cluster: Cluster, case: Case, folder: Path, options: argparse.Namespace) -> Outcome:
    """Start the exporters of a case, and measure some rounds."""
    started, before = time.monotonic(), measure.busy_seconds()
    with ExitStack() as stack:
        targets, firsts, idle = [], [], []
        for way in _ways(case, options):
            target = stack.enter_context(exporters.running(way.on(cluster, case.world.database), folder))
            firsts.append(target.listening_seconds + target.scrape()[0])
            idle.append(measure.memory(target.pid))
            targets.append(target)
        scrapes = options.scrapes or case.scrapes
        found = measure.rounds(cluster, targets, options.repeats, scrapes, options.interval)
        load = measure.other_load(before, started)
    names = [target.exporter.name for target in targets]
    results = tuple(Result(*each) for each in zip(names, firsts, idle, found, strict=True))
    return Outcome(case, results, load)


def _machine(options: argparse.Namespace) -> str:
    program = options.postgres_exporter
    theirs = exporters.version(program) if program else "not found"
    return (
        f"pgvigil {__version__}, postgres_exporter {theirs}, PostgreSQL {options.major}, Python"
        f" {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores"
    )


def _how(options: argparse.Namespace) -> str:
    return (
        f"Rounds of each case: {options.repeats}; scrapes {options.interval:g} s apart, all exporters of a case in"
        " turn, in another order in each round, over one kept connection, with the headers of Prometheus 2.42 (gzip)."
        " Costs are means of the rounds, other figures medians, in brackets the least and the most of a round. What an"
        " exporter does between scrapes is in its costs; what it reads less often than all rounds take may not be."
        " Server time is what pg_stat_statements counts of its role, planning included. Backend CPU is that of its"
        " sessions, logging in included; that of sessions that ended is one sum, shared out by the time that they were"
        " open. Per 1 000 series: of those that do not speak of the exporter itself, which stand in brackets."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
