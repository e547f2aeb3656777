"""The frozen result of one scrape of one target: its samples, and the state of each collector."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from exporter.errors import ConnectReason, Reason
from exporter.kinds import Kind
from exporter.samples.model import Samples


@dataclass(frozen=True)
class ServerCost:
    """Cost of one collector in one database since pg_stat_statements began to count."""

    seconds: float
    """Planning and execution."""
    blocks: int
    """Blocks read from shared buffers or disk."""


Why = Literal["new", "running", "cached", "throttled", "backoff", "suspended"]
"""Reason for a job not to run earlier."""


@dataclass(frozen=True)
class JobStatus:
    """State of one collector in one database."""

    collector: str
    datname: str
    success: bool
    samples: Samples | None
    """The samples that are served: the newest result, or the last good one; None for nothing."""
    duration: float | None
    """Seconds of query and rows at the last success."""
    age: float | None
    """Seconds since then."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Failures so far, by reason."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rows left out so far, by reason."""
    message: str = ""
    """The last failure as a sentence."""
    reason: Reason | Literal["late", ""] = ""
    """The last failure in one word."""
    seconds: float = 0.0
    """Server time of all runs so far: the time of the queries less the round trips."""
    returned_rows: int = 0
    """Rows that all runs returned so far."""
    interval: float = 0.0
    """Seconds that the cost budget imposes between two runs; 0 when it does not throttle the collector."""
    next_run_seconds: float | None = None
    """Seconds until its next run, 0 when it is due; None for a loop of its own, such as the wait sampler."""
    next_run_why: Why | None = None
    """Reason not to run earlier."""
    dropped: int = 0
    """Samples beyond `max_samples`, which the page leaves out: at least so many where not all rows were read."""


@dataclass(frozen=True)
class Rounds:
    """Visits to databases other than the DSN's."""

    visits: int = 0
    login_seconds: float = 0.0
    """Server time of their logins: the time they took less the round trips."""
    interval: float = 0.0
    """Longest interval between two visits to the same database, in seconds; 0 without other databases."""


@dataclass(frozen=True)
class Login:
    """The latest new login, which nothing but the question whether logins succeed was for."""

    success: bool
    seconds: float
    """Until it succeeded or was given up."""
    reason: ConnectReason | Literal[""] = ""
    """Failure reason."""
    certificate_expires_at: float | None = None
    """Unix time from which the server's certificate is invalid, as the latest login that succeeded saw it."""
    message: str = ""
    """The failure as a sentence."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One scrape of one target."""

    up: bool
    down_reason: ConnectReason | Literal[""]
    """Empty when it is up."""
    jobs: tuple[JobStatus, ...]
    skipped: Mapping[str, str]
    """Collectors that do not run on this server, with the reason."""
    seconds: float
    scrapes: int
    sessions: int
    """Connections of the exporter to the server, with those that the server may still hold after we left them."""
    costs: Mapping[tuple[str, str], ServerCost] = field(default_factory=dict)
    """Server costs by collector and database, as pg_stat_statements counts them."""
    incidents: Mapping[str, int] = field(default_factory=dict)
    """Incidents recorded so far, by kind."""
    kind: Kind = "postgresql"
    in_recovery: bool | None = None
    """True for a standby, by its latest answer; None before the first, and of PgBouncer."""
    rounds: Rounds = field(default_factory=Rounds)
    closed: tuple[str, ...] = ()
    """Databases that are not visited for want of the privilege CONNECT."""
    login: Login | None = None
    """None when none was tried lately."""
    down_message: str = ""
    """Why it is down as a sentence; empty when it is up."""
