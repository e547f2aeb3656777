"""Draws the course of an incident: the sessions of each snapshot until the next, those that wait for locks below."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from exporter.watch.incidents import Incident, Snapshot
from exporter.web.activity_chart import HEIGHT, WIDTH, Bar, Chart, Part

KINDS: Mapping[str, str] = {
    "waiting for a lock": "lock",
    "active": "cpu",
    "idle in transaction": "lwlock",
    "idle": "client",
    "not shown": "others",
}
"""What sessions do, from the bottom up, and the colour that it has."""


def incident_chart(incident: Incident) -> Chart | None:
    """Draw the snapshots of an incident; None for fewer than two."""
    snapshots = incident.snapshots
    if len(snapshots) < 2:
        return None
    counts = [_counts(each) for each in snapshots]
    most = max(1, *(sum(each.values()) for each in counts))
    moments = [datetime.fromisoformat(each.at) for each in snapshots]
    end = max(moments[-1], datetime.fromisoformat(incident.started) + timedelta(seconds=incident.seconds))
    length = (end - moments[0]).total_seconds() or 1.0
    bars = []
    for count, begins, ends in zip(counts, moments, [*moments[1:], end], strict=True):
        said = ", ".join(f"{number} {kind}" for kind, number in count.items() if number)
        title = f"{begins:%H:%M:%S} UTC: {said or 'no session was read'}"
        x = (begins - moments[0]).total_seconds() / length * WIDTH
        width = (ends - begins).total_seconds() / length * WIDTH
        bars.append(Bar(int(begins.timestamp()), round(x, 2), round(width, 2), title, _parts(count, most)))
    legend = tuple((css, kind) for kind, css in KINDS.items() if any(each[kind] for each in counts))
    return Chart(tuple(bars), float(most), f"{moments[0]:%H:%M:%S}", f"{end:%H:%M:%S}", legend)


def _counts(snapshot: Snapshot) -> dict[str, int]:
    """Count the sessions of a snapshot by what they do."""
    counts = dict.fromkeys(KINDS, 0)
    for session in snapshot.sessions:
        state = session.get("state") or "active"
        if session.get("blocked_by"):
            kind = "waiting for a lock"
        elif state.startswith("idle in transaction"):
            kind = "idle in transaction"
        else:
            kind = "idle" if state == "idle" else "active"
        counts[kind] += 1
    counts["idle"] += snapshot.idle_sessions
    counts["not shown"] = snapshot.omitted_sessions
    return counts


def _parts(count: Mapping[str, int], most: int) -> tuple[Part, ...]:
    parts, top = list[Part](), float(HEIGHT)
    for kind, css in KINDS.items():
        if count[kind]:
            height = count[kind] / most * HEIGHT
            top -= height
            parts.append(Part(css, round(top, 2), round(height, 2)))
    return tuple(parts)
