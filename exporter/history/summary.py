"""Sums up minutes: active sessions by what they waited for, who contributed, and top statements. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter.documented import documented
from exporter.history.minute import SECONDS, Span, Use
from exporter.watch.active_sessions import Activity
from exporter.watch.statement_matching import OTHER, Statement

_MOST_CONTRIBUTIONS = 5
_MOST_TOP = 5


@documented
@dataclass(frozen=True)
class MinuteOfSessions:
    """Average number of active sessions in a minute."""

    at: int
    """Its beginning as Unix time."""
    sessions: float
    by_wait_event_type: Mapping[str, float]
    """The same by wait event type, `CPU` for no wait; the largest first."""


@documented
@dataclass(frozen=True)
class Contribution:
    """Part of the active sessions that a statement or an application had."""

    name: str
    """Application, or the normalised text of the statement."""
    sessions: float
    """Average number."""
    share: float
    """Share of all, from 0 to 1."""
    waits: str
    """Most frequent wait event, with its type."""


@documented
@dataclass(frozen=True)
class SessionHistory:
    """Active sessions of a span of minutes."""

    minutes: tuple[MinuteOfSessions, ...]
    """Oldest first; a minute of which nothing is known is not among them."""
    statements: tuple[Contribution, ...]
    """The largest first."""
    applications: tuple[Contribution, ...]


@documented
@dataclass(frozen=True)
class TopStatement:
    """Work of a statement by pg_stat_statements."""

    datname: str
    usename: str
    queryid: str
    query: str
    """Normalised text, cut; empty where it is not known."""
    calls: float
    seconds: float
    """Execution time."""
    blocks: float
    """Blocks read into shared buffers."""
    change: float | None
    """Ratio of its execution time in a minute to that of the hour before; None where that is not known."""
    is_new: bool
    """True where the hour before is known, and it did not run then."""


def session_history(span: Span) -> SessionHistory:
    """Sum up the active sessions of a span."""
    seconds = SECONDS * len(span.waits)
    whole = sum(sum(waits.values()) for waits in span.waits.values())
    return SessionHistory(
        minutes=tuple(_sessions(at, waits) for at, waits in span.waits.items()),
        statements=_contributions(span.sessions, lambda each: _named(each.statement, span.texts), seconds, whole),
        applications=_contributions(
            span.sessions, lambda each: each.application or "(no application_name)", seconds, whole
        ),
    )


def top_statements(span: Span, before: Span, measure: Callable[[TopStatement], float]) -> tuple[TopStatement, ...]:
    """Return the statements with the most work in a span.

    Args:
        span: the minutes to look at.
        before: minutes before them, to compare with.
        measure: what to order by.

    """
    found = list[TopStatement]()
    for each, use in span.statements.items():
        if each[0]:  # what is added up of many, ours included, has no database
            change = _ratio(use, span.minutes, before.statements.get(each), before.minutes)
            is_new = bool(before.waits) and each not in before.statements
            text = span.texts.get(each, "")
            found.append(TopStatement(*each, text, use.calls, use.seconds, use.blocks, change, is_new))
    return tuple(sorted((each for each in found if measure(each)), key=measure, reverse=True)[:_MOST_TOP])


def _ratio(use: Use, minutes: float, earlier: Use | None, minutes_before: float) -> float | None:
    """Compare the execution time in a minute with that of before."""
    if earlier is None or not earlier.seconds:
        return None
    return (use.seconds / minutes) / (earlier.seconds / minutes_before)


def _sessions(at: int, waits: Mapping[str, float]) -> MinuteOfSessions:
    by_size = sorted(((kind, seconds / SECONDS) for kind, seconds in waits.items()), key=lambda pair: -pair[1])
    return MinuteOfSessions(at, sum(sessions for _, sessions in by_size), dict(by_size))


def _contributions(
    activities: Mapping[Activity, float], name_of: Callable[[Activity], str], span: float, whole: float
) -> tuple[Contribution, ...]:
    seconds: dict[str, float] = {}
    waits: dict[str, dict[str, float]] = {}
    for activity, took in activities.items():
        name, wait = name_of(activity), " ".join(filter(None, (activity.wait_event_type, activity.wait_event)))
        seconds[name] = seconds.get(name, 0.0) + took
        of_name = waits.setdefault(name, {})
        of_name[wait] = of_name.get(wait, 0.0) + took
    by_size = sorted(seconds.items(), key=lambda pair: -pair[1])[:_MOST_CONTRIBUTIONS]
    return tuple(
        Contribution(name, took / span, took / whole, max(waits[name], key=waits[name].__getitem__))
        for name, took in by_size
        if took
    )


def _named(statement: Statement, texts: Mapping[Statement, str]) -> str:
    if statement == OTHER:
        return "(other statements)"
    return texts.get(statement) or f"query identifier {statement[2]}"
