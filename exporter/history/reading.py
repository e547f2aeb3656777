"""Reads what a minute keeps out of a report: the counters of statements and the key gauges."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from prometheus_client.parser import text_string_to_metric_families

from exporter.history.minute import Use, used
from exporter.report import Report
from exporter.samples.model import Family
from exporter.watch.statement_matching import Statement

GAUGES: Mapping[str, str] = {
    "pg_connections_used": "",
    "pg_lock_longest_wait_seconds": "",
    "pg_session_oldest_seconds": 'kind="transaction"',
    "pg_replication_lag_seconds": "",
}
"""Metrics whose greatest value is kept of each minute, with the label that chooses among their series."""

_COUNTERS = (
    "pg_statements_calls_total",
    "pg_statements_exec_seconds_total",
    "pg_statements_shared_blocks_read_total",
)
"""In the order of the fields of a Use."""


_STARTED = "pg_postmaster_start_time_seconds"

_LONGEST_SECONDS = 900.0
"""Seconds between two readings at most: a collector that costs much is read every few minutes."""


@dataclass(frozen=True)
class Reading:
    """Counters of the statements as they were read."""

    uses: Mapping[str, Use]
    """By the text of their labels."""
    at: float
    """Unix time."""
    server: object
    """What tells its server from others: when it was started."""

    def until(self, later: "Reading") -> tuple[dict[Statement, Use], float]:
        """Return what each statement did between two readings, and the seconds between them.

        Both are nothing where that was less than a second, as nothing was read meanwhile, where it was so long that the
        clock must have been set, and where the counters are of another server, or of one that was restarted.
        """
        seconds = later.at - self.at
        if self.server != later.server or not 1 <= seconds <= _LONGEST_SECONDS:
            return {}, 0.0
        return {statement_of(text): use for text, use in used(later.uses, self.uses).items()}, seconds


def reading_of(report: Report, now: float) -> Reading | None:
    """Return the counters that a report of this Unix time holds; None where it holds none."""
    uses = _uses_of(report)
    return Reading(uses, now - _age_of_uses(report), _started(report)) if uses and report.up else None


def _started(report: Report) -> object:
    return next((tuple(family.values) for family in _families(report) if family.metric.name == _STARTED), None)


def gauges_of(report: Report) -> dict[str, float]:
    """Return the greatest value of each key gauge."""
    found: dict[str, float] = {}
    for family in _families(report):
        label = GAUGES.get(family.metric.name)
        if label is not None:
            of_label = (value for text, value in zip(family.labels, family.values, strict=True) if label in text)
            greatest = max((value for value in of_label if value is not None), default=None)
            if greatest is not None:
                found[family.metric.name] = float(greatest)
    return found


def _uses_of(report: Report) -> dict[str, Use]:
    """Return the counters of each statement by the text of its labels."""
    found: dict[str, list[float]] = {}
    for family in _families(report):
        if _counts(family):
            place = _COUNTERS.index(family.metric.name)
            for text, value in zip(family.labels, family.values, strict=True):
                found.setdefault(text, [0.0] * len(_COUNTERS))[place] = float(value or 0.0)
    return {text: Use(*counters) for text, counters in found.items()}


def _age_of_uses(report: Report) -> float:
    """Return the age of these counters in seconds; 0 where there are none."""
    ages = [job.age for job in report.jobs if job.samples and any(map(_counts, job.samples.families))]
    return max((age for age in ages if age is not None), default=0.0)


def _counts(family: Family) -> bool:
    return family.metric.name in _COUNTERS


@lru_cache(maxsize=10_000)
def statement_of(labels: str) -> Statement:
    """Return the statement that the text of its labels means."""
    [family] = text_string_to_metric_families(f"x{{{labels}}} 1\n")
    named = family.samples[0].labels
    return named["datname"], named["usename"], named["queryid"]


def _families(report: Report) -> Iterator[Family]:
    for job in report.jobs:
        yield from job.samples.families if job.samples else ()
