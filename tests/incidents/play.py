"""Plays one incident live and measures it: seconds from its cause to PagerDuty, the culprit, and the end of it."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from alerting import Event
from incidents.stage import Stage

from exporter.demo.scenarios.scene import Culprit, Scenario, Scene


@dataclass(frozen=True)
class Expected:
    """An alert that an incident has to bring about."""

    alert: str
    within: float
    """Seconds from the cause to the event."""
    names: Sequence[str]
    """What of the culprit the event has to say, by kind of name."""
    receiver: str = "page"
    resolves_within: float = 150.0
    """Seconds from the cure to the resolve event."""
    after: float | None = None
    """Of what is replayed: seconds from the cause to the present, if not those of the replay."""


@dataclass(frozen=True)
class Outcome:
    """What came of one expected alert."""

    number: int
    title: str
    alert: str
    receiver: str
    within: float
    how: str
    """`live` or `replayed`."""
    seconds: float | None
    """From the cause to the event; None when none came in time."""
    missing: Sequence[str]
    """What of the culprit the event does not say."""
    resolved: float | None
    """Seconds from the cure to the resolve event; None when none came in time."""
    summary: str = ""
    """What PagerDuty was told first of all."""

    @property
    def caught(self) -> bool:
        """Whether it was in time, named the culprit, and ended."""
        return (
            self.seconds is not None and self.seconds <= self.within and not self.missing and self.resolved is not None
        )


class Titled(Protocol):
    """An incident, of the demo's or of our own."""

    @property
    def number(self) -> int:
        """Its number in the list of incidents."""

    @property
    def title(self) -> str:
        """What happened."""


@dataclass
class Story:
    """An incident of the demo's, and what has to come of it."""

    incident: Scenario
    expected: Sequence[Expected]
    settings: Mapping[str, str] = field(default_factory=dict)
    scrapes: int = 3
    """How many scrapes Prometheus has before it begins."""


async def play(story: Story, stage: Stage) -> list[Outcome]:
    """Play it on a shop of its own, from the day before to the last resolve event."""
    incident = story.incident
    async with stage.shop(story.settings) as played:
        scene = Scene(played.shop)
        try:
            await incident.prepare(scene)
            await stage.scraped(played.address, times=story.scrapes)
            cause, cure = partial(incident.cause, scene), partial(incident.cure, scene)
            return await measured(stage, incident, story.expected, played.address, cause, cure)
        finally:
            await scene.clear()


async def measured(
    stage: Stage,
    incident: Titled,
    expected: Sequence[Expected],
    instance: str,
    cause: Callable[[], Awaitable[Culprit]],
    cure: Callable[[], Awaitable[None]],
) -> list[Outcome]:
    """Cause it, wait for what is expected, cure it, wait for the end."""
    say(f"{incident.number}: {incident.title}")
    began = time.time()
    culprit = await cause()
    waits = (
        stage.event(each.alert, instance, names_of(each, culprit), since=began, seconds=2 * each.within)
        for each in expected
    )
    events = await asyncio.gather(*waits)
    for each, event in zip(expected, events, strict=True):
        say(f"{incident.number}: {each.alert}: {_told(event, began)}")
    cured = time.time()
    await cure()
    pairs = list(zip(expected, events, strict=True))
    ends = await asyncio.gather(*(until_resolved(stage, event, each, cured) for each, event in pairs))
    return [
        outcome(incident, each, "live", culprit, event, event.at - began if event else 0.0, end)
        for (each, event), end in zip(pairs, ends, strict=True)
    ]


def names_of(expected: Expected, culprit: Culprit) -> list[str]:
    """What the event has to say of the culprit."""
    return [culprit[name] for name in expected.names]


def say(line: str) -> None:
    """Tell whoever waits how it goes."""
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


def _told(event: Event | None, began: float) -> str:
    return f"after {event.at - began:.1f} s: {event.payload['summary']}" if event else "nothing came"


def outcome(
    incident: Titled,
    expected: Expected,
    how: str,
    culprit: Culprit,
    event: Event | None,
    seconds: float,
    resolved: float | None,
) -> Outcome:
    """Judge one expected alert by the event that came, so many seconds after the cause."""
    missing = [f"{name}={culprit[name]}" for name in expected.names if event and culprit[name] not in event.text]
    if event and event.receiver != expected.receiver:
        missing.append(f"receiver={expected.receiver}")
    return Outcome(
        number=incident.number,
        title=incident.title,
        alert=expected.alert,
        receiver=expected.receiver,
        within=expected.within,
        how=how,
        seconds=round(seconds, 1) if event else None,
        missing=missing,
        resolved=resolved,
        summary=str(event.payload["summary"]) if event else "",
    )


async def until_resolved(stage: Stage, event: Event | None, expected: Expected, cured: float) -> float | None:
    """Seconds from the cure to the resolve event of the same incident."""
    if event is None:
        return None
    give_up = cured + expected.resolves_within
    while time.time() < give_up:
        for each in stage.pagerduty.events:
            if each.dedup_key == event.dedup_key and each.action == "resolve" and each.at >= cured:
                return round(each.at - cured, 1)
        await asyncio.sleep(0.2)
    return None
