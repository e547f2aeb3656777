"""What /statements lists: the statements of the last scrape that have series of their own, or why there are none."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from exporter.planning.plan import Job
from exporter.samples.model import Samples
from exporter.scrape.parts import Parts

LABELS = ("datname", "usename", "queryid")
"""Labels that identify a statement."""

Key = tuple[str, str, str]
"""Database, user and query identifier of a statement, as its labels have them; empty where it has no such label."""


@dataclass(frozen=True)
class Statement:
    """One statement of a ledger: its labels, not escaped, its counters by column, and its text."""

    queryid: str
    labels: Mapping[str, str]
    counts: Mapping[str, float]
    text: str = ""


@dataclass(frozen=True)
class StatementList:
    """The statements that have series of their own, those first that took most time."""

    statements: tuple[Statement, ...] = ()
    note: str = ""
    """Reason for no statements or missing texts."""


def listed(samples: Samples, text: Callable[[Key], str]) -> tuple[Statement, ...]:
    """List the statements of a ledger and its shared series by execution time, with the texts that are known."""
    shown = samples.label_values
    rows = []
    for i, key in enumerate(keys(samples)):
        labels = {label: values[i] for label, values in shown.items()}
        per_row = (family for family in samples.families if len(family.values) == len(shown["queryid"]))
        counts = {family.metric.column: float(family.values[i] or 0) for family in per_row}
        rows.append(Statement(key[-1], labels, counts, text(key)))
    return tuple(sorted(rows, key=lambda row: row.counts.get("exec_seconds", 0.0), reverse=True))


def keys(samples: Samples) -> list[Key]:
    """Return the keys of a ledger's members, row by row, and of the series that other statements share."""
    shown = samples.label_values
    rows = len(shown.get("queryid", ()))
    database, user, queryid = (shown.get(label, [""] * rows) for label in LABELS)
    return list(zip(database, user, queryid, strict=True))


def members(samples: Samples) -> list[Key]:
    """Return the keys of the statements with series of their own."""
    return [key for key in keys(samples) if key[-1].lstrip("-").isdecimal()]


def why_none(parts: Parts, collectors: Iterable[str], job: Job | None) -> str:
    """Say why there is no statement: of the collector, of the server, or that it is early.

    Args:
        parts: the parts of the target.
        collectors: the names of those that list statements.
        job: that of the one which runs; None when none does.

    """
    skipped = parts.schedule.plan.skipped
    if reason := next((skipped[name] for name in collectors if name in skipped), ""):
        return reason
    if reason := parts.health.reason:
        return f"the server does not answer: {reason}"
    if job and (failure := parts.schedule.status(job).reason):
        return f"collector {job.collector.name} fails: {failure}"
    return "no statements have been collected yet"
