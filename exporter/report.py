"""The frozen result of one scrape of one target: what is served, and how each collector did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from exporter.catalog.model import Kind
from exporter.errors import ConnectReason, Reason
from exporter.samples.model import Samples


@dataclass(frozen=True)
class ServerCost:
    """What one collector has cost in one database since pg_stat_statements began to count."""

    seconds: float
    """Planning and execution."""
    blocks: int
    """Blocks of shared buffers and of the disk that were read."""
    rows: int


@dataclass(frozen=True)
class JobStatus:
    """How one collector fares in one database."""

    collector: str
    datname: str
    success: bool
    samples: Samples | None
    """What is served of it: the newest result, or the last good one; None for nothing."""
    duration: float | None
    """Seconds that its query and its rows took when it last ended well."""
    age: float | None
    """Seconds since then."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Failures so far, by reason."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rows left out so far, by reason."""
    message: str = ""
    """What went wrong last, for people."""
    reason: Reason | Literal["late", ""] = ""
    """The same in one word."""
    seconds: float = 0.0
    """The server's time that all its runs took, as far as this side can tell."""
    returned_rows: int = 0
    """Rows that all its runs returned."""
    interval: float = 0.0
    """Seconds that the budget of cost puts between two runs; 0 when it does not hold it back."""
    dropped: int = 0
    """Samples left off the page because it would have had too many."""


@dataclass(frozen=True)
class Rounds:
    """How the visits to databases other than the DSN's go."""

    visits: int = 0
    login_seconds: float = 0.0
    """The server's time that their logins took, as far as this side can tell."""
    interval: float = 0.0
    """Seconds between two visits to the same database, where they are furthest apart; 0 without other databases."""


@dataclass(frozen=True)
class Report:
    """One scrape of one target, whole: what is served, and what is said about it."""

    up: bool
    down_reason: ConnectReason | Literal[""]
    """Empty when it is up."""
    jobs: tuple[JobStatus, ...]
    skipped: Mapping[str, str]
    seconds: float
    scrapes: int
    sessions: int
    """Connections to the server that the exporter has, those included that the server may still hold for it."""
    costs: Mapping[tuple[str, str], ServerCost] = field(default_factory=dict)
    """Collector and database -> what it cost the server, as pg_stat_statements counts it."""
    incidents: Mapping[str, int] = field(default_factory=dict)
    """Incidents recorded so far, by kind."""
    kind: Kind = "postgresql"
    """What the target is."""
    rounds: Rounds = field(default_factory=Rounds)
