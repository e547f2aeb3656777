"""Decides when a job runs next, and why not earlier, from the state it is in. Pure."""

from dataclasses import dataclass

from exporter.report import Why

NEARLY = 0.95
"""Share of an interval after which a job may run again: the next scrape is a whole scrape interval away."""

FAILURES_UNTIL_NORMAL = 4
"""After this many consecutive failures the retry interval of a throttled job equals its normal interval."""

NEVER = float("-inf")

FRESH_SHARE = 0.0001
"""Share of a core up to which a cached result is read before its time, on the kept connections, without a budget."""

FRESH_PART = 0.01
"""Part of the cost budget up to which it is read so, where there is one."""

FRESH_SECONDS = 30.0
"""Least interval of such runs, in seconds."""


@dataclass(frozen=True)
class NextRun:
    """Next run of a job, and why not earlier."""

    at: float
    """Clock time in seconds; a scrape from then on finds the job due."""
    why: Why


@dataclass(frozen=True)
class Spacing:
    """Intervals between a job's runs, in seconds."""

    cache: float = 0.0
    """TTL of a cached result."""
    throttle: float = 0.0
    """Interval that the cost budget imposes on the job; 0 for none."""
    visit: float = 0.0
    """Interval that the cost budget imposes on visits to its database; 0 for none."""
    rests_until: float = NEVER
    """Clock time until which its database is left alone, as it has refused us."""

    @property
    def imposed(self) -> float:
        """The interval that the cost budget imposes, in seconds."""
        return max(self.throttle, self.visit)


@dataclass(frozen=True)
class New:
    """Has not run, or not on the server that is there now."""


@dataclass(frozen=True)
class Waiting:
    """The last run succeeded; its result is served until the next one is due."""

    started: float
    """Start of the last run."""


@dataclass(frozen=True)
class Failed:
    """The last run failed, or found no connection: retried after a backoff."""

    started: float
    until: float
    """End of the backoff."""
    failures: int
    """Consecutive runs that failed."""
    suspensions: int = 0
    """Consecutive runs that ended in a suspension."""


@dataclass(frozen=True)
class Suspended:
    """The query ignored its statement_timeout on a server that answers others."""

    started: float
    until: float
    failures: int
    suspensions: int


@dataclass(frozen=True)
class Running:
    """Under way; `before` is what holds until its outcome is recorded."""

    started: float
    before: "New | Waiting | Failed | Suspended"
    is_outdated: bool = False
    """True if another server is there by now, of which the outcome says nothing."""


State = New | Waiting | Failed | Suspended | Running


def fresh_seconds(cost: float, cost_budget: float) -> float:
    """Return the seconds between two runs of that cost, of which no cache has to save any.

    Each interval is twice the one before, so that what runs less often runs together with what runs more often.
    """
    interval, share = FRESH_SECONDS, FRESH_PART * cost_budget or FRESH_SHARE
    while cost > share * interval:
        interval *= 2
    return interval


def next_run(state: State, spacing: Spacing) -> NextRun:
    """Say when a job in this state runs next, and why not earlier."""
    found = _by_state(state, spacing)
    if found.at < spacing.rests_until and not isinstance(state, Running):
        return NextRun(spacing.rests_until, "backoff")
    return found


def _by_state(state: State, spacing: Spacing) -> NextRun:
    match state:
        case New():
            return NextRun(NEVER, "new")
        case Running(started):
            return NextRun(started, "running")
        case Waiting(started):
            why: Why = "throttled" if spacing.imposed > spacing.cache else "cached"
            return NextRun(started + NEARLY * max(spacing.cache, spacing.imposed), why)
        case Suspended(until=until):
            return NextRun(until, "suspended")
        case Failed(started, until, failures):
            patience = min(failures / FAILURES_UNTIL_NORMAL, 1.0)
            throttled_until = started + NEARLY * patience * spacing.imposed
            return NextRun(max(until, throttled_until), "backoff" if until >= throttled_until else "throttled")
