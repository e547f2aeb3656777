"""Adds up the seconds of active sessions by statement and by application, each by what they wait for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from exporter.catalog.model import Metric
from exporter.samples.label_values import escaped, label_text
from exporter.samples.ledger import Account, Ledger
from exporter.samples.model import Family
from exporter.watch.statement_matching import OTHER, Statement

CPU = "CPU"
"""Wait event type of a session that waits for nothing: it runs, or waits for the operating system."""

MOST_SERIES = 500
"""Upper bound on the series by statement; waits that come later are counted in `other`."""

MOST_APPLICATIONS = 20
"""Upper bound on the applications with series of their own."""

_REMEMBERED = 1000
"""Upper bound on the applications whose seconds are remembered, since a name may hold a number."""

_WAITS = (
    CPU,
    "Activity",
    "Buffer",
    "BufferPin",
    "Client",
    "Extension",
    "InjectionPoint",
    "IO",
    "IPC",
    "Lock",
    "LWLock",
    "Timeout",
    "other",
)
"""Wait event types of PostgreSQL 13 to 19, and one for those of the future."""

STATEMENT_SECONDS = Metric(
    name="pg_statement_sampled_seconds_total",
    type="counter",
    help="Seconds that active client sessions spent on the statement, by wait event, sampled between scrapes. The rate"
    " is the average number of active sessions. wait_event_type is CPU for no wait; statements without series of their"
    ' own in pg_statements_* are queryid="other", of no database and user. Where a session shows no identifier, its'
    " text tells the statement.",
    column="seconds",
    labels=("datname", "usename", "queryid", "wait_event_type", "wait_event"),
)
APPLICATION_SECONDS = Metric(
    name="pg_application_sampled_seconds_total",
    type="counter",
    help="Seconds that active client sessions of the application spent, by wait event type, sampled between scrapes."
    " The rate is the average number of active sessions: the application that grows brings the load. wait_event_type is"
    f' CPU for no wait; beyond {MOST_APPLICATIONS} applications, those that spend least are application_name="other".',
    column="seconds",
    labels=("application_name", "wait_event_type"),
)


@dataclass(frozen=True)
class Activity:
    """One share of the active sessions: its statement, its application, and what it waits for."""

    statement: Statement
    application: str
    wait_event_type: str
    wait_event: str


class StatementSeconds:
    """Seconds by statement and wait event. The members have series of their own; what leaves goes into `other`.

    The sum over all series is the time of all activities, and only a member that left ends a series.
    """

    def __init__(self) -> None:
        self._members: Collection[Statement] = ()
        self._seconds: dict[tuple[Statement, str, str], float] = {}

    def choose(self, members: Collection[Statement]) -> None:
        """Give series of their own to these statements from now on."""
        if members is self._members:
            return
        self._members = members
        before, self._seconds = self._seconds, {}
        for (statement, kind, event), seconds in before.items():
            self._count(statement if statement in members else OTHER, kind, event, seconds)

    def add(self, activity: Activity, seconds: float) -> None:
        """Count the seconds of one activity."""
        statement = activity.statement if activity.statement in self._members else OTHER
        self._count(statement, activity.wait_event_type, activity.wait_event, seconds)

    def _count(self, statement: Statement, kind: str, event: str, seconds: float) -> None:
        key = statement, kind, event
        if key not in self._seconds and len(self._seconds) >= MOST_SERIES:
            key = OTHER, kind if kind in _WAITS else "other", "other"
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def family(self) -> Family:
        """Return one series for each statement and wait event."""
        rows = [(*statement, kind, event) for statement, kind, event in self._seconds]
        labels = [label_text(dict(zip(STATEMENT_SECONDS.labels, row, strict=True))) for row in rows]
        return Family(STATEMENT_SECONDS, labels, list(self._seconds.values()))


class ApplicationSeconds:
    """Seconds by application and wait event type, for those that spend most; the rest is added up in `other`."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self._ledger = Ledger(MOST_APPLICATIONS, 1 + len(_WAITS), rank=0)

    def add(self, activity: Activity, seconds: float) -> None:
        """Count the seconds of one activity."""
        name = activity.application
        if name not in self._seconds and len(self._seconds) >= _REMEMBERED:
            name = "other"
        spent = self._seconds.setdefault(name, [0.0] * (1 + len(_WAITS)))
        kind = activity.wait_event_type
        spent[0] += seconds
        spent[1 + _WAITS.index(kind if kind in _WAITS else "other")] += seconds

    def family(self, now: float) -> Family:
        """Return one series for each application and wait event type that it has had."""
        account = self._account(now)
        spent_by = {str(part[0]): spent for part, spent in account.members.items() if isinstance(part, tuple)}
        if len(self._seconds) >= _REMEMBERED:
            self._seconds = {name: spent for name, spent in self._seconds.items() if name in spent_by}
            self._account(now)  # one that comes back then counts from zero
        others = spent_by.get("other", (0.0,) * len(account.other))
        spent_by["other"] = tuple(map(sum, zip(others, account.other, strict=True)))
        return _family(spent_by)

    def _account(self, now: float) -> Account:
        return self._ledger.update({(name,): tuple(spent) for name, spent in self._seconds.items()}, now)


def _family(spent_by: Mapping[str, tuple[float, ...]]) -> Family:
    names = escaped(list(spent_by))
    rows = [
        (f'application_name="{name}",wait_event_type="{kind}"', seconds)
        for name, (_, *spent) in zip(names, spent_by.values(), strict=True)
        for kind, seconds in zip(_WAITS, spent, strict=True)
        if seconds
    ]
    return Family(APPLICATION_SECONDS, [text for text, _ in rows], [seconds for _, seconds in rows])
