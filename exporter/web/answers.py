"""Values that the API answers with, and the pages show: of collectors, statements, incidents and runbooks. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from exporter.alert_rules import Severity
from exporter.diagnosis.lock_tree import Node
from exporter.diagnosis.recorded import recorded
from exporter.diagnosis.situation import Situation
from exporter.documented import documented
from exporter.errors import ConnectReason, Reason
from exporter.history.summary import SessionHistory, TopStatement
from exporter.kinds import PRODUCTS, Kind
from exporter.report import JobStatus, Report, Why
from exporter.scrape.statement_list import Statement, StatementList
from exporter.watch.incidents import Incident, IncidentKind, Snapshot


@documented
@dataclass(frozen=True)
class Problem:
    """Why there is no answer, and what to ask for instead."""

    detail: str


@documented
@dataclass(frozen=True)
class TargetSummary:
    """One server, and the worst that is wrong with it."""

    target: str
    """Empty for the only one."""
    kind: Kind
    address: str
    is_up: bool
    down_reason: str
    """Empty when it is up, and before its first answer."""
    version: str
    role: str
    age: float | None
    """Age in seconds of what is known of it; None while nothing is."""
    findings: int
    worst: Severity | None
    """Severity of the worst finding; None without one."""
    sentence: str
    """The worst finding."""

    @classmethod
    def of(cls, now: Situation, kind: Kind) -> Self:
        """Sum up what is known of a server."""
        worst = now.findings[0] if now.findings else None
        return cls(
            target=now.target,
            kind=kind,
            address=now.address,
            is_up=now.is_up,
            down_reason=now.down_reason,
            version=now.version,
            role=now.role,
            age=now.age,
            findings=len(now.findings),
            worst=worst.severity if worst else None,
            sentence=worst.sentence if worst else "",
        )


@documented
@dataclass(frozen=True)
class CollectorState:
    """State of one collector in one database."""

    collector: str
    datname: str
    """Empty where it runs once for the server."""
    success: bool
    reason: Reason | str
    """The last failure in one word."""
    message: str
    """The last failure as a sentence."""
    duration_seconds: float | None
    """Duration of the last success."""
    age_seconds: float | None
    """Seconds since then."""
    next_run_seconds: float | None
    """Seconds until its next run, 0 when it is due; None for a loop of its own."""
    next_run_why: Why | None
    throttled_seconds: float
    """Seconds that the cost budget imposes between two runs; 0 when it does not throttle the collector."""
    rows: int | None
    """Rows that are served; None for no result."""
    truncated_rows: int
    """Rows beyond the collector's limit."""
    dropped_samples: int
    """Samples beyond `max_samples`."""

    @classmethod
    def of(cls, job: JobStatus) -> Self:
        """Describe the state of a job without its samples."""
        return cls(
            collector=job.collector,
            datname=job.datname,
            success=job.success,
            reason=job.reason,
            message=job.message,
            duration_seconds=job.duration,
            age_seconds=job.age,
            next_run_seconds=job.next_run_seconds,
            next_run_why=job.next_run_why,
            throttled_seconds=job.interval,
            rows=job.samples.rows if job.samples else None,
            truncated_rows=job.samples.truncated_rows if job.samples else 0,
            dropped_samples=job.dropped,
        )


@documented
@dataclass(frozen=True)
class TargetCollectors:
    """The collectors of one server."""

    target: str
    kind: Kind
    product: str
    address: str
    is_up: bool
    down_reason: ConnectReason | str
    connections: int
    """Connections of the exporter to the server."""
    collectors: tuple[CollectorState, ...]
    skipped: Mapping[str, str]
    """Collectors that do not run on this server, with the reason."""

    @classmethod
    def of(cls, target: str, address: str, report: Report) -> Self:
        """Describe the collectors of a report."""
        return cls(
            target=target,
            kind=report.kind,
            product=PRODUCTS[report.kind],
            address=address,
            is_up=report.up,
            down_reason=report.down_reason,
            connections=report.sessions,
            collectors=tuple(map(CollectorState.of, report.jobs)),
            skipped=report.skipped,
        )


@documented
@dataclass(frozen=True)
class StatementLine:
    """One statement with series of its own, or those that share series: their `queryid` is no number."""

    queryid: str
    datname: str
    usename: str
    text: str
    """Without literals; empty while it is not known."""
    calls: float
    exec_seconds: float
    mean_exec_seconds: float | None
    """None before the first call."""
    rows: float

    @classmethod
    def of(cls, statement: Statement) -> Self:
        """Describe a statement by its labels and counters."""
        labels, counts = statement.labels, statement.counts
        calls, seconds = counts.get("calls", 0.0), counts.get("exec_seconds", 0.0)
        return cls(
            queryid=statement.queryid,
            datname=labels.get("datname", ""),
            usename=labels.get("usename", ""),
            text=statement.text,
            calls=calls,
            exec_seconds=seconds,
            mean_exec_seconds=seconds / calls if calls else None,
            rows=counts.get("rows", 0.0),
        )


@documented
@dataclass(frozen=True)
class TargetStatements:
    """The statements of one server, those first that took most time."""

    target: str
    statements: tuple[StatementLine, ...]
    note: str
    """Reason for no statements or missing texts."""

    @classmethod
    def of(cls, target: str, found: StatementList) -> Self:
        """Describe a list of statements."""
        return cls(target, tuple(map(StatementLine.of, found.statements)), found.note)


@documented
@dataclass(frozen=True, kw_only=True)
class IncidentSummary:
    """An incident in a few words."""

    id: str
    target: str
    kind: IncidentKind
    started: str
    """UTC, ISO 8601."""
    ended: str | None
    """None while it lasts."""
    seconds: float
    """Its duration so far."""
    summary: str
    snapshots: int

    @classmethod
    def of(cls, incident: Incident) -> "IncidentSummary":
        """Sum up an incident."""
        return IncidentSummary(**incident.line())


@documented
@dataclass(frozen=True)
class RecordedSession:
    """A session as it was recorded: names instead of OIDs, its statement without literals; what is empty is None."""

    pid: int
    usename: str | None = None
    datname: str | None = None
    application_name: str | None = None
    client_addr: str | None = None
    backend_type: str | None = None
    state: str | None = None
    wait_event_type: str | None = None
    wait_event: str | None = None
    transaction_seconds: float | None = None
    query_seconds: float | None = None
    state_seconds: float | None = None
    query: str | None = None
    blocked_by: Sequence[int | str] = ()
    """Pids, or prepared transactions, that it waits for."""


@documented
@dataclass(frozen=True)
class RecordedMoment:
    """The server at one moment of an incident."""

    at: str
    """UTC, ISO 8601."""
    summary: str
    sessions: tuple[RecordedSession, ...]
    idle_sessions: int
    omitted_sessions: int
    collectors: Sequence[Mapping[str, str]]
    """Those that were late or failed, and why."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Describe a snapshot."""
        return cls(
            snapshot.at,
            snapshot.summary,
            tuple(RecordedSession(**each) for each in snapshot.sessions),
            snapshot.idle_sessions,
            snapshot.omitted_sessions,
            snapshot.collectors,
        )


@documented
@dataclass(frozen=True, kw_only=True)
class IncidentRecord(IncidentSummary):
    """An incident with all that was recorded of it."""

    title: str
    """The sentence that names the culprit, where one session holds up others; else the kind of incident."""
    worst_at: str
    """The moment that `locks` and `others` show; empty without a snapshot."""
    locks: tuple[Node, ...]
    others: tuple[Node, ...]
    """Sessions that waited for none and held up none."""
    moments: tuple[RecordedMoment, ...]
    """The snapshots."""

    @classmethod
    def of(cls, incident: Incident) -> "IncidentRecord":
        """Describe an incident."""
        told = recorded(incident)
        return IncidentRecord(
            **incident.line(),
            title=told.title,
            worst_at=told.at,
            locks=told.locks,
            others=told.others,
            moments=tuple(map(RecordedMoment.of, incident.snapshots)),
        )


@documented
@dataclass(frozen=True)
class TargetSessions:
    """Active sessions of one server in the minutes that are known, and its top statements by execution time."""

    target: str
    since: int
    """Unix time of the first minute that was asked for."""
    history: SessionHistory
    statements: Sequence[TopStatement]
    gauges: Mapping[str, Mapping[int, float]]
    """Latest values of each minute, by metric and Unix time."""
    note: str
    """Reason for no minutes."""


@documented
@dataclass(frozen=True)
class RunbookSummary:
    """An alert that has a runbook."""

    name: str
    severity: Severity


@documented
@dataclass(frozen=True)
class Runbook:
    """The runbook of an alert."""

    name: str
    severity: Severity
    markdown: str
