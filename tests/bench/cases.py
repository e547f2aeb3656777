"""The cases of the benchmark: what is in the database, what is asked of the exporters, and how it is measured."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import exporters, measure
from bench.data import LARGE, SMALL
from bench.exporters import Exporter, Running
from bench.measure import Burst, Page, Window

from exporter.demo.cluster import Cluster


@dataclass(frozen=True)
class Case:
    """One database and what is read of it."""

    name: str
    title: str
    database: str
    scrapes: int
    """Scrapes in a burst."""
    full: bool = False
    """Whether everything is on, and every table has its series."""
    queries: bool = False
    """Whether Debian's exporter gets its queries.yaml."""


SMALL_DATABASE = Case("small", "small database", SMALL, 60)
MANY_STATEMENTS = Case("statements", "5 000 statements", SMALL, 15, queries=True)
FULL_TABLES = Case(
    "full", "10 000 tables in 1 database, everything on, all their series", LARGE, 8, full=True, queries=True
)
MANY_TABLES = Case("tables", "10 000 tables in each of 3 databases, by default", LARGE, 20)

CASES = (SMALL_DATABASE, MANY_STATEMENTS, FULL_TABLES, MANY_TABLES)


@dataclass(frozen=True)
class Result:
    """What was measured of one exporter in one case."""

    exporter: str
    first_seconds: float
    page: Page
    rss_idle: int
    rss_peak: int
    bursts: tuple[Burst, ...]
    windows: tuple[Window, ...]
    """Empty for ours with cache 0, whose scrapes all cost the same."""

    @property
    def rss_loaded(self) -> int:
        """Resident memory after the bursts."""
        return round(statistics.median(burst.rss for burst in self.bursts))


@dataclass(frozen=True)
class Outcome:
    """What was measured in one case: ours, ours with cache 0 and, where it is installed, Debian's."""

    case: Case
    ours: Result
    fresh: Result
    theirs: Result | None
    other_load: float
    """CPU that neither we nor what we started used meanwhile, in cores."""


def run(cluster: Cluster, case: Case, folder: Path, *, repeats: int, scrapes: int | None, windows: int) -> Outcome:
    """Measure one case: bursts of each exporter in turn, several times, then windows at the rhythm of Prometheus."""
    started, before = time.monotonic(), measure.busy_seconds()
    with ExitStack() as stack:
        targets = [stack.enter_context(exporters.running(each, folder)) for each in _exporters(cluster, case, folder)]
        firsts = [target.scrape()[0] for target in targets]
        pages = [measure.page(target) for target in targets]
        idle = [measure.memory(target.pid) for target in targets]
        bursts = _bursts(cluster, targets, repeats, scrapes or case.scrapes)
        rhythm = _windows(cluster, targets, windows)
        peaks = [measure.peak_memory(target.pid) for target in targets]
        load = measure.other_load(before, started)
    names = [target.exporter.name for target in targets]
    measured = zip(names, firsts, pages, idle, peaks, bursts, rhythm, strict=True)
    results = [Result(*each) for each in measured]
    return Outcome(case, results[0], results[1], results[2] if len(results) > 2 else None, load)


def _exporters(cluster: Cluster, case: Case, folder: Path) -> list[Exporter]:
    found = [
        exporters.ours(cluster, case.database, full=case.full),
        exporters.ours_fresh(cluster, case.database, full=case.full),
    ]
    if exporters.their_version():
        queries = exporters.corrected_queries(folder) if case.queries else None
        if queries or not case.queries:
            found.append(exporters.theirs(cluster, case.database, queries))
    return found


def _bursts(cluster: Cluster, targets: Sequence[Running], repeats: int, scrapes: int) -> list[tuple[Burst, ...]]:
    """Interleave the exporters; each repeat starts with another one."""
    found: list[list[Burst]] = [[] for _ in targets]
    for repeat in range(repeats):
        for i in range(len(targets)):
            at = (repeat + i) % len(targets)
            found[at].append(measure.burst(cluster, targets[at], scrapes))
    return [tuple(each) for each in found]


def _windows(cluster: Cluster, targets: Sequence[Running], windows: int) -> list[tuple[Window, ...]]:
    """Let all but ours with cache 0, whose scrapes all cost the same, keep Prometheus' rhythm."""
    taking_part = [0, *range(2, len(targets))]
    found: list[list[Window]] = [[] for _ in targets]
    if windows:
        time.sleep(measure.INTERVAL_SECONDS)  # else a result of the last burst could outlast a whole window
    for _ in range(windows):
        measured = measure.window(cluster, [targets[at] for at in taking_part])
        for at, each in zip(taking_part, measured, strict=True):
            found[at].append(each)
    return [tuple(each) for each in found]
