"""One minute of a target: who was active and what for, which statements ran, and how near the limits were."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from exporter.watch.active_sessions import Activity
from exporter.watch.statement_matching import OTHER, Statement

K = TypeVar("K")

SECONDS = 60
"""Length of a minute, in seconds."""

MOST_ACTIVITIES = 200
"""Upper bound on the activities of a minute; the smallest are added up by wait event type."""

MOST_STATEMENTS = 200
"""Upper bound on the statements of a minute, those with the greatest execution time."""


@dataclass(frozen=True)
class Use:
    """Work of a statement, as pg_stat_statements counts it."""

    calls: float = 0.0
    seconds: float = 0.0
    """Execution time."""
    blocks: float = 0.0
    """Blocks read into shared buffers."""

    @property
    def seconds_per_call(self) -> float | None:
        """Mean execution time; None without a call."""
        return self.seconds / self.calls if self.calls else None

    def __add__(self, other: "Use") -> "Use":
        """Add the work of another time."""
        return Use(self.calls + other.calls, self.seconds + other.seconds, self.blocks + other.blocks)

    def __mul__(self, factor: float) -> "Use":
        """Scale the work."""
        return Use(self.calls * factor, self.seconds * factor, self.blocks * factor)

    def since(self, before: "Use") -> "Use":
        """Return the work between two readings; after a reset, the work since the reset."""
        if self.calls < before.calls or self.seconds < before.seconds or self.blocks < before.blocks:
            return self
        return Use(self.calls - before.calls, self.seconds - before.seconds, self.blocks - before.blocks)


@dataclass(frozen=True)
class Minute:
    """What a minute adds to the history."""

    at: int
    """Its beginning as Unix time, a multiple of 60."""
    sessions: Mapping[Activity, float] = field(default_factory=dict)
    """Session-seconds of active sessions."""
    statements: Mapping[Statement, Use] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    """Latest values by name of metric."""
    texts: Mapping[Statement, str] = field(default_factory=dict)
    """Normalised texts of the statements, as far as they are known."""


@dataclass(frozen=True)
class Span:
    """What is known of some minutes, added up."""

    waits: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Session-seconds of each minute that is known, oldest first, by wait event type; its key is its beginning."""
    sessions: Mapping[Activity, float] = field(default_factory=dict)
    """Session-seconds of active sessions, of the largest activities."""
    statements: Mapping[Statement, Use] = field(default_factory=dict)
    texts: Mapping[Statement, str] = field(default_factory=dict)
    """Normalised texts of the statements, as far as they are known."""
    gauges: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Latest values of each minute, by metric and beginning of the minute."""
    part: float = 0.0
    """Minutes that the statements count beyond those: part of the one under way."""

    @property
    def minutes(self) -> float:
        """Return the minutes of the statements."""
        return len(self.waits) + self.part

    def with_part(self, work: Mapping[Statement, Use], seconds: float, texts: Mapping[Statement, str]) -> "Span":
        """Add the statements of the minute under way."""
        both = {each: self.statements.get(each, Use()) + use for each, use in work.items()}
        return replace(
            self, statements={**self.statements, **both}, texts={**texts, **self.texts}, part=seconds / SECONDS
        )


def largest(sessions: Mapping[Activity, float]) -> dict[Activity, float]:
    """Keep the largest activities and add up the others by wait event type, so that the total stays the same."""
    by_size = sorted(sessions.items(), key=lambda pair: -pair[1])
    kept = dict(by_size[:MOST_ACTIVITIES])
    for activity, seconds in by_size[MOST_ACTIVITIES:]:
        rest = Activity(OTHER, "other", activity.wait_event_type, "")
        kept[rest] = kept.get(rest, 0.0) + seconds
    return kept


def used(now: Mapping[K, Use], before: Mapping[K, Use]) -> dict[K, Use]:
    """Return the work of each statement since the reading before.

    One that was not there then has begun since: the counters of a member of the ledger begin when it joins.
    """
    worked = [(each, use.since(before.get(each, Use()))) for each, use in now.items()]
    by_time = sorted((pair for pair in worked if pair[1].calls), key=lambda pair: -pair[1].seconds)
    return dict(by_time[:MOST_STATEMENTS])
