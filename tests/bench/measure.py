"""What scrapes cost: time, CPU of the exporter, CPU and statement time of the server, memory."""

import gzip
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from bench.data import seconds_in_statements
from bench.exporters import Running

from exporter.demo.cluster import Cluster

INTERVAL_SECONDS = 15.25
"""Prometheus' usual 15 s, and a little more, so that four of them always outlast a result kept for 60 s."""

SCRAPES_A_WINDOW = 60
"""As many as outlast a result kept for a quarter of an hour."""

_PAUSE_SECONDS = 0.02
_REAPED_SECONDS = 0.15


@dataclass(frozen=True)
class Cost:
    """What one scrape costs, in seconds."""

    exporter: float
    """CPU of the exporter's process."""
    backends: float
    """CPU of its sessions in the server."""
    statements: float
    """Time that the server counts for its statements, planning included."""


@dataclass(frozen=True)
class Burst:
    """Scrapes one after the other."""

    gzip_seconds: tuple[float, ...]
    identity_seconds: tuple[float, ...]
    cost: Cost
    rss: int

    @property
    def p50(self) -> float:
        """The median time of a page compressed with gzip, as Prometheus asks for it."""
        return statistics.median(self.gzip_seconds)


@dataclass(frozen=True)
class Window:
    """Scrapes at the rhythm of Prometheus."""

    seconds: tuple[float, ...]
    cost: Cost

    @property
    def p50(self) -> float:
        """The median time of a page."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Page:
    """How large a page is."""

    size: int
    compressed: int
    samples: int


@dataclass(frozen=True)
class _Meter:
    """Readings of everything that only grows."""

    exporter: float
    backends: float
    statements: float

    def until(self, end: "_Meter", scrapes: int) -> Cost:
        return Cost(
            (end.exporter - self.exporter) / scrapes,
            (end.backends - self.backends) / scrapes,
            (end.statements - self.statements) / scrapes,
        )


def burst(cluster: Cluster, target: Running, scrapes: int) -> Burst:
    """Scrape one exporter while the others rest: with gzip, which is what the costs are of, then a third without."""
    [start] = _start(cluster, [target])
    zipped = [_scrape_after_pause(target) for _ in range(scrapes)]
    [end] = _end(cluster, [target])
    plain = [_scrape_after_pause(target, compressed=False) for _ in range(max(scrapes // 3, 2))]
    return Burst(tuple(zipped), tuple(plain), start.until(end, scrapes), memory(target.pid))


def window(cluster: Cluster, targets: Sequence[Running]) -> list[Window]:
    """Scrape the exporters in turn at the rhythm of Prometheus; all that they do between is in the costs.

    Sessions that ended meanwhile count for the first exporter: ours, which alone borrows sessions.
    """
    starts = _start(cluster, targets)
    first, step = time.monotonic(), INTERVAL_SECONDS / len(targets)
    seconds: list[list[float]] = [[] for _ in targets]
    for turn in range(SCRAPES_A_WINDOW * len(targets)):
        _sleep_until(first + turn * step)
        seconds[turn % len(targets)].append(targets[turn % len(targets)].scrape()[0])
    _sleep_until(first + SCRAPES_A_WINDOW * INTERVAL_SECONDS)
    ends = _end(cluster, targets)
    return [
        Window(tuple(each), start.until(end, SCRAPES_A_WINDOW))
        for each, start, end in zip(seconds, starts, ends, strict=True)
    ]


def page(target: Running) -> Page:
    """Measure a page that collects nothing the exporter has not collected before."""
    compressed = target.scrape()[1]
    plain = target.scrape(gzip=False)[1]
    samples = sum(1 for line in gzip.decompress(compressed).splitlines() if line and not line.startswith(b"#"))
    return Page(len(plain), len(compressed), samples)


def memory(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(psutil.Process(pid).memory_info().rss)


def peak_memory(pid: int) -> int:
    """The most resident memory it ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def busy_seconds() -> float:
    """CPU time that others than we and all that we started have used so far."""
    times = psutil.cpu_times()
    everyone = times.user + times.nice + times.system + times.irq + times.softirq
    me = psutil.Process()
    return float(everyone - sum(sum(each.cpu_times()[:4]) for each in (me, *me.children(recursive=True))))


def other_load(before: float, started: float) -> float:
    """CPU that others used since then, in cores."""
    return max((busy_seconds() - before) / (time.monotonic() - started), 0.0)


def _scrape_after_pause(target: Running, *, compressed: bool = True) -> float:
    time.sleep(_PAUSE_SECONDS)
    return target.scrape(gzip=compressed)[0]


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0))


def _start(cluster: Cluster, targets: Sequence[Running]) -> list[_Meter]:
    """Read the meters, the statements first: to ask for them takes a session, which must have ended before the rest."""
    spent = [seconds_in_statements(cluster, target.exporter.role) for target in targets]
    time.sleep(_REAPED_SECONDS)
    return _meters(cluster, targets, spent)


def _end(cluster: Cluster, targets: Sequence[Running]) -> list[_Meter]:
    """Read the meters, the statements last."""
    time.sleep(_REAPED_SECONDS)
    read = _meters(cluster, targets, [0.0 for _ in targets])
    return [
        replace(meter, statements=seconds_in_statements(cluster, target.exporter.role))
        for meter, target in zip(read, targets, strict=True)
    ]


def _meters(cluster: Cluster, targets: Sequence[Running], spent: Sequence[float]) -> list[_Meter]:
    return [
        _Meter(_cpu_seconds(target.pid), _backend_seconds(cluster, target.exporter.role, ended_too=i == 0), spent[i])
        for i, target in enumerate(targets)
    ]


def _backend_seconds(cluster: Cluster, role: str, *, ended_too: bool) -> float:
    """CPU time of the sessions of a role, and of all that have ended if they can only have been its own."""
    server = psutil.Process(cluster.pid)
    seconds = 0.0
    for child in server.children():
        if " ".join(child.cmdline()).startswith(f"postgres: {role} "):
            seconds += _cpu_seconds(child.pid)
    times = server.cpu_times()
    return seconds + (times.children_user + times.children_system if ended_too else 0.0)


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, from the clock that Linux keeps of each: to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)
