"""The part of the page that looks back: active sessions of the last hour, and top statements."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.errors import StateError
from exporter.history.minute import SECONDS, Span
from exporter.history.summary import SessionHistory, TopStatement, session_history, top_statements
from exporter.history.target_history import TargetHistory
from exporter.web.activity_chart import Chart, activity_chart, clock

_HOUR = 60
"""Minutes of the chart."""

_PATIENCE_SECONDS = 0.2
"""Seconds that a page waits for the disk: it is opened while something is wrong."""

SPANS = (5, 60)
"""Minutes that top statements may be of."""

MEASURES = {
    "time": lambda statement: statement.seconds,
    "calls": lambda statement: statement.calls,
    "reads": lambda statement: statement.blocks,
}
"""Orders of top statements."""


@dataclass(frozen=True)
class Choice:
    """What the client asks for in the address of the page."""

    minute: int | None = None
    """Unix time of the minute whose sessions are shown; None for the hour's."""
    span: int = SPANS[0]
    """Minutes of the top statements."""
    by: str = "time"

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> "Choice":
        """Read the parameters `minute`, `top` and `by`; what is not understood counts as not given."""
        minute, span, by = query.get("minute", ""), query.get("top", ""), query.get("by", "")
        return cls(
            int(minute) if minute.isascii() and minute.isdecimal() and len(minute) <= 12 else None,
            int(span) if span in map(str, SPANS) else SPANS[0],
            by if by in MEASURES else "time",
        )


@dataclass(frozen=True)
class Activity:
    """What the page says of the last hour."""

    note: str
    """Reason that there is nothing to show; empty where there is."""
    chart: Chart | None = None
    of: str = ""
    """Time that `sessions` are of, in words."""
    sessions: SessionHistory | None = None
    top: Sequence[TopStatement] = ()
    choice: Choice = Choice()


_NOTHING = Span()


@dataclass(frozen=True)
class Past:
    """The minutes before this one, as the history has them."""

    first: int
    """Unix time of the first minute that was asked for."""
    note: str = ""
    """Reason for no minutes."""
    all: Span = _NOTHING
    chosen: Span = _NOTHING
    """The minute that was chosen; all of them where none was."""
    latest: Span = _NOTHING
    """The minutes of the top statements, the one under way included."""
    before: Span = _NOTHING
    """The hour before those."""


async def past(history: TargetHistory | None, count: int, span: int, minute: int | None = None) -> Past:
    """Read the history.

    Args:
        history: that of the target; None where none is kept.
        count: minutes before this one.
        span: minutes of the top statements.
        minute: Unix time of a minute that was chosen.

    """
    now = int(time.time()) // SECONDS * SECONDS
    first, begin = now - count * SECONDS, now - span * SECONDS
    if history is None:
        return Past(first, "No history is kept.")
    chosen = (minute, minute + SECONDS) if minute is not None and first <= minute < now else (first, now)
    try:
        found = await history.spans(
            [(first, now), chosen, (begin, now), (begin - _HOUR * SECONDS, begin)], _PATIENCE_SECONDS
        )
    except StateError as error:
        return Past(first, f"The history cannot be read: {error}")
    whole, of_choice, latest, before = found
    with_now = latest.with_part(*await history.under_way())
    note = "" if whole.waits else "Not known yet: a minute has to pass."
    return Past(first, note, whole, of_choice, with_now, before)


async def activity(history: TargetHistory | None, choice: Choice) -> Activity:
    """Show the last hour of the history as the client chose."""
    found = await past(history, _HOUR, choice.span, choice.minute)
    if found.note:
        return Activity(found.note, choice=choice)
    minute = choice.minute if choice.minute in found.chosen.waits and len(found.chosen.waits) == 1 else None
    return Activity(
        note="",
        chart=activity_chart(session_history(found.all).minutes, found.first, _HOUR),
        of="the last hour" if minute is None else f"{clock(minute)} UTC",
        sessions=session_history(found.all if minute is None else found.chosen),
        top=top_statements(found.latest, found.before, MEASURES[choice.by]),
        choice=choice,
    )
