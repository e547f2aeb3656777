"""Incidents that count in seconds reach PagerDuty in time, name the culprit, end, and page nobody for a healthy server.

All twelve, and half an hour of the healthy server: `uv run python tests/incidents/run.py --control-minutes 30`.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alerting import ALERTMANAGER
from incidents.play import play
from incidents.run import healthy
from incidents.stage import Stage, stage
from incidents.stories import QUICK
from prom import PROMETHEUS


@pytest.fixture
def on(tool: Callable[..., Path]) -> Iterator[Stage]:
    """The way from the server to PagerDuty, in a folder that the servers' user may enter."""
    tool(*PROMETHEUS)
    tool(*ALERTMANAGER)
    with tempfile.TemporaryDirectory(prefix="incidents-") as folder, stage(Path(folder)) as made:
        yield made


@pytest.mark.timeout(300)
async def test_a_lock_queue_pages_within_half_a_minute_with_its_root_and_ends(on: Stage) -> None:
    stories = [story for story in QUICK if story.incident.number in (3, 4)]
    async with healthy(on, jobs=False) as [control]:
        played = await asyncio.gather(*(play(story, on) for story in stories))
    assert len(played) == 2
    for [outcome] in played:
        assert outcome.receiver == "page"
        assert outcome.seconds is not None
        assert outcome.seconds <= 30, outcome
        assert not outcome.missing, outcome
        assert outcome.resolved is not None, outcome
    assert [event.alertname for event in on.pagerduty.events if event.source == control.instance] == []
    assert on.alertmanager.problems == []
