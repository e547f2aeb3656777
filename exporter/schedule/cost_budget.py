"""Divides the cost budget: how far apart each job has to run so that all stay within their share of a core. Pure."""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from exporter.planning.plan import Plan

Key = TypeVar("Key", bound=Hashable)

PLANNED_SHARE = 0.8
"""Share of the cost budget that runs are planned for: some cost more than the last ones, and each visit a login."""

LEAST_SHARE = 0.1
"""Share of the cost budget that is left to the other jobs however much the vital ones cost."""

LONGEST_INTERVAL_SECONDS = 240.0
"""Upper bound on the interval that the cost budget may impose, in seconds, where the cache is not longer.

With the minute that a last good result is served, data cached for one or five minutes is never older than five.
"""


@dataclass(frozen=True)
class Login:
    """Stands for the login of a visit, where the budget is divided between jobs."""

    database: str


Apart = Mapping[tuple[str, str] | Login, float]
"""Job, or login -> seconds between two runs; unthrottled ones are absent."""


@dataclass(frozen=True)
class Need:
    """Cost and period of an unthrottled job."""

    cost: float
    """Server time of a run, in seconds."""
    period: float
    """Seconds between two runs."""

    @property
    def load(self) -> float:
        """Server time per second."""
        return self.cost / max(self.period, 1e-3)


def throttled(  # what the budget depends on
    plan: Plan,
    home: str,
    costs: Mapping[tuple[str, str], float],
    logins: Mapping[str, float],
    scrape_interval: float,
    budget: float,
) -> Apart:
    """Return the jobs, and the logins, that cost too much, and how far apart they have to run.

    Vital jobs are never throttled; the others share what these leave. The database of the DSN and all others share it
    evenly: queries asked once for the whole server are not throttled by those asked in each database, however many
    there are.

    Args:
        plan: the jobs.
        home: the database of the DSN.
        costs: server time of a run of each job, in seconds.
        logins: server time of a login to each database, in seconds.
        scrape_interval: seconds between two scrapes.
        budget: share of a core that all may take together.

    """
    vital = sum(costs[job.key] / scrape_interval for job in plan.jobs if job.collector.vital)
    share = max(PLANNED_SHARE * budget - vital, LEAST_SHARE * budget)
    here: dict[tuple[str, str] | Login, Need] = {}
    elsewhere: dict[tuple[str, str] | Login, Need] = {}
    for database, jobs in plan.by_database.items():
        needs: dict[tuple[str, str] | Login, Need] = {
            job.key: Need(costs[job.key], max(job.cache, scrape_interval)) for job in jobs if not job.collector.vital
        }
        if database == home:
            here = needs
        elif needs:
            login = Need(logins[database], min(need.period for need in needs.values()))
            elsewhere |= {**needs, Login(database): login}
    for_here, for_elsewhere = parts(here.values(), elsewhere.values(), share)
    return intervals(here, for_here) | intervals(elsewhere, for_elsewhere)


def parts(left: Iterable[Need], right: Iterable[Need], share: float) -> tuple[float, float]:
    """Divide a share evenly between two; what one does not need goes to the other."""
    needs_left, needs_right = (sum(need.load for need in needs) for needs in (left, right))
    return max(share - needs_right, share / 2), max(share - needs_left, share / 2)


def longest(period: float) -> float:
    """Return the upper bound on the interval of a job that should run once in a period."""
    return max(LONGEST_INTERVAL_SECONDS, period)


def intervals(needs: Mapping[Key, Need], share: float) -> dict[Key, float]:
    """Return the seconds between two runs of the jobs that need more than their part; the others are absent.

    The share is divided evenly; what one job does not need of its part goes to the others.

    Args:
        needs: what each job takes.
        share: server time per second that all may take together.

    """
    paced: dict[Key, float] = {}
    left = share
    for done, (key, need) in enumerate(sorted(needs.items(), key=lambda item: item[1].load)):
        part = left / (len(needs) - done)
        if need.load > part:
            apart = min(need.cost / part if part > 0 else math.inf, longest(need.period))
            paced |= {key: apart} if apart > need.period else {}
        left -= min(need.load, part)
    return paced
