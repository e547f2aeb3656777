"""Plays the incidents and prints what came of them: uv run python tests/incidents/run.py [--only 3,4]."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from alerting import Event
from incidents.links import LINKS
from incidents.load import DATABASE, at_work
from incidents.oddities import Odd, oddities, settings
from incidents.play import Outcome, Story, play, say
from incidents.replay import Recorded, play_tapes, record_all, served, write_past
from incidents.stage import HEALTHY, Stage, new_server, stage
from incidents.stories import QUICK, REPLAYED, SLOW

from exporter.demo.build import hand_over
from exporter.demo.shop import MONITOR

CONTROL = {
    **HEALTHY,
    "autovacuum_naptime": "1min",
    "max_slot_wal_keep_size": "-1",
    "max_wal_size": "2GB",
    "wal_level": "replica",
}

AFTER_A_RESTART = ["--rules.alert.for-grace-period=0s"]
"""An alert whose time was up before the restart does not wait again."""


Played = Callable[[Stage], Awaitable[list[Outcome]]]
"""An incident that brings its own servers."""


async def run(
    stories: Sequence[Story], others: Sequence[Played], tapes: Sequence[Recorded], on: Stage, *, control_seconds: float
) -> tuple[list[Outcome], list[Event]]:
    """Play all beside a healthy server; gives what came of them, and what was said of the healthy one."""
    async with healthy(on, jobs=control_seconds > 0) as odd:
        instances = {each.instance for each in odd}
        until = time.time() + control_seconds
        with served(tapes) as address:
            played = await asyncio.gather(
                _one_by_one(stories, on), play_tapes(tapes, on, address), *(other(on) for other in others)
            )
        while time.time() < until:
            say(f"control: {(until - time.time()) / 60:.0f} more minutes")
            await asyncio.sleep(min(60.0, max(until - time.time(), 0.1)))
        outcomes = [outcome for each in played for outcome in each]
        for each in outcomes:
            say(f"{each.number}: {each.alert} ({each.how}) said: {each.summary or 'nothing'}")
        for line in sorted({f"{event.source}: {event.alertname} to {event.receiver}" for event in on.pagerduty.events}):
            say(f"told: {line}")
        for event in on.pagerduty.events:
            if event.source in instances and event.action == "trigger":
                say(f"of the control: {event.receiver}: {event.payload['summary']}")
        for state in odd:
            say(f"control: {state.name}: {'seen' if on.prometheus.query(state.question) else 'NOT SEEN'}")
        assert all(on.prometheus.query(each.question) for each in odd) or not control_seconds
        return outcomes, [event for event in on.pagerduty.events if event.source in instances]


@asynccontextmanager
async def healthy(on: Stage, *, jobs: bool) -> AsyncIterator[list[Odd]]:
    """A healthy server under load beside the others; with jobs also all that is odd and yet healthy."""
    archive = on.folder / "archive"
    archive.mkdir()
    hand_over(archive)
    with new_server(on.folder / "control", CONTROL | (settings(str(archive)) if jobs else {})) as server:
        dsn = server.dsn(DATABASE, MONITOR, server.password)
        async with at_work(server, jobs=jobs), on.watched(dsn) as control:
            if not jobs:
                yield [Odd("load", control, "pg_up{INSTANCE} == 1")]
                return
            async with oddities(on, server, control) as odd:
                yield odd


async def _one_by_one(stories: Sequence[Story], on: Stage) -> list[Outcome]:
    """None takes another's seconds."""
    return [outcome for story in stories for outcome in await play(story, on)]


def table(outcomes: Sequence[Outcome], false: Sequence[Event], minutes: float) -> str:
    """The outcomes as a Markdown table."""
    pages = [event.alertname for event in false if event.receiver == "page" and event.action == "trigger"]
    tickets = [event.alertname for event in false if event.receiver == "ticket" and event.action == "trigger"]
    columns = [
        "#",
        "incident",
        "alert",
        "to",
        "seconds to PagerDuty",
        "culprit named",
        "resolved after",
        "false pages",
        "how",
    ]
    rows = [columns, ["---"] * len(columns)]
    for each in sorted(outcomes, key=lambda outcome: outcome.number):
        named = "yes" if each.seconds is not None and not each.missing else "no: " + ", ".join(each.missing)
        seconds = "none" if each.seconds is None else f"{each.seconds:.0f} (≤ {each.within:.0f})"
        resolved = "no" if each.resolved is None else f"{each.resolved:.0f} s"
        told = [str(each.number), each.title, each.alert, each.receiver, seconds, named, resolved, str(len(pages))]
        rows.append([*told, each.how])
    said = (
        f"Control: {minutes:.0f} minutes, pages: {', '.join(pages) or 'none'}; tickets: {', '.join(tickets) or 'none'}."
    )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", said, ""])


def main() -> int:
    """Exit 0 when every incident was caught and nobody was paged for the healthy server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="numbers of incidents, with commas; none for the control alone")
    parser.add_argument("--markdown", type=Path, help="write the table to this file as well")
    parser.add_argument("--control-minutes", type=float, default=0.0, help="run the healthy control at least so long")
    asked = parser.parse_args()
    numbers = None if asked.only is None else {int(each) for each in asked.only.split(",") if each.isdigit()}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing stays behind
    quick = [story for story in QUICK if numbers is None or story.incident.number in numbers]
    slow = [partial(play, story) for story in SLOW if numbers is None or story.incident.number in numbers]
    replayed = [story for story in REPLAYED if numbers is None or story.incident.number in numbers]
    links = [link for number, link in LINKS.items() if numbers is None or number in numbers]
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="pgvigil-incidents-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the servers run as another user
        tapes = asyncio.run(record_all(replayed, folder))
        if tapes:
            say("writing the past of those that are replayed")
            write_past(tapes, folder)
        with stage(folder, *(AFTER_A_RESTART if tapes else ())) as on:
            began = time.time()
            outcomes, false = asyncio.run(
                run(quick, [*slow, *links], tapes, on, control_seconds=60 * asked.control_minutes)
            )
            problems = on.alertmanager.problems
    text = table(outcomes, false, (time.time() - began) / 60)
    say(f"{(time.time() - started) / 60:.0f} minutes in all")
    print(text)
    print("\n".join(problems), file=sys.stderr)
    if asked.markdown:
        asked.markdown.write_text(text)
    paged = any(event.receiver == "page" for event in false)
    return 0 if all(outcome.caught for outcome in outcomes) and not paged else 1


if __name__ == "__main__":
    sys.exit(main())
