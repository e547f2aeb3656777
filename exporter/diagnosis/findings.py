"""A finding: one sentence that names the culprit, and what helps. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.alert_rules import SEVERITIES, AlertRule, Severity, alert_rules
from exporter.documented import documented


@documented
@dataclass(frozen=True)
class Remedy:
    """A step that helps."""

    effect: str
    """What it does, as sentences that begin with a verb; those of one finding are steps."""
    sql: str = ""
    """SQL of the step; empty where it is none of the server's."""


@documented
@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    alert: str
    """The alert that fires for it, whose runbook it has."""
    severity: Severity
    sentence: str
    seconds: float | None = None
    """Seconds since it began, where that is known."""
    statement: str = ""
    """Text of the culprit's statement, without literals."""
    remedies: tuple[Remedy, ...] = ()
    """The safest first."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Values of the case, by which its runbook is filled in."""
    can_wait: bool = False
    """True where it has been so for days and goes on slowly: nobody was paged for it just now."""


def rule(name: str) -> AlertRule:
    """Return an alert as it ships, by its name without `PostgreSQL`."""
    return alert_rules()[f"PostgreSQL{name}"]


def limit(name: str, threshold: str) -> float:
    """Return a threshold of an alert."""
    return rule(name).thresholds[threshold]


_FOR_GOOD = re.compile(r"PostgreSQL(ReplicationSlot|Xid|Multixact|Sequence)")
"""Alerts of what cannot be had back once it is lost."""


def rank(finding: Finding) -> tuple[bool, int, bool, float]:
    """Order findings: what cannot wait first, then the worst, what is lost for good, and the oldest."""
    is_for_good = bool(_FOR_GOOD.match(finding.alert))
    return finding.can_wait, SEVERITIES.index(finding.severity), not is_for_good, -(finding.seconds or 0.0)


def duration(seconds: float) -> str:
    """Write a time as a person says it: `12 s`, `4 min`, `3 h`, `12 days`."""
    for unit, length, until in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172_800.0)):
        if seconds < until:
            return f"{max(seconds, 0.0) / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def count(number: float, noun: str) -> str:
    """Write a number of things: `1 session`, `7 sessions`."""
    return f"{number:,.0f} {noun}{'' if round(number) == 1 else 's'}"


def size(bytes_: float) -> str:
    """Write a number of bytes: `512 MiB`."""
    value, units = bytes_, iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    for larger in units:
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
