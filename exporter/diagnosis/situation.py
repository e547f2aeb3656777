"""What is known of one server now: who it is, how near it is to its limits, and what is wrong. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from exporter.alert_rules import SEVERITIES
from exporter.diagnosis.findings import Finding, duration, limit, rank, rule, size
from exporter.diagnosis.lock_tree import Node, lock_tree
from exporter.diagnosis.readings import Readings
from exporter.diagnosis.recorded import roots
from exporter.diagnosis.subjects import SUBJECTS
from exporter.kinds import PRODUCTS
from exporter.report import Report
from exporter.watch.incidents import Incident

State = Literal["good", "warning", "critical", "unknown"]


@dataclass(frozen=True)
class Vital:
    """One number of the strip, and how near it is to its threshold."""

    name: str
    text: str
    state: State
    limit: str
    """The threshold from which an alert fires, in words."""


@dataclass(frozen=True)
class Situation:
    """What a person who was paged has to see first."""

    target: str
    """Name of the target; empty for the only one."""
    address: str
    product: str
    is_up: bool
    down_reason: str
    version: str
    role: str
    """`primary`, `standby`, or empty while it is not known."""
    up_seconds: float | None
    """Seconds since the server was started."""
    age: float | None
    """Age in seconds of what is said here; None while nothing is known."""
    vitals: tuple[Vital, ...]
    findings: tuple[Finding, ...]
    """The worst first."""
    locks: tuple[Node, ...]

    @property
    def worst(self) -> int:
        """Rank by which targets are listed: 0 is the worst."""
        return min((SEVERITIES.index(each.severity) for each in self.findings), default=len(SEVERITIES))


def situation(target: str, address: str, report: Report, incidents: Sequence[Incident], now: float) -> Situation:
    """Say what is known of a server.

    Args:
        target: name of the target.
        address: host and port.
        report: what was collected.
        incidents: what was recorded between scrapes, the newest first.
        now: Unix time.

    """
    readings = Readings.of_jobs(report.jobs)
    ages = [job.age for job in report.jobs if job.age is not None]
    started = readings.value("pg_postmaster_start_time_seconds")
    versions = readings.series("pg_server_info")
    sessions = _waiting(incidents)
    tree = lock_tree(sessions) if sessions else ()
    return Situation(
        target=target,
        address=address,
        product=PRODUCTS[report.kind],
        is_up=report.up,
        down_reason=report.down_reason,
        version=versions[0].labels.get("short_version", "") if versions else "",
        role={None: "", True: "standby", False: "primary"}[report.in_recovery],
        up_seconds=now - started if started else None,
        age=min(ages, default=None),
        vitals=tuple(_vitals(readings)) if report.kind == "postgresql" else (),
        findings=tuple(sorted(_findings(report, readings, incidents, tree, now), key=rank)),
        locks=tree,
    )


def _findings(
    report: Report, readings: Readings, incidents: Iterable[Incident], tree: Sequence[Node], now: float
) -> Iterator[Finding]:
    down = next((each for each in incidents if each.kind == "down" and not each.ended), None)
    if not report.up:
        why = report.down_reason or "not asked yet"
        since = down.seconds if down else None
        yield Finding("PostgreSQLDown", rule("Down").severity, f"{PRODUCTS[report.kind]} does not answer: {why}", since)
    named: set[str] = set()
    for subject in SUBJECTS if report.kind == "postgresql" else ():
        for finding in subject(readings, now):
            named.add(finding.labels.get("pid", ""))
            yield finding
    yield from (finding for finding in roots(tree) if finding.labels["pid"] not in named)


def _waiting(incidents: Iterable[Incident]) -> Sequence[dict[str, object]]:
    """Return the sessions of the latest snapshot of a lock wait that goes on."""
    for incident in incidents:
        if incident.kind == "lock_wait" and not incident.ended and incident.snapshots:
            return [dict(session) for session in incident.snapshots[-1].sessions]
    return ()


def _vitals(now: Readings) -> Iterator[Vital]:
    used, left = now.value("pg_connections_used"), now.value("pg_connections_available")
    ratio = used / (used + left) if used is not None and left is not None and used + left else None
    yield _vital(
        "connections", f"{used:,.0f} of {used + (left or 0.0):,.0f}" if used is not None else "", ratio,
        limit("ConnectionsNearlyUsed", "ratio"), limit("ConnectionsAtLimit", "ratio"), "{:.0%} used".format,
    )  # fmt: skip
    wait = now.value("pg_lock_longest_wait_seconds")
    most = limit("LockWait", "wait_seconds")
    yield _vital("longest lock wait", duration(wait) if wait is not None else "", wait, most, most, duration)
    oldest = now.value("pg_session_oldest_seconds", {"kind": "transaction"})
    open_at = limit("LongTransaction", "seconds")
    text = duration(oldest) if oldest is not None else "none open"
    yield _vital("longest transaction", text, oldest or 0.0, open_at, float("inf"), duration)
    lag = now.value("pg_replication_lag_seconds")
    if lag is not None:
        stale = limit("ReplicaStale", "seconds")
        yield _vital("replication lag", duration(lag), lag, limit("ReplicaLagging", "seconds"), stale, duration)
    held = now.series("pg_replication_slots_retained_bytes")
    if held:
        near = limit("ReplicationSlotNearLimit", "ratio")
        safe = now.value("pg_replication_slots_safe_wal_size_bytes", held[0].labels)
        share = held[0].value / (held[0].value + max(safe, 0.0)) if safe is not None and held[0].value else 0.0
        text = f"{size(held[0].value)} ({held[0].labels['slot_name']})"
        yield _vital("WAL held by a slot", text, share, near, 1.0, "{:.0%} of its limit".format)
    age, freeze = now.value("pg_database_xid_age"), now.value("pg_wraparound_freeze_max_age")
    if age is not None and freeze:
        overdue = limit("XidFreezeOverdue", "factor") * freeze
        failsafe = now.value("pg_wraparound_failsafe_age") or limit("XidFailsafeReached", "age_on_13")
        yield _vital("transaction id age", f"{age / 1e6:,.0f} million", age, overdue, failsafe, _millions)
    sequence = now.value("pg_sequence_used_ratio")
    if sequence is not None:
        near = limit("SequenceNearlyUsed", "ratio")
        yield _vital("fullest sequence", f"{sequence:.0%}", sequence, near, 1.0, "{:.0%}".format)


def _millions(number: float) -> str:
    return f"{number / 1e6:,.0f} million"


def _vital(
    name: str, text: str, value: float | None, warns: float, alarms: float, words: Callable[[float], str]
) -> Vital:
    state: State = "unknown"
    if value is not None:
        state = "critical" if value >= alarms else "warning" if value > warns else "good"
    return Vital(name, text or "not known", state, f"alert from {words(warns)}")
