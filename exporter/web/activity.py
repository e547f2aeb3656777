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


@dataclass(frozen=True)
class Past:
    """Minutes that were read, with as many before them as top statements are compared with."""

    minutes: Sequence[Minute]
    """Those that were asked for, oldest first."""
    before: Sequence[Minute]
    """The hour before them."""
    first: int
    """Unix time of the first minute that was asked for."""
    note: str
    """Reason for no minutes."""

    def top(self, by: str, span: int | None = None) -> Sequence[TopStatement]:
        """Return the top statements by a measure, of the last `span` minutes or of all."""
        begin = self.first if span is None else self.first + (_HOUR - span) * SECONDS
        latest = [minute for minute in self.minutes if minute.at >= begin]
        hour = [minute for minute in (*self.before, *self.minutes) if begin - _HOUR * SECONDS <= minute.at < begin]
        return top_statements(latest, hour, MEASURES[by])


async def latest(history: TargetHistory | None, count: int = _HOUR) -> Past:
    """Read the minutes before this one, and the hour before them."""
    now = int(time.time()) // SECONDS * SECONDS
    first = now - count * SECONDS
    if history is None:
        return Past((), (), first, "No history is kept.")
    try:
        known = await history.minutes(first - _HOUR * SECONDS, now, _PATIENCE_SECONDS)
    except StateError as error:
        return Past((), (), first, f"The history cannot be read: {error}")
    minutes = [minute for minute in known if minute.at >= first]
    note = "" if minutes else "Not known yet: a minute has to pass."
    return Past(minutes, [minute for minute in known if minute.at < first], first, note)


async def activity(history: TargetHistory | None, choice: Choice) -> Activity:
    """Show the last hour of the history as the client chose."""
    past = await latest(history)
    if past.note:
        return Activity(past.note, choice=choice)
    chosen = [minute for minute in past.minutes if minute.at == choice.minute] or past.minutes
    return Activity(
        note="",
        chart=activity_chart(session_history(past.minutes).minutes, past.first, _HOUR),
        of=f"{clock(chosen[0].at)} UTC" if len(chosen) == 1 else "the last hour",
        sessions=session_history(chosen),
        top=past.top(choice.by, choice.span),
        choice=choice,
    )
