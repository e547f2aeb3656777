"""The flight recorder: what sessions did, who blocked whom and what was late while something was wrong. In memory."""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from exporter.literals import without_literals
from exporter.planning.oid_names import Names
from exporter.report import JobStatus
from exporter.watch.wait_sampler import Look

IncidentKind = Literal["lock_wait", "connections", "down", "late"]

KINDS: Mapping[IncidentKind, str] = {
    "lock_wait": "a session waits long for a lock",
    "connections": "few connections are left",
    "down": "PostgreSQL is down",
    "late": "a collector is late or fails",
}

SESSIONS = """
WITH activity AS MATERIALIZED (
  SELECT *
    FROM pg_stat_get_activity(NULL)
), waits AS MATERIALIZED (
  SELECT coalesce(CASE WHEN w.backend_type = 'parallel worker' THEN w.leader_pid END, w.pid) AS pid
    FROM activity AS w
   WHERE w.wait_event_type = 'Lock'
)
SELECT a.pid,
       a.datid,
       a.usesysid,
       left(a.application_name, 64) AS application_name,
       host(a.client_addr) AS client_addr,
       a.backend_type,
       a.state,
       a.wait_event_type,
       a.wait_event,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_seconds,
       extract(epoch FROM clock_timestamp() - a.query_start)::float8 AS query_seconds,
       extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS state_seconds,
       substring(textsend(a.query) FOR 4000) AS query,
       count(*) OVER () AS sessions_in_all
  FROM activity AS a
 WHERE a.pid <> pg_backend_pid()
   AND (a.backend_type IN ('client backend', 'autovacuum worker', 'walsender')
        OR a.pid IN (SELECT w.pid FROM waits AS w)
        OR a.pid::oid = ANY($1::oid[]))
 ORDER BY a.pid::oid = ANY($1::oid[]) DESC,
          a.pid IN (SELECT w.pid FROM waits AS w) <> (a.pid::oid = ANY($1::oid[])) DESC,
          a.state IS NOT DISTINCT FROM 'idle',
          a.xact_start NULLS LAST,
          a.pid
 LIMIT 200
/* pgvigil:incidents */
"""
"""Sessions to show, in this order: blockers ($1), the root blockers first; sessions that wait for locks; those with the
oldest transactions; idle ones. The processes of a parallel query are one session, that of their leader.

Texts are taken as bytes: `left` fails on a text of another database's encoding.
"""

_GREATEST_AGE_SECONDS = 24 * 3600.0
"""Age up to which incidents are kept, in seconds."""

_MOST_BYTES = 8_000_000
"""Upper bound on the bytes that the incidents of one target take as JSON."""

_MOST_SNAPSHOTS = 30
"""Upper bound on the snapshots of one incident, whose intervals grow."""

_MOST_SESSIONS = 100
"""Upper bound on the sessions of one snapshot."""

_OVER_SECONDS = 5.0
"""Seconds without trouble after which an incident has ended: a pause between two queries is no end."""

_LONGEST_PAUSE_SECONDS = 600.0
"""Seconds without a process of ours after which an incident of an earlier one has ended, and does not go on."""

_QUERY_CHARACTERS = 2000
"""Characters of a query's text that are shown."""


def troubles(look: Look, late: Sequence[JobStatus], lock_wait: float, connections: float) -> dict[IncidentKind, str]:
    """Decide what is an incident at this moment, and say it in a line for each kind.

    Args:
        look: the latest look at the sessions.
        late: the collectors that were not as they should be on the last page.
        lock_wait: seconds of waiting for a lock from which on it is an incident.
        connections: share of the unreserved connections from which on it is an incident.

    """
    found: dict[IncidentKind, str] = {}
    if look.longest_wait >= lock_wait:
        who = (
            "1 session waits for a lock"
            if look.lock_waiters == 1
            else f"{look.lock_waiters} sessions wait for locks, one"
        )
        found["lock_wait"] = f"{who} for {look.longest_wait:.0f} s"
    if look.slots and look.sessions >= connections * look.slots:
        found["connections"] = f"{look.sessions} client sessions of {look.slots} unreserved connections"
    if late:
        found["late"] = ", ".join(f"{job.collector} {job.datname}".strip() for job in late[:10])
    return found


Session = Mapping[str, Any]
"""A session as it is kept: names instead of OIDs, its statement without literals; what is empty is left out."""


@dataclass(frozen=True)
class Snapshot:
    """The server at one moment of an incident."""

    at: str
    """UTC, ISO 8601."""
    summary: str
    sessions: Sequence[Session] = ()
    """Idle sessions are counted in `idle_sessions` unless a session waits for them."""
    idle_sessions: int = 0
    collectors: Sequence[Mapping[str, str]] = ()
    """Those that were late or failed, and why."""
    omitted_sessions: int = 0
    """Sessions beyond the hundred that are shown at most; those that were not read may be idle ones."""


@dataclass
class Incident:
    """From when something was found wrong until it was found well again."""

    id: str
    target: str
    kind: IncidentKind
    started: str
    began_at: float
    seen_at: float
    well_at: float | None = None
    """Clock time of recovery, in seconds; None again if it is found wrong before it has ended."""
    ended: str | None = None
    summary: str = ""
    """The latest, or the worst where that can be told."""
    snapshots: list[Snapshot] = field(default_factory=list)
    bytes: int = 0

    @property
    def seconds(self) -> float:
        """Its duration so far, in seconds."""
        return max((self.seen_at if self.well_at is None else self.well_at) - self.began_at, 0.0)

    def moment(self, now: float) -> str:
        """Return a moment as UTC, reckoned from the beginning: the system's clock may have been set meanwhile."""
        began = datetime.fromisoformat(self.started)
        return (began + timedelta(seconds=now - self.began_at)).isoformat(timespec="milliseconds")

    def line(self) -> dict[str, Any]:
        """Say it in a few words, as the list does."""
        return {
            "id": self.id,
            "target": self.target,
            "kind": self.kind,
            "started": self.started,
            "ended": self.ended,
            "seconds": round(self.seconds, 1),
            "summary": self.summary,
            "snapshots": len(self.snapshots),
        }

    def whole(self) -> dict[str, Any]:
        """Say all of it."""
        return {**self.line(), "snapshots": [asdict(snapshot) for snapshot in self.snapshots]}

    @property
    def seen(self) -> float:
        """Unix time at which it was last going on."""
        return datetime.fromisoformat(self.moment(self.seen_at)).timestamp()

    @classmethod
    def of_stored(cls, whole: Mapping[str, Any], now: float, clock_time: float) -> Self:
        """Return what an earlier process recorded: the fields of `whole`, and `seen`.

        Args:
            whole: the fields.
            now: clock time of this process.
            clock_time: Unix time at that moment.

        """
        ago = clock_time - datetime.fromisoformat(whole["started"]).timestamp()
        seen_at = now - (clock_time - whole["seen"])
        incident = cls(whole["id"], whole["target"], whole["kind"], whole["started"], now - ago, seen_at, seen_at)
        incident.ended, incident.summary = whole["ended"], whole["summary"]
        incident.well_at = incident.began_at + whole["seconds"] if incident.ended else seen_at
        known = Snapshot.__dataclass_fields__
        incident.snapshots = [Snapshot(**{n: v for n, v in each.items() if n in known}) for each in whole["snapshots"]]
        incident.bytes = len(json.dumps(whole["snapshots"]))
        return incident


class Recorder:
    """Keeps the latest incidents of one target: a day at most, and no more than some megabytes."""

    def __init__(
        self, target: str = "", *, literals: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._target = target
        self._literals = literals
        self._clock = clock
        self._incidents: deque[Incident] = deque()
        self._open: dict[IncidentKind, Incident] = {}
        self._ids: Counter[str] = Counter()
        self.begun: Counter[IncidentKind] = Counter(dict.fromkeys(KINDS, 0))
        """Incidents so far, by kind."""
        self._restored_until = float("-inf")
        """Clock time until which an incident of an earlier process goes on although nothing is wrong."""

    def restore(self, stored: Mapping[str, Any], patience: float, clock_time: float) -> None:
        """Remember an incident of an earlier process; one that was going on until lately may go on.

        Args:
            stored: the incident, see `Incident.of_stored`; they come oldest first, before this process saw anything.
            patience: seconds in which a trouble that still goes on is found again.
            clock_time: Unix time of this moment.

        """
        now = self._clock()
        incident = Incident.of_stored(stored, now, clock_time)
        if incident.ended is None:
            is_recent = abs(now - incident.seen_at) <= _LONGEST_PAUSE_SECONDS  # nor of a clock that was far ahead
            if is_recent and incident.kind not in self._open:
                self._open[incident.kind] = incident
                self._restored_until = now + patience
            else:
                incident.ended = incident.moment(incident.seen_at)
        self._ids[incident.id] += 1
        self._incidents.append(incident)
        self._forget()

    @property
    def incidents(self) -> list[Incident]:
        """All that are remembered, the newest first."""
        return list(reversed(self._incidents))

    def wants(self, kind: IncidentKind) -> bool:
        """Return whether a snapshot is worth its cost now: at once, then at growing intervals."""
        incident = self._open.get(kind)
        if incident is None:
            return True
        since = self._clock() - incident.began_at
        return len(incident.snapshots) < _MOST_SNAPSHOTS and since >= _moment(len(incident.snapshots))

    def wrong(self, kind: IncidentKind, summary: str, snapshot: Snapshot | None = None) -> Incident:
        """Note that something is wrong, or still is."""
        now = self._clock()
        incident = self._open.get(kind)
        if incident is None:
            incident = self._open[kind] = Incident(self._new_id(kind), self._target, kind, _now(), now, now)
            self._incidents.append(incident)
            self.begun[kind] += 1
        incident.seen_at, incident.well_at = now, None
        incident.summary = summary
        if snapshot:
            snapshot = replace(snapshot, at=incident.moment(now))
            incident.snapshots.append(snapshot)
            incident.bytes += len(json.dumps(asdict(snapshot), default=str))
        self._forget()
        return incident

    def well(self, *kinds: IncidentKind) -> None:
        """Note that something is well; an incident ends when it has been for some seconds."""
        now = self._clock()
        for kind in kinds:
            if incident := self._open.get(kind):
                incident.well_at = now if incident.well_at is None else incident.well_at
                if now - incident.seen_at >= _OVER_SECONDS and now >= self._restored_until:
                    incident.ended = incident.moment(incident.well_at)
                    del self._open[kind]

    def snapshot(
        self,
        summary: str,
        rows: Sequence[Mapping[str, Any]] = (),
        names: Names | None = None,
        collectors: Sequence[Mapping[str, str]] = (),
        blocked_by: Mapping[int, Sequence[int | str]] | None = None,
    ) -> Snapshot:
        """Make a snapshot of the rows of SESSIONS: oids as names, query texts without their literals.

        Args:
            summary: what is wrong.
            rows: the rows, the most telling ones first.
            names: the names of oids.
            collectors: those that were late or failed.
            blocked_by: by pid, the pids of the sessions, or the prepared transactions, that each one waits for.

        """
        waits = blocked_by or {}
        blockers = {pid for pids in waits.values() for pid in pids}
        shown = [row for row in rows if row["state"] != "idle" or row["pid"] in blockers]
        sessions = [self._session(row, names or Names(), waits.get(row["pid"])) for row in shown[:_MOST_SESSIONS]]
        omitted = sum(row["sessions_in_all"] for row in rows[:1]) - len(rows) + len(shown) - len(sessions)
        return Snapshot(_now(), summary, sessions, len(rows) - len(shown), collectors, omitted)

    def _session(self, row: Mapping[str, Any], names: Names, blocked_by: Sequence[int | str] | None) -> dict[str, Any]:
        found = dict(row) | {"blocked_by": blocked_by}
        del found["sessions_in_all"]
        found["datname"] = names.text("database", [found.pop("datid")])[0]
        found["usename"] = names.text("role", [found.pop("usesysid")])[0]
        text = (found.pop("query") or b"").decode(errors="replace")
        found["query"] = (text if self._literals else without_literals(text))[:_QUERY_CHARACTERS]
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in found.items() if v not in (None, "")}

    def _new_id(self, kind: IncidentKind) -> str:
        stem = "-".join(filter(None, (self._target, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), kind)))
        self._ids[stem] += 1
        return stem if self._ids[stem] == 1 else f"{stem}-{self._ids[stem]}"

    def _forget(self) -> None:
        """Drop the oldest when they are too old or too large."""
        oldest = self._clock() - _GREATEST_AGE_SECONDS
        size = sum(incident.bytes for incident in self._incidents)
        while len(self._incidents) > 1 and (size > _MOST_BYTES or self._incidents[0].seen_at < oldest):
            gone = self._incidents.popleft()
            size -= gone.bytes
            self._open = {kind: incident for kind, incident in self._open.items() if incident is not gone}
        self._ids = Counter({i.id: 1 for i in self._incidents}) if len(self._ids) > 10_000 else self._ids


def _moment(taken: int) -> float:
    """Return when a snapshot is due, in seconds since the beginning: 0, 1, 2, 4, 8 ..., then each minute."""
    return 0.0 if taken == 0 else 2.0 ** (taken - 1) if taken <= 6 else 60.0 * (taken - 6)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
