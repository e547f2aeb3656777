"""How often each job may run, so that all of them together cost no more than their share of a core. Pure."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

LONGEST_SECONDS = 600.0
"""However much a job costs, it runs this often."""


def intervals(costs: Mapping[Key, float], periods: Mapping[Key, float], share: float) -> dict[Key, float]:
    """Say for the jobs that cost too much how many seconds have to lie between two runs; the others are left out.

    The share is divided evenly: who needs less than its part leaves the rest to the others.

    Args:
        costs: seconds of the server's time that a run takes.
        periods: seconds between two runs when nothing holds a job back.
        share: seconds of the server's time a second that they may all take together.

    """
    loads = {key: cost / max(periods[key], 1e-3) for key, cost in costs.items()}
    paced: dict[Key, float] = {}
    left = share
    for done, key in enumerate(sorted(loads, key=loads.__getitem__)):
        part = left / (len(loads) - done)
        if loads[key] > part:
            paced[key] = min(costs[key] / part, LONGEST_SECONDS) if part > 0 else LONGEST_SECONDS
        left -= min(loads[key], part)
    return paced
