"""Says of what nothing is known, so that silence about it is no good news. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from exporter.report import Report

STATEMENTS = "statements"
"""The collector whose counters say what statements did."""

_MOST_NAMED = 5

_CLOSED = "the role may not connect"


@dataclass(frozen=True)
class Missing:
    """Results that there are none of."""

    reasons: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What is missing -> its database, if it has one, and why."""
    for_good: frozenset[str] = frozenset()
    """What of it is not awaited."""

    @property
    def is_for_good(self) -> bool:
        """Return whether nothing of it is awaited."""
        return self.reasons.keys() <= self.for_good

    @property
    def told(self) -> tuple[str, ...]:
        """Name it; of much with one reason, say how much."""
        by_reason: dict[str, list[str]] = {}
        for name, (_, why) in sorted(self.reasons.items()):
            by_reason.setdefault(why, []).append(name)
        return tuple(f"{self._counted(names)} ({why})" for why, names in by_reason.items())

    def _counted(self, names: Sequence[str]) -> str:
        if len(names) <= _MOST_NAMED:
            return ", ".join(names)
        found = {self.reasons[name][0] for name in names} - {""}
        where = f" in {min(found)}" if len(found) == 1 else f" of {len(found)} databases" if found else ""
        return f"{len(names)} results{where}"


NOTHING = Missing()


def unjudged(report: Report, *, is_work_known: bool, is_work_recorded: bool) -> Missing:
    """Find what nothing is known of: collectors without a result, closed databases, statements without enough work.

    Args:
        report: of a server that is up.
        is_work_known: whether enough is known of what its statements did.
        is_work_recorded: whether that will ever be known.

    """
    if report.kind != "postgresql":
        return NOTHING
    found: dict[str, tuple[str, str]] = {
        f"{job.collector} in {job.datname}" if job.datname else job.collector: (
            job.datname,
            job.reason or "not read yet",
        )
        for job in report.jobs
        if job.samples is None
        and job.reason != "permission"  # a finding says so
        and job.next_run_seconds is not None  # what runs in a loop of its own, such as texts, is judged by nobody
    }
    closed = {f"database {name}": (name, _CLOSED) for name in report.closed}
    found |= closed
    lacking = report.skipped.get(STATEMENTS) or ("" if is_work_recorded else "history_hours is 0")
    if not is_work_known and not any(job.collector == STATEMENTS and job.reason for job in report.jobs):
        found.setdefault(STATEMENTS, ("", lacking or "judged once a minute of their work is known"))
    return Missing(found, frozenset([*closed, *([STATEMENTS] if lacking else [])]))
