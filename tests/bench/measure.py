"""Measures scrapes: time, CPU of the exporter, CPU and statement time of the server, memory, sessions."""

import gzip
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
from bench.data import seconds_by_role
from bench.exporters import Running

from exporter.demo.cluster import Cluster

INTERVAL_SECONDS = 15.25
"""Prometheus' usual 15 s, and a little more, so that four of them always outlast a result kept for 60 s."""

_REAPED_SECONDS = 0.15

OWN = ("pgvigil_", "process_", "python_", "go_", "promhttp_", "pg_exporter_", "pg_scrape_", "postgres_exporter_")
"""Prefixes of series that speak of an exporter itself."""


@dataclass(frozen=True)
class Page:
    """Size and series of a page."""

    size: int
    series: Counter[str]
    """Samples by name."""

    @property
    def total(self) -> int:
        """All samples."""
        return self.series.total()

    @property
    def own(self) -> int:
        """The samples that speak of the exporter itself."""
        return sum(number for name, number in self.series.items() if name.startswith(OWN))


@dataclass(frozen=True)
class Round:
    """Scrapes of one exporter at the rhythm of Prometheus, in turn with those of the others."""

    seconds: tuple[float, ...]
    """The time of each page."""
    exporter: float
    """CPU seconds of the exporter's process for a scrape, with all that it does between two."""
    statements: float
    """Seconds for a scrape that the server counts for its statements, planning included."""
    backends: float
    """CPU seconds for a scrape of its sessions, those included that have ended."""
    rss: int
    connections: int
    """The most sessions that it had at once."""
    page: Page
    """The last one."""
    oldest: Mapping[str, float]
    """Collector -> the oldest of its results on any page, in seconds; empty for an exporter that does not say."""


def rounds(
    cluster: Cluster, targets: Sequence[Running], repeats: int, scrapes: int, interval: float
) -> list[tuple[Round, ...]]:
    """Measure all exporters several times; each round has an order of its own, so that none always follows another."""
    found: list[list[Round]] = [[] for _ in targets]
    for order in orders(len(targets), repeats):
        measured = _round(cluster, [targets[at] for at in order], scrapes, interval)
        for at, each in zip(order, measured, strict=True):
            found[at].append(each)
    return [tuple(each) for each in found]


def orders(number: int, repeats: int) -> list[list[int]]:
    """Shuffle for each round; each two rounds are each other's mirror image, and a run is like the next."""
    shuffle = random.Random(number)  # an order is no secret
    found: list[list[int]] = []
    for repeat in range(repeats):
        found.append(found[-1][::-1] if repeat % 2 else shuffle.sample(range(number), number))
    return found


def _round(cluster: Cluster, targets: Sequence[Running], scrapes: int, interval: float) -> list[Round]:
    roles = [target.exporter.role for target in targets]
    statements = seconds_by_role(cluster)  # takes a session, which has to have ended before the rest is read
    time.sleep(_REAPED_SECONDS)
    start = _Meter.read(cluster, targets)
    scraped = _scraped(targets, scrapes, interval)
    time.sleep(_REAPED_SECONDS)
    end = _Meter.read(cluster, targets)
    spent = seconds_by_role(cluster)
    log = sessions(end.log, len(start.log))
    ended = log.share_of(end.ended - start.ended)
    return [
        Round(
            tuple(seconds for seconds, _ in scraped[i]),
            (end.exporters[i] - start.exporters[i]) / scrapes,
            (spent.get(role, 0.0) - statements.get(role, 0.0)) / scrapes,
            (end.backends[i] - start.backends[i] + ended.get(role, 0.0)) / scrapes,
            memory(targets[i].pid),
            log.most.get(role, 0),
            page(scraped[i][-1][1]),
            oldest(body for _, body in scraped[i]),
        )
        for i, role in enumerate(roles)
    ]


def _scraped(targets: Sequence[Running], scrapes: int, interval: float) -> list[list[tuple[float, bytes]]]:
    first, step = time.monotonic(), interval / len(targets)
    found: list[list[tuple[float, bytes]]] = [[] for _ in targets]
    for turn in range(scrapes * len(targets)):
        _sleep_until(first + turn * step)
        found[turn % len(targets)].append(targets[turn % len(targets)].scrape())
    _sleep_until(first + scrapes * interval)
    return found


def page(body: bytes) -> Page:
    """Count the series of a page by name."""
    text = _plain(body)
    samples = (line for line in text.splitlines() if line and not line.startswith("#"))
    return Page(len(text), Counter(re.split(r"[{ ]", sample, maxsplit=1)[0] for sample in samples))


_AGE = re.compile(r'^pgvigil_collector_age_seconds{collector="(\w+)".*} (\S+)$', re.MULTILINE)


def oldest(bodies: Iterable[bytes]) -> dict[str, float]:
    """Read the age of each collector's result off some pages, and keep the highest."""
    found: dict[str, float] = {}
    for body in bodies:
        for collector, age in _AGE.findall(_plain(body)):
            found[collector] = max(found.get(collector, 0.0), float(age))
    return found


def _plain(body: bytes) -> str:
    return (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body).decode()


@dataclass(frozen=True)
class Sessions:
    """Sessions by role, as the server's log has them."""

    most: Mapping[str, int]
    """The most at once, since a place in the log."""
    ended: Mapping[str, float]
    """Seconds that those were open that have ended since then."""

    def share_of(self, seconds: float) -> dict[str, float]:
        """Share out the CPU of all that ended, which Linux counts as one sum, by the time that they were open."""
        total = sum(self.ended.values())
        return {role: seconds * open_seconds / total for role, open_seconds in self.ended.items()} if total else {}


_BEGAN_OR_ENDED = re.compile(
    r"connection authorized: user=(?P<began>\S+)|disconnection: session time: (?P<time>[\d:.]+) user=(?P<ended>\S+)"
)


def sessions(log: str, since: int) -> Sessions:
    """Read a server's log from its beginning; what is counted begins at the place `since`."""
    now: Counter[str] = Counter()
    most: dict[str, int] = {}
    seconds: dict[str, float] = {}
    is_counted = False
    for found in _BEGAN_OR_ENDED.finditer(log):
        if not is_counted and found.start() >= since:
            is_counted, most = True, dict(now)
        if role := found["began"]:
            now[role] += 1
            most[role] = max(most.get(role, 0), now[role])
        else:
            now[found["ended"]] -= 1
            hours, minutes, rest = found["time"].split(":")
            if is_counted:
                open_seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
                seconds[found["ended"]] = seconds.get(found["ended"], 0.0) + open_seconds
    return Sessions(most if is_counted else dict(now), seconds)


@dataclass(frozen=True)
class _Meter:
    """Readings of what only grows."""

    exporters: tuple[float, ...]
    backends: tuple[float, ...]
    ended: float
    log: str

    @classmethod
    def read(cls, cluster: Cluster, targets: Sequence[Running]) -> "_Meter":
        """Read all of it, in the order in which it may still grow."""
        postmaster = psutil.Process(cluster.pid)
        alive = _of_sessions(postmaster.children())
        times = postmaster.cpu_times()
        return cls(
            tuple(_cpu_seconds(target.pid) for target in targets),
            tuple(alive.get(target.exporter.role, 0.0) for target in targets),
            float(times.children_user + times.children_system),
            (cluster.folder / "server.log").read_text(errors="replace"),
        )


def _of_sessions(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """CPU time of the sessions that live, by role."""
    found: dict[str, float] = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess, OSError):  # it ended meanwhile
            _, role, *_ = process.cmdline()[0].split(" ")  # postgres: ROLE DATABASE ADDRESS STATE
            found[role] = found.get(role, 0.0) + _cpu_seconds(process.pid)
    return found


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, from the clock that Linux keeps of each: to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)


def memory(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(psutil.Process(pid).memory_info().rss)


def busy_seconds() -> float:
    """CPU time that others than we and all that we started have used so far."""
    times = psutil.cpu_times()
    everyone = times.user + times.nice + times.system + times.irq + times.softirq
    me = psutil.Process()
    return float(everyone - sum(sum(each.cpu_times()[:4]) for each in (me, *me.children(recursive=True))))


def other_load(before: float, started: float) -> float:
    """CPU that others used since then, in cores."""
    return max((busy_seconds() - before) / (time.monotonic() - started), 0.0)


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0))
