"""Samples what sessions do and wait for between scrapes, and adds it up to counters of session-seconds."""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.catalog.model import Metric
from exporter.planning.oid_names import Names
from exporter.samples.label_values import label_text
from exporter.samples.model import Family, Number, Samples
from exporter.watch.active_sessions import (
    APPLICATION_SECONDS,
    CPU,
    STATEMENT_SECONDS,
    Activity,
    ApplicationSeconds,
    StatementSeconds,
)
from exporter.watch.statement_matching import MOST_BYTES, OTHER, Statement, StatementMatcher

COLLECTOR = "wait_sampler"
"""Its name among the collectors."""

_SAMPLE = """
SELECT datid,
       state,
       wait_event_type,
       wait_event,
       CASE state WHEN 'active' THEN usesysid END AS usesysid,
       CASE state WHEN 'active' THEN application_name END AS application_name,
       CASE state WHEN 'active' THEN {query_id} END AS queryid,
       CASE WHEN state = 'active' AND {query_id} IS NULL THEN substring(textsend(query) FOR {bytes}) END AS query,
       count(*) FILTER (WHERE type = 'client backend') AS sessions,
       array_agg(session) FILTER (WHERE waits AND type IN ('client backend', 'parallel worker')) AS lock_sessions,
       array_agg(session) FILTER (WHERE waits) AS lock_waiters,
       (SELECT current_setting('max_connections')::int
                 - current_setting('superuser_reserved_connections')::int
                 - coalesce(current_setting('reserved_connections', true)::int, 0)) AS slots,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8 AS seconds
  FROM (SELECT *,
               backend_type AS type,
               wait_event_type = 'Lock' AS waits,
               coalesce(CASE backend_type WHEN 'parallel worker' THEN leader_pid END, pid)::oid AS session
          FROM pg_stat_get_activity(NULL)) AS a
 WHERE pid <> pg_backend_pid()
   AND (type = 'client backend' OR waits)
 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
/* pgvigil:wait_sampler */
"""
"""Source: pg_stat_activity, by the function beneath it, which joins no catalog. 13 to 18. An array of oids is one that
the driver knows; for one of integers it would read catalogs, which may be locked. The processes of a parallel query
that wait for a lock are one session, that of their leader; replay on a standby waits for locks as well. Which of them
are the same session is left to us: for DISTINCT the server would sort all sessions. Who runs which statement is read of
active sessions only: an idle one shows its last. The subquery of settings runs once, not for each group."""

SAMPLE = _SAMPLE.format(query_id="query_id", bytes=MOST_BYTES)

SAMPLE_13 = _SAMPLE.format(query_id="NULL::bigint", bytes=MOST_BYTES)
"""The same where sessions show no query identifier: before PostgreSQL 14."""

MOST_SERIES = 500
"""Combinations of labels that have a series of their own; what comes later is counted as `other`."""

_MOST_RECENT = 1000
"""Upper bound on the activities between two times that they are taken; what comes later is counted as `other`."""

_TICKS = 1024
"""Times are whole fractions of a second, of which any sum is exact: parts add up to their total to the last bit."""

_WINDOW_SECONDS = 60.0
_GAP = 3.0
"""A sample stands for the time since the one before it, but for no more than so many intervals."""

SESSION_SECONDS = Metric(
    name="pg_session_sampled_seconds_total",
    type="counter",
    help="Session-seconds that client sessions spent in each state and wait event, sampled between scrapes. Its rate is"
    " the average number of sessions that were so; wait_event is empty for those that ran, and other past the bound.",
    column="seconds",
    labels=("datname", "state", "wait_event_type", "wait_event"),
)
LOCK_SECONDS = Metric(
    name="pg_lock_wait_sampled_seconds_total",
    type="counter",
    help="Session-seconds that client sessions waited for heavyweight locks, sampled between scrapes: a wait that began"
    " and ended between two scrapes is counted as well. Its rate is how many wait on average; while it goes on,"
    " pg_lock_blocker_blocked_sessions says for whom.",
    column="seconds",
    labels=("datname",),
)
LONGEST = Metric(
    name="pg_lock_wait_longest_recent_seconds",
    type="gauge",
    help="The longest wait for a lock, in seconds, that was seen in the last minute, or since the previous scrape where"
    " that is longer ago. It may be over by now (pg_lock_longest_wait_seconds); /incidents shows who waited for whom.",
    column="seconds",
)
SAMPLED = Metric(
    name="pg_session_sampling_seconds_total",
    type="counter",
    help="Seconds that the samples stand for. Where it grows by less than a second a second, nobody looked:"
    " pgvigil_collector_success of wait_sampler says whether it fails.",
    column="seconds",
)
METRICS = (SESSION_SECONDS, STATEMENT_SECONDS, APPLICATION_SECONDS, LOCK_SECONDS, LONGEST, SAMPLED)


@dataclass(frozen=True)
class Look:
    """Result of one sample."""

    sessions: int
    """Client sessions, our own connection left out."""
    slots: int
    """Unreserved connections: max_connections less those reserved."""
    lock_waiters: int
    seconds: float
    """Server time, in seconds."""
    longest_wait: float
    """Seconds that the session which waits longest for a lock has been seen waiting."""
    busy: int
    """Client sessions that are not idle, as far as the role may see that, and those that wait for a lock."""


class Sampler:
    """Adds samples up. Bounded: labels that appear when there are MOST_SERIES already are counted as `other`."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[Hashable, ...], float] = {}
        self._statements = StatementSeconds()
        self._matcher = StatementMatcher()
        self._applications = ApplicationSeconds()
        self._recent: dict[Activity, float] = {}
        self.running: frozenset[Statement] = frozenset()
        """Statements that active sessions were at in the latest sample, as far as they show them."""
        self._locks: dict[Hashable, float] = {}
        self._waiting: dict[int, float] = {}
        self._longest: deque[tuple[float, float]] = deque()
        self._sampled = 0.0
        self._looked_at: float | None = None
        self._read_at: float | None = None

    def choose(self, listed: Mapping[Statement, str], *, folds_lists: bool = False) -> None:
        """Give these statements series of their own.

        Args:
            listed: each with its text, which is empty while it is not known.
            folds_lists: whether the server counts lists of constants as one.

        """
        self._statements.choose(listed)
        self._matcher.begin(listed, folds_lists=folds_lists)

    def add(
        self, rows: Sequence[Mapping[str, Any]], now: float, interval: float = 1.0, names: Names | None = None
    ) -> Look:
        """Count one sample.

        Args:
            rows: the rows of SAMPLE.
            now: a clock in seconds that never goes back.
            interval: seconds from this sample to its neighbours.
            names: the names of roles and databases, without which statements are not told apart.

        """
        now = _whole(now)
        passed = min(now - self._looked_at, _whole(_GAP * interval)) if self._looked_at is not None else 0.0
        self._looked_at = now
        self._sampled += passed
        for row in rows:
            if row["sessions"]:
                seconds = passed * row["sessions"]
                self._count((row["datid"], row["state"], row["wait_event_type"], row["wait_event"]), seconds)
        if passed:
            self._count_active([row for row in rows if row["sessions"] and row["state"] == "active"], passed, names)
        self._count_lock_waits(rows, passed)
        waiters = {pid for row in rows for pid in row["lock_waiters"] or ()}
        # A wait that this sample is the first to show began at some time since the one before: half way, on average.
        self._waiting = {pid: self._waiting.get(pid, now - passed / 2) for pid in waiters}
        longest = max((now - since for since in self._waiting.values()), default=0.0)
        self._longest.append((now, longest))
        self._forget(now)
        sessions = sum(row["sessions"] for row in rows)
        slots = max((row["slots"] for row in rows), default=0)
        took = max((row["seconds"] for row in rows), default=0.0)
        busy = sum(row["sessions"] for row in rows if row["state"] != "idle") + len(waiters)
        return Look(sessions, slots, len(waiters), took, longest, busy)

    def _count_active(self, rows: Sequence[Mapping[str, Any]], passed: float, names: Names | None) -> None:
        """Count active sessions by statement and by application."""
        names = names or Names()
        databases = names.text("database", [row["datid"] for row in rows])
        users = names.text("role", [row["usesysid"] for row in rows])
        running = set[Statement]()
        for row, database, user in zip(rows, databases, users, strict=True):
            if row["queryid"] is not None:
                statement = database, user, str(row["queryid"])
                running.add(statement)
            else:
                statement = self._matcher.statement(database, user, row["query"] or b"")
            kind, event = row["wait_event_type"] or CPU, row["wait_event"] or ""
            activity = Activity(statement, row["application_name"] or "", kind, event)
            self._statements.add(activity, passed * row["sessions"])
            self._applications.add(activity, passed * row["sessions"])
            self._remember(activity, passed * row["sessions"])
        self.running = frozenset(running)

    def _remember(self, activity: Activity, seconds: float) -> None:
        if activity not in self._recent and len(self._recent) >= _MOST_RECENT:
            activity = Activity(OTHER, "other", activity.wait_event_type, "")
        self._recent[activity] = self._recent.get(activity, 0.0) + seconds

    def take_recent(self) -> Mapping[Activity, float]:
        """Hand out the seconds of each activity since they were taken last."""
        taken, self._recent = self._recent, {}
        return taken

    def _count_lock_waits(self, rows: Sequence[Mapping[str, Any]], passed: float) -> None:
        """Count the sessions that wait for locks, by database."""
        waiting: dict[Hashable, set[int]] = {}
        for row in rows:
            waiting.setdefault(row["datid"], set()).update(row["lock_sessions"] or ())
        for datid, sessions in waiting.items():
            if sessions:
                self._locks[datid] = self._locks.get(datid, 0.0) + passed * len(sessions)

    def _count(self, key: tuple[Hashable, ...], seconds: float) -> None:
        if key not in self._seconds and len(self._seconds) >= MOST_SERIES:
            key = (None, *key[1:3], "other")  # what is active stays so, as in the seconds by statement
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def _forget(self, now: float) -> None:
        """Keep what was seen in the last minute or since the last scrape, and of waits that go on their last look."""
        since = min(now - _WINDOW_SECONDS, self._read_at if self._read_at is not None else now)
        since = max(since, now - 10 * _WINDOW_SECONDS)
        while self._longest and self._longest[0][0] < since:
            self._longest.popleft()

    def samples(self, names: Names, now: float) -> Samples:
        """Hand out the counters, as any collector does."""
        self._forget(now)
        self._read_at = now
        seconds = [(_labels(key, names), value) for key, value in self._seconds.items()]
        locks = [(label_text({"datname": _database(datid, names)}), value) for datid, value in self._locks.items()]
        longest = max((seconds for _, seconds in self._longest), default=0.0)
        return Samples(
            (
                _family(SESSION_SECONDS, seconds),
                self._statements.family(),
                self._applications.family(now),
                _family(LOCK_SECONDS, locks),
                Family(LONGEST, [""], [longest]),
                Family(SAMPLED, [""], [self._sampled]),
            ),
            rows=len(seconds),
        )


def _whole(seconds: float) -> float:
    return round(seconds * _TICKS) / _TICKS


def _family(metric: Metric, pairs: Sequence[tuple[str, Number]]) -> Family:
    return Family(metric, [text for text, _ in pairs], [value for _, value in pairs])


def _labels(key: tuple[Any, ...], names: Names) -> str:
    datid, state, kind, event = key
    values = (_database(datid, names), state or "", kind or "", event or "")
    return label_text(dict(zip(SESSION_SECONDS.labels, values, strict=True)))


def _database(datid: Any, names: Names) -> str:
    [name] = names.text("database", [datid])
    return name
