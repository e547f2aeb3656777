"""Draws the active sessions of an hour: a bar for each minute, stacked by what the sessions waited for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from exporter.history.minute import SECONDS
from exporter.history.summary import MinuteOfSessions

WIDTH, HEIGHT = 600, 120
"""Units of the drawing, which is as wide as the page."""

CLASSES: Mapping[str, str] = {
    "CPU": "cpu",
    "IO": "io",
    "Lock": "lock",
    "LWLock": "lwlock",
    "Client": "client",
    "IPC": "ipc",
}
"""Wait event types with a colour of their own, from the bottom up; all others are `others`."""


@dataclass(frozen=True)
class Part:
    """A rectangle of a bar."""

    css: str
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """A minute, drawn."""

    at: int
    """Unix time, as the link has it."""
    x: float
    width: float
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chart:
    """The drawing, with what its legend says."""

    bars: tuple[Bar, ...]
    most: float
    """Active sessions at the top."""
    begins: str
    ends: str
    legend: tuple[tuple[str, str], ...]
    """Class and wait event type of what is in it."""


def activity_chart(minutes: Sequence[MinuteOfSessions], first: int, count: int = 60) -> Chart | None:
    """Draw minutes; None where nothing is known.

    Args:
        minutes: those that are known.
        first: Unix time of the first minute of the drawing.
        count: its number of minutes.

    """
    if not minutes:
        return None
    most = max(1.0, *(minute.sessions for minute in minutes))
    kinds = {kind for minute in minutes for kind in minute.by_wait_event_type}
    named = [(css, kind) for kind, css in CLASSES.items() if kind in kinds]
    others = [("others", "other waits")] if kinds - CLASSES.keys() else []
    width = WIDTH / count
    return Chart(
        bars=tuple(_bar(minute, (minute.at - first) / SECONDS * width, width, most) for minute in minutes),
        most=most,
        begins=clock(first),
        ends=clock(first + count * SECONDS),
        legend=(*named, *others),
    )


def clock(at: float) -> str:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M")


def _bar(minute: MinuteOfSessions, x: float, width: float, most: float) -> Bar:
    heights = dict.fromkeys((*CLASSES.values(), "others"), 0.0)
    for kind, sessions in minute.by_wait_event_type.items():
        heights[CLASSES.get(kind, "others")] += sessions / most * HEIGHT
    parts, top = list[Part](), float(HEIGHT)
    for css, height in heights.items():
        if height:
            top -= height
            parts.append(Part(css, round(top, 2), round(height, 2)))
    told = ((kind, sessions) for kind, sessions in minute.by_wait_event_type.items() if sessions >= 0.05)
    said = ", ".join(f"{sessions:.1f} {kind}" for kind, sessions in told)
    title = f"{clock(minute.at)} UTC: {minute.sessions:.1f} active sessions" + (f" ({said})" if said else "")
    return Bar(minute.at, round(x, 2), round(width, 2), title, tuple(parts))
