"""How often each job may run to keep all within their share of a core, and how seldom it runs at most. Pure."""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

LONGEST_SECONDS = 240.0
"""However much a job costs, it runs this often, or as often as its cache says: what is kept for a minute or five is
never older than five then, with the minute that a result is served when no newer one came."""


@dataclass(frozen=True)
class Need:
    """What a job takes when nothing holds it back."""

    cost: float
    """Seconds of the server's time that a run takes."""
    period: float
    """Seconds between two runs."""

    @property
    def load(self) -> float:
        """Seconds of the server's time a second."""
        return self.cost / max(self.period, 1e-3)


def parts(left: Iterable[Need], right: Iterable[Need], share: float) -> tuple[float, float]:
    """Divide a share evenly between two: who needs less than half leaves the rest to the other."""
    needs_left, needs_right = (sum(need.load for need in needs) for needs in (left, right))
    return max(share - needs_right, share / 2), max(share - needs_left, share / 2)


def longest(period: float) -> float:
    """Say how far apart the runs of a job may be put that should run so often."""
    return max(LONGEST_SECONDS, period)


def intervals(needs: Mapping[Key, Need], share: float) -> dict[Key, float]:
    """Say for the jobs that cost too much how many seconds have to lie between two runs; the others are left out.

    The share is divided evenly: who needs less than its part leaves the rest to the others.

    Args:
        needs: what each job takes.
        share: seconds of the server's time a second that they may all take together.

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
