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


def who(labels: Labels) -> str:
    """Name a session or a prepared transaction: `pid 9148 (reporting, notebook, idle in transaction)`."""
    name = f"pid {labels['pid']}" if labels.get("pid") else f"prepared transaction {labels.get('gid', '')}"
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

RELOAD = Remedy("Then have the server take it up.", "SELECT pg_reload_conf();")
"""What comes after ALTER SYSTEM, which cannot be sent together with other statements."""


def roll_back(gid: str, datname: str) -> Remedy:
    """End a prepared transaction."""
    where = f"in database {datname}" if datname else "in its own database"
    return Remedy(f"Roll it back, {where}. This cannot be undone.", f"ROLLBACK PREPARED {literal(gid)};")


def remedies_for(labels: Labels, statement: str = "") -> list[Remedy]:
    """Return what makes a session or a prepared transaction let go, the safest first.

    Args:
        labels: name it.
        statement: text of what it runs, where that is known.

    """
    pid, state = labels.get("pid", ""), labels.get("state", "")
    if "SyncRep" in state:
        return []  # its commit is done here: cancelled, it counts as committed without the standby
    if state.startswith("startup"):
        return [Remedy("On the primary, end the transaction whose lock replay holds here: that frees them.")]
    if state.startswith("autovacuum"):
        comes_again = "(to prevent wraparound)" in statement
        return [replace(cancel(pid), effect=_COMES_AGAIN) if comes_again else cancel(pid)]
    if pid and state and not _OF_CLIENTS.match(state):
        return []  # a process of the server
    if not pid:
        return [roll_back(labels.get("gid", ""), labels.get("datname", ""))]
    return [terminate(pid)] if state.startswith("idle") else [cancel(pid), terminate(pid, is_next=True)]
