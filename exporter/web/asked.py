"""Questions about the targets that pages and API share, answered from what is known: none waits for a server."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from exporter.diagnosis.situation import Seen, Situation, situation
from exporter.diagnosis.work import StatementWork, Work
from exporter.exposition.page_limit import limited
from exporter.history.historian import Historian
from exporter.history.minute import Use
from exporter.history.target_history import TargetHistory
from exporter.report import Report
from exporter.scrape.target import Target
from exporter.watch.incidents import Incident
from exporter.watch.statement_matching import Statement
from exporter.web.answers import TargetCollectors

Targets = Mapping[str, Target]

_LEAST_SECONDS = 45.0
"""Seconds of work from which on statements are judged: one long call is much of a shorter time."""


async def situations(targets: Targets, historian: Historian, seconds: float) -> list[Situation]:
    """Say what is known of servers, the worst first; in a thread, since pages of hundreds take a second to read.

    Args:
        targets: the servers by name.
        historian: keeps what their statements did lately.
        seconds: deadline of what is collected in the background, where that is older than a scrape interval.

    """
    now, targets = time.time(), dict(targets)
    reports = await known(targets, seconds)
    known_of = [
        (
            name,
            target.address,
            reports[name],
            _seen(target, records=bool(historian.of(name))),
            historian.of(name),
            _texts(target),
        )
        for name, target in targets.items()
    ]

    def said() -> list[Situation]:
        found = (
            situation(name, address, report, replace(seen, work=_work(history, report, text_of)), now)
            for name, address, report, seen, history, text_of in known_of
        )
        return sorted(found, key=lambda each: (each.worst, each.target))

    return await asyncio.to_thread(said)


async def known(targets: Targets, seconds: float) -> dict[str, Report]:
    """Report what is known of servers; what is old is collected in the background, and waited for a moment."""
    targets = dict(targets)
    found = await asyncio.gather(*(target.known(seconds) for target in targets.values()))
    return dict(zip(targets, found, strict=True))


def _seen(target: Target, *, records: bool) -> Seen:
    watch = target.watch
    return Seen(
        target.incidents, watch.waiting if watch else (), waiters=watch.waiters if watch else None, records=records
    )


def _texts(target: Target) -> Callable[[Statement], str]:
    """Return what knows the texts of statements; empty where one is not known."""
    listed, seen = target.texts.listed(), target.watch.texts.texts if target.watch else {}
    return lambda each: listed.get(each) or seen.get(each[2], "")


def _work(history: TargetHistory | None, report: Report, text_of: Callable[[Statement], str]) -> Work | None:
    """Say what the statements of a server did lately; None while too little of it is known."""
    latest, span = history.latest_work(report) if history else ({}, 0.0)
    if not history or span < _LEAST_SECONDS:
        return None
    recent = history.work
    statements = tuple(
        StatementWork(
            *each,
            text_of(each),
            recent.applications.get(each, ""),
            use.calls,
            use.seconds,
            recent.before.get(each, Use()).seconds_per_call,
        )
        for each, use in latest.items()
        if each[0]  # what is added up of many has no database
    )
    return Work(span, sum(use.seconds for use in latest.values()), statements)


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
