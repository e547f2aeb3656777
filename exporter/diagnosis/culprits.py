"""Names whoever is to blame, and the SQL that makes them let go. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace

from exporter.diagnosis.findings import Finding, Remedy, rule
from exporter.diagnosis.readings import Labels
from exporter.sql import literal, quoted


def found(
    alert: str,
    sentence: str,
    labels: Labels,
    remedies: Sequence[Remedy] = (),
    seconds: float | None = None,
    statement: str = "",
) -> Finding:
    """Make the finding of an alert."""
    return Finding(
        f"PostgreSQL{alert}", rule(alert).severity, sentence, seconds, statement, tuple(remedies), dict(labels)
    )  # fmt: skip


PREPARED = "prepared transaction "
"""Stands before the gid where a prepared transaction is named."""


def who(labels: Labels) -> str:
    """Name a session or a prepared transaction: `pid 9148 (reporting, notebook, idle in transaction)`."""
    name = f"pid {labels['pid']}" if labels.get("pid") else f"{PREPARED}{labels.get('gid', '')}"
    about = [labels.get(label, "") for label in ("usename", "application_name", "state")]
    return f"{name} ({', '.join(filter(None, about))})" if any(about) else name


def cancel(pid: str) -> Remedy:
    """Stop the statement of a session."""
    return Remedy("Cancel its statement: its transaction fails and lets go.", f"SELECT pg_cancel_backend({pid});")


def terminate(pid: str, *, is_next: bool = False) -> Remedy:
    """End a session; as the next step where cancelling comes first."""
    effect = "If it stays, end its session." if is_next else "End its session: its transaction is rolled back."
    return Remedy(effect, f"SELECT pg_terminate_backend({pid});")


def relation(labels: Labels, name: str) -> str:
    """Write the name of a relation for SQL."""
    return ".".join(quoted(labels[label]) for label in ("schemaname", name))


_OF_CLIENTS = re.compile(r"(active|idle|fastpath|disabled|unknown|deadlock cycle)\b")
"""Beginning of the states of sessions of clients."""


_COMES_AGAIN = (
    "Cancel it: that frees them now. It starts again by itself, from the beginning, since the table has to be frozen:"
    " give it a quiet hour."
)
"""Said of each autovacuum that others wait for: one that prevents no wraparound has given way by then."""

RESUME = (
    Remedy(
        "Read this server's log: it says why replay paused. Where a setting is lower than on the primary, or a recovery"
        " target is reached, going on ends this server or makes it a primary."
    ),
    Remedy("Where somebody paused it, let it go on.", "SELECT pg_wal_replay_resume();"),
)
"""What lets replay go on that is paused."""

RELOAD = Remedy("Then have the server take it up.", "SELECT pg_reload_conf();")
"""What comes after ALTER SYSTEM, which cannot be sent together with other statements."""


def roll_back(gid: str, datname: str) -> Remedy:
    """End a prepared transaction."""
    where = f"in database {datname}" if datname else "in its own database"
    return Remedy(f"Roll it back, {where}. This cannot be undone.", f"ROLLBACK PREPARED {literal(gid)};")


def _of_replay(state: str) -> list[Remedy]:
    """Return what lets replay go on, by what else it waits for, so that it gives up its locks."""
    if "RecoveryPause" in state:
        return [*RESUME]
    if "RecoveryApplyDelay" in state:
        return [Remedy("Replay is late on purpose (recovery_min_apply_delay): it frees them when their time has come.")]
    if "RecoveryConflict" in state or "Buffer" in state:
        return [
            Remedy(
                "Replay waits for a query here, and holds its locks meanwhile. Find the oldest snapshot, and end its"
                " session: pg_terminate_backend(pid).",
                "SELECT pid, usename, application_name, state, age(backend_xmin) FROM pg_stat_activity"
                " WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() ORDER BY age DESC LIMIT 5;",
            )
        ]
    return [Remedy("On the primary, end the transaction whose lock replay holds here: that frees them.")]


def remedies_for(labels: Labels) -> list[Remedy]:
    """Return what makes a session or a prepared transaction let go, the safest first."""
    pid, state = labels.get("pid", ""), labels.get("state", "")
    if "SyncRep" in state:
        return []  # its commit is done here: cancelled, it counts as committed without the standby
    if state.startswith("startup"):
        return _of_replay(state)
    if state.startswith("autovacuum"):
        return [replace(cancel(pid), effect=_COMES_AGAIN)]
    if pid and state and not _OF_CLIENTS.match(state):
        return []  # a process of the server
    if not pid:
        return [roll_back(labels.get("gid", ""), labels.get("datname", ""))]
    return [terminate(pid)] if state.startswith("idle") else [cancel(pid), terminate(pid, is_next=True)]
