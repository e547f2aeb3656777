"""Sums up minutes: active sessions by what they waited for, who contributed, and top statements. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.documented import documented
from exporter.history.minute import SECONDS, Minute, Use
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
    """Ratio of its execution time in a minute to that of the hour before; None where it did not run then."""


def session_history(minutes: Sequence[Minute]) -> SessionHistory:
    """Sum up minutes, oldest first."""
    texts = _texts(minutes)
    activities = [pair for minute in minutes for pair in minute.sessions.items()]
    span = len(minutes) * SECONDS
    return SessionHistory(
        minutes=tuple(map(_sessions, minutes)),
        statements=_contributions(activities, lambda each: _named(each.statement, texts), span),
        applications=_contributions(activities, lambda each: each.application or "(no application_name)", span),
    )


def top_statements(
    minutes: Sequence[Minute], before: Sequence[Minute], measure: Callable[[TopStatement], float]
) -> tuple[TopStatement, ...]:
    """Return the statements with the most work in these minutes.

    Args:
        minutes: the span.
        before: minutes before it, to compare with.
        measure: what to order by.

    """
    texts, work, earlier = _texts(minutes), _work(minutes), _work(before)
    found = list[TopStatement]()
    for each, use in work.items():
        if each[0]:  # what is added up of many, ours included, has no database
            change = _ratio(use, len(minutes), earlier.get(each), len(before))
            found.append(TopStatement(*each, texts.get(each, ""), use.calls, use.seconds, use.blocks, change))
    return tuple(sorted((each for each in found if measure(each)), key=measure, reverse=True)[:_MOST_TOP])


def _ratio(use: Use, minutes: int, earlier: Use | None, minutes_before: int) -> float | None:
    """Compare the execution time in a minute with that of before."""
    if earlier is None or not earlier.seconds:
        return None
    return (use.seconds / minutes) / (earlier.seconds / minutes_before)


def _work(minutes: Iterable[Minute]) -> dict[Statement, Use]:
    found: dict[Statement, Use] = {}
    for minute in minutes:
        for statement, use in minute.statements.items():
            found[statement] = found.get(statement, Use()) + use
    return found


def _sessions(minute: Minute) -> MinuteOfSessions:
    found: dict[str, float] = {}
    for activity, seconds in minute.sessions.items():
        found[activity.wait_event_type] = found.get(activity.wait_event_type, 0.0) + seconds / SECONDS
    by_size = dict(sorted(found.items(), key=lambda pair: -pair[1]))
    return MinuteOfSessions(minute.at, sum(found.values()), by_size)


def _contributions(
    activities: Iterable[tuple[Activity, float]], name_of: Callable[[Activity], str], span: float
) -> tuple[Contribution, ...]:
    seconds: dict[str, float] = {}
    waits: dict[str, dict[str, float]] = {}
    for activity, took in activities:
        name, wait = name_of(activity), " ".join(filter(None, (activity.wait_event_type, activity.wait_event)))
        seconds[name] = seconds.get(name, 0.0) + took
        of_name = waits.setdefault(name, {})
        of_name[wait] = of_name.get(wait, 0.0) + took
    whole = sum(seconds.values())
    by_size = sorted(seconds.items(), key=lambda pair: -pair[1])[:_MOST_CONTRIBUTIONS]
    return tuple(
        Contribution(name, took / span, took / whole, max(waits[name], key=waits[name].__getitem__))
        for name, took in by_size
        if took
    )


def _texts(minutes: Iterable[Minute]) -> dict[Statement, str]:
    return {statement: text for minute in minutes for statement, text in minute.texts.items() if text}


def _named(statement: Statement, texts: Mapping[Statement, str]) -> str:
    if statement == OTHER:
        return "(other statements)"
    return texts.get(statement) or f"query identifier {statement[2]}"
