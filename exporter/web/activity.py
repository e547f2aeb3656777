"""The part of the page that looks back: active sessions of the last hour, and top statements."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.errors import StateError
from exporter.history.minute import SECONDS, Minute
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


async def activity(history: TargetHistory | None, choice: Choice) -> Activity:
    """Read the last two hours of the history; the second is what top statements are compared with."""
    if history is None:
        return Activity("No history is kept.", choice=choice)
    now = int(time.time()) // SECONDS * SECONDS
    try:
        known = await history.minutes(now - 2 * _HOUR * SECONDS, now, _PATIENCE_SECONDS)
    except StateError as error:
        return Activity(f"The history cannot be read: {error}", choice=choice)
    if not known:
        return Activity("Not known yet: a minute has to pass.", choice=choice)
    first = now - _HOUR * SECONDS
    hour = [minute for minute in known if minute.at >= first]
    chosen = [minute for minute in hour if minute.at == choice.minute] or hour
    whole = session_history(hour)
    return Activity(
        note="",
        chart=activity_chart(whole.minutes, first, _HOUR),
        of=f"{clock(chosen[0].at)} UTC" if len(chosen) == 1 else "the last hour",
        sessions=session_history(chosen),
        top=_top(known, now, choice),
        choice=choice,
    )


def _top(known: Sequence[Minute], now: int, choice: Choice) -> Sequence[TopStatement]:
    """Return the top statements of the span before now, compared with the hour before that, by the time that passed."""
    begin = now - choice.span * SECONDS
    latest = [minute for minute in known if minute.at >= begin]
    before = [minute for minute in known if begin - _HOUR * SECONDS <= minute.at < begin]
    return top_statements(latest, before, MEASURES[choice.by])
