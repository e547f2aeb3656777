"""Says in sentences what the flight recorder has seen: roots of lock waits, who waited for whom, who else was there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from exporter.diagnosis.findings import Finding, Remedy, count, limit, rule
from exporter.diagnosis.lock_tree import Node, alike, lock_tree
from exporter.diagnosis.subjects import cancel, terminate
from exporter.watch.incidents import KINDS, Incident


@dataclass(frozen=True)
class Recorded:
    """An incident at its worst moment."""

    title: str
    """The sentence that names the culprit, where one session holds up others; else the kind of incident."""
    at: str
    """UTC, ISO 8601; empty without a snapshot."""
    locks: tuple[Node, ...]
    others: tuple[Node, ...]
    """Sessions that waited for none and held up none, those alike together, the most of a kind first."""


def recorded(incident: Incident) -> Recorded:
    """Describe an incident by the snapshot in which most sessions wait for locks, or that has the most sessions."""
    worst = max(incident.snapshots, key=lambda each: (_waiters(each.sessions), len(each.sessions)), default=None)
    if worst is None:
        return Recorded(KINDS[incident.kind], "", (), ())
    locks = lock_tree(worst.sessions)
    shown = {name for node in locks for name in node.names}
    others = [session for session in worst.sessions if str(session["pid"]) not in shown]
    culprit = next(roots(locks), None) if incident.kind == "lock_wait" else None
    title = culprit.sentence if culprit else KINDS[incident.kind]
    return Recorded(title, worst.at, locks, alike(others))


def _waiters(sessions: Sequence[Mapping[str, Any]]) -> int:
    return sum(bool(session.get("blocked_by")) for session in sessions)


def roots(tree: Sequence[Node]) -> Iterator[Finding]:
    """Say of each root of lock queues what was seen between scrapes, the one with the most waiters first."""
    for number, root in enumerate(tree):
        if not root.depth:
            yield _of_root(root, takewhile(lambda node: node.depth > 0, tree[number + 1 :]))


def _of_root(root: Node, below: Iterator[Node]) -> Finding:
    name = root.names[0]
    is_session = name.isdecimal()
    about = ", ".join(filter(None, (root.who, root.state)))
    remedies: list[Remedy] = []
    if is_session:
        remedies = [terminate(name)] if root.state.startswith("idle") else [cancel(name), terminate(name)]
    alert = "LockQueue" if root.behind > limit("LockQueue", "sessions") else "LockWait"
    sentence = f"{f'pid {name}' if is_session else name} ({about}) blocks {count(root.behind, 'session')}"
    longest = max((each.seconds for each in below if each.seconds is not None), default=None)
    return Finding(
        f"PostgreSQL{alert}", rule(alert).severity, sentence, longest, root.statement, tuple(remedies), {"pid": name}
    )
