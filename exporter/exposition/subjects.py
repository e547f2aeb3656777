"""The subjects of own metrics: a scrape, its jobs and what they cost; with many databases joined by collector. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar

from exporter.kinds import Kind
from exporter.planning.plan import FULL_LIMITS
from exporter.report import JobStatus, Report, ServerCost
from exporter.samples.label_values import escape, label_text
from exporter.samples.model import Number, Rest, Samples

T = TypeVar("T")


@dataclass(frozen=True)
class Rows(Generic[T]):
    """Some subjects, each beside the label text of its series."""

    labels: Sequence[str]
    subjects: Sequence[T]

    def split(self, label: str, values_of: Callable[[T], Mapping[str, Number]]) -> "Rows[Number]":
        """Make a row of every value of a subject, with its key as one more label."""
        texts, values = [], []
        for before, subject in zip(self.labels, self.subjects, strict=True):
            for key, value in values_of(subject).items():
                text = f'{label}="{escape(key)}"'
                texts.append(f"{before},{text}" if before else text)
                values.append(value)
        return Rows(texts, values)


class Scrape:
    """A report as subjects of each kind, which are listed once, when first asked for.

    With more than `FULL_LIMITS` databases the joined ones stand for each collector as a whole: else a page would be
    mostly about the exporter.
    """

    def __init__(self, report: Report, labels: Mapping[str, str]) -> None:
        self._report = report
        self._labels = labels

    def whole(self, kind: Kind | None = None) -> Rows[Report]:
        """Give the report itself; no row when the target is of another kind."""
        is_shown = kind in (None, self._report.kind)
        return Rows([label_text(self._labels)], [self._report]) if is_shown else Rows([], [])

    @cached_property
    def jobs(self) -> Rows[JobStatus]:
        """List every job."""
        return _rows(self._report.jobs)

    @cached_property
    def joined_jobs(self) -> Rows[JobStatus]:
        """List every job, or one for each collector."""
        return _rows([*map(_joined, _groups(self._report.jobs).values())]) if self._is_joined else self.jobs

    @cached_property
    def joined_costs(self) -> Rows[ServerCost]:
        """List every job's cost, or that of each collector."""
        costs = _joined_costs(self._report.costs) if self._is_joined else self._report.costs
        return Rows([_labels(*key) for key in costs], [*costs.values()])

    @cached_property
    def collectors(self) -> Rows[Sequence[JobStatus]]:
        """Group the jobs by collector."""
        groups = _groups(self._report.jobs)
        return Rows([label_text({"collector": collector}) for collector in groups], [*groups.values()])

    @cached_property
    def _is_joined(self) -> bool:
        return len({job.datname for job in self._report.jobs}) > FULL_LIMITS


def _rows(jobs: Sequence[JobStatus]) -> Rows[JobStatus]:
    return Rows([_labels(job.collector, job.datname) for job in jobs], jobs)


def _labels(collector: str, datname: str) -> str:
    return f'collector="{escape(collector)}",datname="{escape(datname)}"'


def _groups(jobs: Iterable[JobStatus]) -> dict[str, list[JobStatus]]:
    groups: dict[str, list[JobStatus]] = {}
    for job in jobs:
        groups.setdefault(job.collector, []).append(job)
    return groups


def _joined(jobs: Sequence[JobStatus]) -> JobStatus:
    """Make one status of a collector's: sums of what was cut, the longest duration and the longest interval.

    All else is that of the first database. Counters are never joined: sums of parts that come and go do not add up.
    """
    served = [job.samples for job in jobs if job.samples]
    return replace(
        jobs[0],
        datname="",
        duration=max((job.duration for job in jobs if job.duration is not None), default=None),
        dropped=sum(job.dropped for job in jobs),
        interval=max(job.interval for job in jobs),
        samples=_added_up(served) if served else None,
    )


def _added_up(served: Sequence[Samples]) -> Samples:
    """Add up what was cut, without the samples themselves."""
    sums: dict[str, Rest] = {}
    for rest in (rest for samples in served for rest in samples.rest):
        known = sums.get(rest.metric, Rest(rest.metric, 0.0, 0.0))
        sums[rest.metric] = Rest(rest.metric, known.sum + rest.sum, known.total + rest.total)
    rows, truncated = sum(samples.rows for samples in served), sum(samples.truncated_rows for samples in served)
    return Samples((), rows, truncated, tuple(sums.values()))


def _joined_costs(costs: Mapping[tuple[str, str], ServerCost]) -> dict[tuple[str, str], ServerCost]:
    sums: dict[tuple[str, str], ServerCost] = {}
    for (collector, _), cost in costs.items():
        known = sums.get((collector, ""), ServerCost(0.0, 0))
        together = ServerCost(known.seconds + cost.seconds, known.blocks + cost.blocks)
        sums[collector, ""] = together
    return sums
