"""Questions about the targets that pages and API share, answered from what is known: none waits for a server."""

import asyncio
import time
from collections.abc import Mapping

from exporter.diagnosis.situation import Seen, Situation, situation
from exporter.diagnosis.work import StatementWork, Work
from exporter.exposition.page_limit import limited
from exporter.history.historian import Historian
from exporter.history.minute import Use
from exporter.history.target_history import TargetHistory
from exporter.report import Report
from exporter.scrape.target import Target
from exporter.watch.incidents import Incident
from exporter.web.answers import TargetCollectors

Targets = Mapping[str, Target]


async def situations(targets: Targets, historian: Historian, seconds: float) -> list[Situation]:
    """Say what is known of servers, the worst first; in a thread, since pages of hundreds take a second to read.

    Args:
        targets: the servers by name.
        historian: keeps what their statements did lately.
        seconds: deadline of what is collected in the background, where that is older than a scrape interval.

    """
    now, targets = time.time(), dict(targets)
    reports = await known(targets, seconds)
    seen = [
        (name, target.address, reports[name], _seen(target, historian.of(name))) for name, target in targets.items()
    ]

    def said() -> list[Situation]:
        found = (situation(name, address, report, past, now) for name, address, report, past in seen)
        return sorted(found, key=lambda each: (each.worst, each.target))

    return await asyncio.to_thread(said)


async def known(targets: Targets, seconds: float) -> dict[str, Report]:
    """Report what is known of servers; what is old is collected in the background, and waited for a moment."""
    targets = dict(targets)
    found = await asyncio.gather(*(target.known(seconds) for target in targets.values()))
    return dict(zip(targets, found, strict=True))


def _seen(target: Target, history: TargetHistory | None) -> Seen:
    waiting = target.watch.waiting if target.watch else ()
    return Seen(target.incidents, waiting, _work(history, target) if history else None)


def _work(history: TargetHistory, target: Target) -> Work | None:
    """Say what the statements of a server did lately; None before its first minute is over."""
    recent, texts = history.work, target.texts.listed()
    seen = target.watch.texts.texts if target.watch else {}
    latest = recent.latest()
    if not recent.seconds:
        return None
    statements = tuple(
        StatementWork(
            *each,
            texts.get(each) or seen.get(each[2], ""),
            recent.applications.get(each, ""),
            use.calls,
            use.seconds,
            recent.before.get(each, Use()).seconds_per_call,
        )
        for each, use in latest.items()
        if each[0]  # what is added up of many has no database
    )
    return Work(recent.seconds, sum(use.seconds for use in latest.values()), statements)


def collectors(targets: Targets, reports: Mapping[str, Report], max_samples: int) -> list[TargetCollectors]:
    """Describe the collectors as their samples fit on the page; servers that are down come first."""
    down_first = sorted(reports.items(), key=lambda named: named[1].up)
    return [
        TargetCollectors.of(name, targets[name].address, limited(report, max_samples)) for name, report in down_first
    ]


def incidents(targets: Targets) -> list[Incident]:
    """List the incidents that are remembered, the newest first."""
    found = [incident for target in targets.values() for incident in target.incidents]
    return sorted(found, key=lambda incident: incident.started, reverse=True)


def incident(targets: Targets, wanted: str) -> Incident | None:
    """Find an incident by its id."""
    return next((incident for incident in incidents(targets) if incident.id == wanted), None)
