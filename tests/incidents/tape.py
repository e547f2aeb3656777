"""Pages of the real exporter, recorded, and what they say at any moment when they are played slower or faster."""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pages import target, uncached, written

from exporter.scrape.target import Target

LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
TYPE = re.compile(r"^# TYPE (\S+) (\S+)$")

Series = tuple[str, str]
"""Name, and labels as they are written."""


@dataclass(frozen=True)
class Recording:
    """One page, read."""

    at: float
    values: Mapping[Series, float]
    counters: frozenset[str]


def read(text: str, at: float) -> Recording:
    """Take a page apart, keeping labels as they are written."""
    values: dict[Series, float] = {}
    counters: set[str] = set()
    for line in text.splitlines():
        if kind := TYPE.match(line):
            counters |= {kind[1]} if kind[2] == "counter" else set()
        elif found := LINE.match(line):
            values[found[1], found[2] or ""] = float(found[3])
    return Recording(at, values, frozenset(counters))


@dataclass(frozen=True)
class Phase:
    """A state of the server: two recordings, and for how long it is played."""

    first: Recording
    second: Recording
    seconds: float
    moving: frozenset[str]
    """Gauges that go on as they did between the recordings; all counters do."""

    def pace(self, series: Series) -> float:
        """How much a series gains a second."""
        before, after = self.first.values.get(series), self.second.values.get(series)
        seconds = self.second.at - self.first.at
        if before is None or after is None or seconds <= 0:
            return 0.0
        return max(after - before, 0.0) / seconds if self.is_counter(series) else (after - before) / seconds

    def is_counter(self, series: Series) -> bool:
        """Whether a series only rises."""
        return series[0] in self.second.counters


@dataclass
class Tape:
    """The phases of one incident in order; the incident begins with the phase `cause` and is over with `cure`."""

    phases: list[Phase]
    cause: int
    cure: int

    def begin(self, phase: int) -> float:
        """Seconds from the start of the tape to that of a phase."""
        return sum(each.seconds for each in self.phases[:phase])

    def page(self, second: float, now: float, until: int) -> dict[Series, float]:
        """What the page says at a second of the tape, which is played at the moment `now`.

        The phase before `until` lasts for as long as it is asked for.
        """
        base: dict[Series, float] = {}
        for number, phase in enumerate(self.phases[:until]):
            last = number == until - 1
            passed = second if last else min(second, phase.seconds)
            values = _values(phase, base, passed, now - passed)
            if last or second <= phase.seconds:
                return values
            base, second = (
                {series: value for series, value in values.items() if phase.is_counter(series)},
                second - phase.seconds,
            )
        raise AssertionError("a tape without phases")


def _values(phase: Phase, base: Mapping[Series, float], passed: float, began: float) -> dict[Series, float]:
    """The series of a phase so many seconds after it began; counters go on from where they were."""
    values: dict[Series, float] = {}
    for series, recorded in phase.second.values.items():
        name = series[0]
        if phase.is_counter(series):
            gained = recorded - phase.first.values.get(series, recorded)
            start = base.get(series, recorded - gained)
            values[series] = start + phase.pace(series) * passed
        elif name in phase.moving:
            values[series] = phase.first.values.get(series, recorded) + phase.pace(series) * passed
        elif name.endswith("_timestamp_seconds") and recorded:
            moved = began + (passed if name.startswith("pgvigil_") else 0.0)
            values[series] = recorded - phase.second.at + moved
        else:
            values[series] = recorded
    return values


TEXTS_SECONDS = 2.0
"""Seconds for the texts of statements, which are read beside the scrapes."""


@dataclass
class Recorder:
    """Records the pages of one server, every collector read anew."""

    dsn: str
    names: frozenset[str]
    """The metrics that matter."""
    phases: list[Phase] = field(default_factory=list)

    async def record(self, seconds: float, *, apart: float, moving: Sequence[str] = ()) -> None:
        """Two pages, so many seconds apart, to be played for a time."""
        of = target(self.dsn, uncached(), statement_text_length=160)
        try:
            await of.scrape(9.0)  # the first has nothing to compare with
            of.texts.read_newcomers()
            await asyncio.sleep(TEXTS_SECONDS)
            first = await self._once(of)
            await asyncio.sleep(apart)
            second = await self._once(of)
        finally:
            await of.close()
        self.phases.append(Phase(first, second, seconds, frozenset(moving)))

    async def _once(self, of: Target) -> Recording:
        page = written(await of.scrape(9.0))
        return self.wanted(read(page.text, time.time()))

    def wanted(self, found: Recording) -> Recording:
        """A recording without the metrics that do not matter."""
        kept = {series: value for series, value in found.values.items() if series[0] in self.names}
        return Recording(found.at, kept, found.counters)


def openmetrics(instance: str, job: str, tape: Tape, end: float, steps: Sequence[float]) -> Iterator[str]:
    """The tape up to the cure as lines for promtool; `steps` are the seconds before `end` at which it is scraped."""
    length = tape.begin(tape.cure)
    for before in steps:
        at = end - before
        for (name, labels), value in tape.page(length - before, at, tape.cure).items():
            where = f'job="{job}",instance="{instance}"'
            yield f"{name}{{{labels + ',' if labels else ''}{where}}} {value!r} {at:.3f}\n"
        yield f'up{{job="{job}",instance="{instance}"}} 1 {at:.3f}\n'
