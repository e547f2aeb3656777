"""What is known of one server now: who it is, how near it is to its limits, and what is wrong. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from exporter.alert_rules import SEVERITIES, alert_rules
from exporter.diagnosis.culprits import PREPARED
from exporter.diagnosis.findings import Finding, Remedy, duration, limit, rank, size
from exporter.diagnosis.lock_tree import Node, lock_tree
from exporter.diagnosis.readings import Labels, Readings, Series
from exporter.diagnosis.recorded import roots
from exporter.diagnosis.sessions import is_meant, is_quiet, locks, rootless
from exporter.diagnosis.subjects import SUBJECTS
from exporter.diagnosis.unjudged import NOTHING, unjudged
from exporter.diagnosis.upkeep import may_lag
from exporter.diagnosis.work import Work, work
from exporter.documented import documented
from exporter.errors import MEANINGS
from exporter.kinds import PRODUCTS
from exporter.report import Report
from exporter.watch.incidents import Incident, Session
from exporter.watch.wait_sampler import COLLECTOR as SAMPLER

_OLD_SECONDS = 60.0
"""Age of the readings, in seconds, from which no statement against a session is proposed."""


@dataclass(frozen=True)
class Seen:
    """What was seen of a server between scrapes."""

    incidents: Sequence[Incident] = ()
    """The newest first."""
    waiting: Sequence[Session] = ()
    """Sessions of the last seconds, while one waits long for a lock."""
    waiters: int | None = None
    """Sessions that wait for a lock, by a look after which nothing can have waited long; None without one."""
    work: Work | None = None
    """Work of statements; None while too little of it is known to judge them."""
    records: bool = True
    """Whether work of statements is recorded: without a history it is not."""


State = Literal["good", "warning", "critical", "unknown"]


@documented
@dataclass(frozen=True)
class Vital:
    """One number of the strip, and how near it is to its threshold."""

    name: str
    text: str
    state: State
    limit: str
    """The threshold from which an alert fires, in words."""


@documented
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
    """The worst first, what can wait last."""
    locks: tuple[Node, ...]
    unjudged: tuple[str, ...] = ()
    """What is not known, so that nothing can be said of it, and why: silence of it is no good news."""
    is_judged: bool = True
    """Whether nothing is missing that this server could tell."""

    @property
    def urgent(self) -> Sequence[Finding]:
        """The findings that cannot wait."""
        return [each for each in self.findings if not each.can_wait]

    @property
    def slow(self) -> Sequence[Finding]:
        """The findings that can wait for the day."""
        return [each for each in self.findings if each.can_wait]

    @property
    def all_clear(self) -> str:
        """What is said of a server that answers where no finding is urgent."""
        if not self.vitals:
            return "It answers; nothing else of it is judged here."
        known = "Nothing that is known so far" if self.unjudged else "Nothing that is known"
        return f"{known}, but what can wait for the day." if self.slow else f"{known}."

    @property
    def worst(self) -> int:
        """Rank by which targets are listed: 0 is the worst; what can wait comes after what cannot."""
        ranks = (SEVERITIES.index(each.severity) + len(SEVERITIES) * each.can_wait for each in self.findings)
        return min(ranks, default=2 * len(SEVERITIES))


def situation(target: str, address: str, report: Report, seen: Seen, now: float) -> Situation:
    """Say what is known of a server.

    Args:
        target: name of the target.
        address: host and port.
        report: what was collected.
        seen: what was recorded between scrapes.
        now: Unix time.

    """
    readings = Readings.of_report(report)
    ages = [job.age for job in report.jobs if job.age is not None and job.collector != SAMPLER]
    age = min(ages, default=None)
    started = readings.value("pg_postmaster_start_time_seconds") if report.up else None
    versions = readings.series("pg_server_info")
    tree = lock_tree(seen.waiting) if report.up else ()
    missing = (
        unjudged(report, is_work_known=seen.work is not None, is_work_recorded=seen.records) if report.up else NOTHING
    )
    return Situation(
        target=target,
        address=address,
        product=PRODUCTS[report.kind],
        is_up=report.up,
        down_reason=report.down_reason,
        version=versions[0].labels.get("short_version", "") if versions else "",
        role={None: "", True: "standby", False: "primary"}[report.in_recovery] if report.up else "",
        up_seconds=now - started if started else None,
        age=age,
        vitals=tuple(_vitals(readings, seen, tree)) if report.kind == "postgresql" else (),
        findings=tuple(sorted(_timely(_findings(report, readings, seen, tree, now), age), key=rank)),
        locks=tree,
        unjudged=missing.told,
        is_judged=missing.is_for_good,
    )


def _findings(report: Report, readings: Readings, seen: Seen, tree: Sequence[Node], now: float) -> Iterator[Finding]:
    if not report.up and report.down_reason:
        down = next((each for each in seen.incidents if each.kind == "down" and not each.ended), None)
        alert = f"{PRODUCTS[report.kind]}Down"
        sentence = f"{PRODUCTS[report.kind]} does not answer: {report.down_reason} ({MEANINGS[report.down_reason]})"
        steps = _of_the_error(report.down_message) if report.down_reason in _TELLING else ()
        yield Finding(alert, alert_rules()[alert].severity, sentence, down.seconds if down else None, remedies=steps)
    if report.kind != "postgresql":
        return
    if report.up:
        yield from _denied(report)
    if seen.work and report.up:
        yield from work(seen.work, readings)
    looked = [*roots(tree)]
    known_better = {rootless} if looked else {locks} if seen.waiters == 0 else set()
    for finding in (found for subject in SUBJECTS if subject not in known_better for found in subject(readings, now)):
        steps = finding.remedies
        if report.login and report.login.message and finding.alert in _OF_LOGINS:
            steps = _of_the_error(report.login.message)
        yield replace(finding, seconds=finding.seconds or _since(finding, seen), remedies=steps)
    known = {
        _name(root.labels)
        for root in readings.series("pg_lock_blocker_longest_wait_seconds")
        if _is_told(readings, root)
    }
    yield from (finding for finding in looked if finding.labels["pid"] not in known)


def _denied(report: Report) -> Iterator[Finding]:
    """Say what the role lacks: without it, silence is no good news."""
    denied = sorted({job.collector for job in report.jobs if not job.success and job.reason == "permission"})
    if denied:
        several = f"{len(denied)} collectors" if len(denied) > 1 else "a collector"
        named = ", ".join(denied[:_MOST_NAMED]) + (" and others" if len(denied) > _MOST_NAMED else "")
        sentence = f"the exporter's role lacks the rights for {several}, so what they would find is not known: {named}"
        check = Remedy("Run `pgvigil check`: it says which rights, and prints the SQL that grants them.")
        alert = "PostgreSQLExporterCollectorFailing"
        yield Finding(alert, alert_rules()[alert].severity, sentence, remedies=(check,))


_OF_LOGINS = frozenset({"PostgreSQLLoginsFail", "PostgreSQLExporterLoginFails"})

_TELLING = frozenset({"settings", "authentication", "no_database", "pooler", "other"})
"""Reasons of a server that is down of which the error says more."""


def _of_the_error(message: str) -> tuple[Remedy, ...]:
    """Say the exporter's error of a login, and how to try it again."""
    return (
        Remedy(f"Read the error of its login: {message}"),
        Remedy("Run `pgvigil check` with the exporter's settings: it logs in anew and says what helps."),
    )


_MOST_NAMED = 5


def _since(finding: Finding, seen: Seen) -> float | None:
    """Return the seconds since the connections became few, where that was recorded."""
    if finding.alert in _OF_CONNECTIONS:
        return next((each.seconds for each in seen.incidents if each.kind == "connections" and not each.ended), None)
    return None


_OF_CONNECTIONS = frozenset({"PostgreSQLConnectionsAtLimit", "PostgreSQLConnectionsNearlyUsed"})


def _timely(findings: Iterator[Finding], age: float | None) -> Iterator[Finding]:
    """Propose nothing against a session that was seen long ago: its pid may be another's."""
    is_old = age is not None and age > _OLD_SECONDS
    for each in findings:
        yield replace(each, remedies=()) if is_old and each.labels.get("pid") else each


def _is_told(readings: Readings, root: Series) -> bool:
    """Return whether the page has said what there is to say: of a long wait, or of one that is meant."""
    return root.value > limit("LockWait", "wait_seconds") or is_meant(readings, root.labels)


def _name(root: Labels) -> str:
    return root["pid"] or f"{PREPARED}{root.get('gid', '')}"


def _longest_wait(now: Readings, seen: Seen, tree: Sequence[Node]) -> float | None:
    """Return the seconds of the longest wait for a lock, by the readings or by a look since then."""
    read = now.value("pg_lock_longest_wait_seconds")
    if seen.waiters == 0 and now.series("pg_lock_blocker_longest_wait_seconds"):  # else they may be hidden
        read = 0.0
    looked = [node.seconds for node in tree if node.depth and node.seconds is not None]
    return max((*looked, *([] if read is None else [read])), default=None)


def _vitals(now: Readings, seen: Seen, tree: Sequence[Node]) -> Iterator[Vital]:
    used, left = now.value("pg_connections_used"), now.value("pg_connections_available")
    ratio = used / (used + left) if used is not None and left is not None and used + left else None
    most_used = now.value("pg_connections_max") or (used or 0.0) + (left or 0.0)
    yield _vital(
        "connections", f"{used:,.0f} of {most_used:,.0f}" if used is not None else "", ratio,
        limit("ConnectionsNearlyUsed", "ratio"), limit("ConnectionsAtLimit", "ratio"), "{:.0%} used".format,
    )  # fmt: skip
    wait = _longest_wait(now, seen, tree)
    most = limit("LockWait", "wait_seconds")
    waits = _vital("longest lock wait", duration(wait) if wait is not None else "", wait, most, most, duration)
    is_meant_to = wait is not None and wait > most and is_quiet(now, wait)
    yield replace(waits, state="good", limit="meant: VACUUM, a build, or replay") if is_meant_to else waits
    oldest = _longest_transaction(now)
    open_at = limit("LongTransaction", "seconds")
    if oldest is None and used is not None:
        oldest = 0.0
    text = duration(oldest) if oldest else "none open" if oldest is not None else ""
    yield _vital("longest transaction", text, oldest, open_at, float("inf"), duration)
    yield from _replication_vitals(now)
    age, freeze = now.value("pg_database_xid_age"), now.value("pg_wraparound_freeze_max_age")
    if age is not None and freeze and not now.value("pg_replication_is_replica"):  # a standby freezes nothing
        overdue = limit("XidFreezeOverdue", "factor") * freeze
        failsafe = now.value("pg_wraparound_failsafe_age") or limit("XidFailsafeReached", "age_on_13")
        yield _vital("transaction id age", _millions(age), age, overdue, failsafe, _millions)
    sequence = now.value("pg_sequence_used_ratio")
    if sequence is not None:
        near, shown = limit("SequenceNearlyUsed", "ratio"), min(round(sequence * 100), 99 if sequence < 1 else 100)
        yield _vital("fullest sequence", f"{shown}%", sequence, near, 1.0, "{:.0%}".format)


def _longest_transaction(now: Readings) -> float | None:
    """Return the seconds of the oldest transaction that any of the readings knows, prepared ones included."""
    known = [
        now.value("pg_session_oldest_seconds", {"kind": "transaction"}),
        *(each.value for each in now.series("pg_lock_blocker_transaction_seconds")),
        *(each.value for each in now.series("pg_xmin_horizon_seconds", holder="prepared_transaction")),
    ]
    return max((each for each in known if each is not None), default=None)


def _replication_vitals(now: Readings) -> Iterator[Vital]:
    lag = now.value("pg_replication_lag_seconds")
    if lag is not None:
        lag -= now.value("pg_recovery_min_apply_delay_seconds") or 0.0
        stale = limit("ReplicaStale", "seconds")
        lags = _vital("replication lag", duration(lag), lag, limit("ReplicaLagging", "seconds"), stale, duration)
        is_allowed = lags.state != "good" and may_lag(now) and now.value("pg_recovery_paused") != 1
        yield replace(lags, state="good", limit="allowed: queries here, or an archive") if is_allowed else lags
    held = now.series("pg_replication_slots_retained_bytes")
    if held:
        near = limit("ReplicationSlotNearLimit", "ratio")
        safe = now.value("pg_replication_slots_safe_wal_size_bytes", held[0].labels)
        share = held[0].value / (held[0].value + max(safe, 0.0)) if safe is not None and held[0].value else 0.0
        whole = f" of {size(held[0].value + safe)}" if safe is not None and safe > 0 else ""
        text = f"{size(held[0].value)}{whole} ({held[0].labels['slot_name']})"
        yield _vital("WAL held by a slot", text, share, near, 1.0, "{:.0%} of its limit".format)


def _millions(number: float) -> str:
    return f"{number / 1e6:,.0f} million" if number >= 1e6 else f"{number:,.0f}"


def _vital(
    name: str, text: str, value: float | None, warns: float, alarms: float, words: Callable[[float], str]
) -> Vital:
    state: State = "unknown"
    if value is not None:
        state = "critical" if value >= alarms else "warning" if value > warns else "good"
    return Vital(name, text or "not known", state, f"alert from {words(warns)}")
