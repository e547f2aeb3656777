"""Plays incidents that take hours or days from recorded pages: history into Prometheus, the present served to it."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from alerting import Event
from alerts.ruleset import ALERTS, Needs, load
from incidents.play import Expected, Outcome, names_of, outcome, say, until_resolved
from incidents.stage import HEALTHY, PASSWORD, Stage, new_server, promtool, watching
from incidents.tape import Phase, Recorder, Tape, openmetrics
from prom import JOB, Prometheus

from exporter.demo.scenarios.scene import Culprit, Scenario, Scene
from exporter.demo.shop import MONITOR, Shop

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
STEP = 60.0
"""Seconds between the scrapes of the past."""
FINE = 15.0
"""Seconds between the evaluations of the past."""
ONE_BLOCK = "--max-block-duration=720h"
"""Promtool reads all of its input once for each block."""
A_WEEK = "--max-block-duration=168h"
"""It asks Prometheus for a block at once, which gives 11 000 points of a series at most, one a minute."""
LAYERS = 2
"""Recording rules that use others see nothing before the others' past is there."""
ALWAYS = frozenset({"pg_up", "pgvigil_scrapes_total"})
AT_ONCE = 2
"""Recordings made at once."""
PATIENCE = 120.0
"""Seconds that an alert may take which is due."""


@dataclass(frozen=True)
class Replay:
    """An incident of the demo's, played from recorded pages."""

    incident: Scenario
    expected: Sequence[Expected]
    before: float
    """Seconds of the healthy state."""
    after: float
    """Seconds from the cause to the present."""
    apart: float = 20.0
    """Seconds between the two pages of a state."""
    moving: Sequence[str] = ()
    """Gauges that go on as they did between the two pages; counters always do."""
    settings: Mapping[str, str] = field(default_factory=dict)
    cause: Callable[[Scene, Shop], Awaitable[Culprit]] | None = None
    """What is done instead of the incident's own cause."""
    cure: Callable[[Scene, Shop], Awaitable[None]] | None = None


@dataclass
class Recorded:
    """A replay, its tape, and what the culprit was."""

    story: Replay
    tape: Tape
    culprit: Culprit
    path: str
    since: dict[str, float] = field(default_factory=dict)
    """Since when each alert has been pending or firing."""
    end: float = 0.0
    """The moment at which the tape's past ends."""
    cured: float = 0.0
    began: float = 0.0
    """The moment of the cause, on the tape."""
    scrapes: int = 0
    """How often its present was asked for."""

    @property
    def instance(self) -> str:
        """What stands in the label."""
        return f"incident{self.path}:9187"

    def page(self) -> str:
        """What the exporter would serve now."""
        self.scrapes += 1
        now = time.time()
        second = self.tape.begin(self.tape.cure) + now - self.end
        until = len(self.tape.phases) if self.cured else self.tape.cure
        values = self.tape.page(second, now, until)
        return "".join(f"{name}{{{labels}}} {value!r}\n" for (name, labels), value in values.items())

    def be_cured(self) -> None:
        """From now on the page is that of the cured server."""
        self.cured = time.time()
        last = self.tape.phases[self.tape.cure - 1]
        self.tape.phases[self.tape.cure - 1] = replace(last, seconds=last.seconds + self.cured - self.end)
        self.end = self.cured


async def record(story: Replay, folder: Path, path: str) -> list[Recorded]:
    """Play the incident on a server of its own, and record its pages before, during and after."""
    settings = {**HEALTHY, **story.settings}
    server = new_server(folder / f"recorded{path}", settings)
    names = ALWAYS.union(*(_needs(each).metrics for each in story.expected))
    try:
        await asyncio.to_thread(server.__enter__)
        shop = Shop(server, PASSWORD)
        await asyncio.to_thread(shop.furnish)
        scene, recorder = Scene(shop), Recorder(shop.dsn(MONITOR), names)
        try:
            await story.incident.prepare(scene)
            await asyncio.sleep(3)
            await recorder.record(story.before, apart=story.apart, moving=story.moving)
            culprit = await (story.cause(scene, shop) if story.cause else story.incident.cause(scene))
            await asyncio.sleep(3)
            await recorder.record(story.after, apart=story.apart, moving=story.moving)
            await (story.cure(scene, shop) if story.cure else story.incident.cure(scene))
            await asyncio.sleep(3)
            await recorder.record(DAY, apart=story.apart, moving=story.moving)
        finally:
            await scene.clear()
    finally:
        await asyncio.to_thread(server.remove)
    return list(_tapes(story, recorder.phases, culprit, path))


def _tapes(story: Replay, phases: Sequence[Phase], culprit: Culprit, path: str) -> Iterator[Recorded]:
    """One tape for each present: a page that is due later would silence the ticket that is due now."""
    before, during, cured = phases
    for number, after in enumerate(dict.fromkeys(each.after or story.after for each in story.expected)):
        expected = [each for each in story.expected if (each.after or story.after) == after]
        tape = Tape([before, replace(during, seconds=after), cured], cause=1, cure=2)
        yield Recorded(replace(story, expected=expected), tape, culprit, f"{path}{'abc'[number]}")


def _needs(expected: Expected) -> Needs:
    """The metrics and rule files that an alert lives on."""
    rules = load()
    return rules.needs(rules.alerts[expected.alert])


async def record_all(stories: Sequence[Replay], folder: Path) -> list[Recorded]:
    """Record some at a time."""
    few = asyncio.Semaphore(AT_ONCE)

    async def one(story: Replay) -> list[Recorded]:
        async with few:
            return await record(story, folder, f"{story.incident.number}")

    return [tape for tapes in await asyncio.gather(*map(one, stories)) for tape in tapes]


@contextmanager
def served(tapes: Sequence[Recorded]) -> Iterator[str]:
    """Serves each tape's present at its path; gives the address."""
    pages = {f"/{tape.path}": tape for tape in tapes}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages[self.path].page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_past(tapes: Sequence[Recorded], folder: Path) -> None:
    """Write the past of all tapes, what recording rules would have made of it, and since when alerts were pending."""
    for tape in tapes:
        tape.end = time.time()
        length = tape.tape.begin(tape.tape.cure)
        tape.began = tape.end - length + tape.tape.begin(tape.tape.cause)
        steps = [STEP * number for number in range(int(length / STEP), -1, -1)]
        _blocks(openmetrics(tape.instance, JOB, tape.tape, tape.end, steps), folder)
    for _ in range(LAYERS):
        with _past(folder) as past:
            for tape in tapes:
                _recording_rules(tape, past, folder)
    with _past(folder) as past:
        _blocks(_pending(tapes, past), folder)


def _past(folder: Path) -> AbstractContextManager[Prometheus]:
    """A Prometheus to ask about the past: it evaluates nothing, or it would note that alerts began just now."""
    return watching(folder, "127.0.0.1:9", evaluated="1y")


def _blocks(lines: Iterator[str], folder: Path) -> None:
    file = folder / "past.txt"
    with file.open("w") as out:
        out.writelines(lines)
        out.write("# EOF\n")
    _promtool("create-blocks-from", ONE_BLOCK, "openmetrics", "--quiet", str(file), str(folder / "data"))


def _recording_rules(tape: Recorded, past: Prometheus, folder: Path) -> None:
    start = tape.end - tape.tape.begin(tape.tape.cure) + 10 * MINUTE
    options = [f"--start={start:.0f}", f"--end={tape.end:.0f}", f"--url={past.url}", "--eval-interval=60s"]
    subjects = dict.fromkeys(subject for each in tape.story.expected for subject in _needs(each).subjects)
    files = [str(ALERTS / "rules" / f"{subject}.yml") for subject in subjects]
    _promtool("create-blocks-from", A_WEEK, "rules", *options, f"--output-dir={folder / 'data'}", *files)


def _promtool(*arguments: str) -> None:
    done = subprocess.run([promtool(), "tsdb", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _pending(tapes: Sequence[Recorded], past: Prometheus) -> Iterator[str]:
    """Since when each expected alert has been pending or firing, as Prometheus itself notes it down."""
    for tape in tapes:
        for each in tape.story.expected:
            rule = rule_of(past, each.alert)
            for labels, since in since_when(past, rule, tape):
                tape.since[each.alert] = min(since, tape.since.get(each.alert, since))
                named = {**labels, **rule["labels"], "alertname": each.alert}
                pairs = ",".join(f"{name}={_quoted(value)}" for name, value in sorted(named.items()))
                for at in (tape.end - STEP, tape.end):
                    yield f"ALERTS_FOR_STATE{{{pairs}}} {since:.0f} {at:.3f}\n"


def rule_of(prom: Prometheus, alert: str) -> dict[str, Any]:
    """An alerting rule as Prometheus has loaded it."""
    [rule] = [rule for rule in prom.rules() if rule["name"] == alert]
    return dict(rule)


def since_when(prom: Prometheus, rule: Mapping[str, Any], tape: Recorded) -> list[tuple[dict[str, str], float]]:
    """The series that fulfil a rule at the end of the past, and since when each has without a gap."""
    start = max(tape.began, tape.end - 11_000 * FINE)
    asked = {"query": rule["query"], "start": start, "end": tape.end, "step": FINE}
    answer = httpx.get(f"{prom.url}/api/v1/query_range", params=asked, timeout=120).json()
    assert answer["status"] == "success", answer
    found = []
    for series in answer["data"]["result"]:
        labels = {name: value for name, value in series["metric"].items() if name != "__name__"}
        times = [float(at) for at, _ in series["values"]]
        if labels.get("instance") == tape.instance and times[-1] > tape.end - 2 * FINE:
            gaps = [later for earlier, later in pairwise(times) if later - earlier > 1.5 * FINE]
            found.append((labels, gaps[-1] if gaps else times[0]))
    return found


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


async def play_tapes(tapes: Sequence[Recorded], on: Stage, address: str) -> list[Outcome]:
    """Let Prometheus scrape the present of the tapes, wait for what it says, cure, and wait for the end."""
    for tape in tapes:
        on.prometheus.scrape(address, instance=tape.instance, __metrics_path__=f"/{tape.path}")
    return [each for outcomes in await asyncio.gather(*(_play(tape, on) for tape in tapes)) for each in outcomes]


async def _play(tape: Recorded, on: Stage) -> list[Outcome]:
    seen = await asyncio.gather(*(_seen(each, tape, on) for each in tape.story.expected))
    while tape.scrapes < 3:  # Prometheus only notices that a series is gone if it has scraped it
        await asyncio.sleep(0.5)
    tape.be_cured()
    ends = await asyncio.gather(
        *(_over(each, event, tape, on) for each, (event, _) in zip(tape.story.expected, seen, strict=True))
    )
    return [
        outcome(tape.story.incident, each, "replayed", tape.culprit, event, seconds, end)
        for each, (event, seconds), end in zip(tape.story.expected, seen, ends, strict=True)
    ]


async def _seen(each: Expected, tape: Recorded, on: Stage) -> tuple[Event | None, float]:
    """What was said of an alert, and how many seconds after the cause, by the tape's own time."""
    rule = await asyncio.to_thread(rule_of, on.prometheus, each.alert)
    began, give_up = tape.began, time.time() + PATIENCE
    while not (firing := await asyncio.to_thread(on.prometheus.firing, each.alert, tape.instance)):
        if time.time() > give_up:
            return None, 0.0
        await asyncio.sleep(0.2)
    fired = time.time()
    say(f"{tape.story.incident.number}: {each.alert} fires")
    due = tape.since[each.alert] + rule["duration"] if each.alert in tape.since else fired
    if each.receiver == "nobody":
        return _as_event(firing[0], fired), due - began
    event = await on.event(each.alert, tape.instance, names_of(each, tape.culprit), since=0, seconds=PATIENCE)
    return event, due - began + max(event.at - fired, 0.0) if event else 0.0


async def _over(each: Expected, event: Event | None, tape: Recorded, on: Stage) -> float | None:
    """Seconds from the cure to the end."""
    if each.receiver != "nobody":
        return await until_resolved(on, event, each, tape.cured)
    while await asyncio.to_thread(on.prometheus.firing, each.alert, tape.instance):
        if time.time() > tape.cured + each.resolves_within:
            return None
        await asyncio.sleep(1)
    return round(time.time() - tape.cured, 1)


def _as_event(alert: Mapping[str, Any], at: float) -> Event:
    """An alert that nobody is told of, as Prometheus shows it."""
    payload = {
        "class": alert["labels"]["alertname"],
        "summary": alert["annotations"]["description"],
        "custom_details": alert,
    }
    return Event(at, "nobody", {"event_action": "trigger", "dedup_key": "", "payload": payload})
