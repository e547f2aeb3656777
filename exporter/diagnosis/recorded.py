"""Says in sentences what the flight recorder has seen: roots of lock waits, who waited for whom, who else was there."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from exporter.diagnosis.culprits import PREPARED, cancel, remedies_for, roll_back, terminate
from exporter.diagnosis.findings import Finding, Remedy, count, limit, rule
from exporter.diagnosis.lock_tree import Node, alike, lock_tree
from exporter.watch.incidents import KINDS, Incident, Session


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
    culprit: str = ""
    """User and application of the root with the most waiters; empty where none holds up others."""


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
    return Recorded(title, worst.at, locks, alike(others), locks[0].who if culprit else "")


def earlier(incident: Incident, known: Iterable[Incident]) -> list[Incident]:
    """Return what the same culprit did to the same server before, the newest first."""
    culprit = recorded(incident).culprit
    before = (each for each in known if each.target == incident.target and each.started < incident.started)
    found = [each for each in before if culprit and recorded(each).culprit == culprit]
    return sorted(found, key=lambda each: each.started, reverse=True)


def _waiters(sessions: Sequence[Session]) -> int:
    return sum(bool(session.get("blocked_by")) for session in sessions)


def roots(tree: Sequence[Node]) -> Iterator[Finding]:
    """Say of each root of lock queues what was seen between scrapes, the one with the most waiters first.

    Left out are those that are waited for on purpose: transactions that an index build has to outlast, leaders.
    """
    for number, root in enumerate(tree):
        if not root.depth:
            below = tuple(takewhile(lambda node: node.depth > 0, tree[number + 1 :]))
            if not all(_is_meant(root, node) for node in below if node.depth == 1):
                yield _of_root(root, below)


def _is_meant(root: Node, waiter: Node) -> bool:
    elects = root.state.startswith("idle") and "transaction" not in root.state
    return waiter.state.endswith("Lock virtualxid") or (elects and waiter.state.endswith("Lock advisory"))


def _of_root(root: Node, below: Sequence[Node]) -> Finding:
    name = root.names[0]
    kind = "" if root.backend_type == "client backend" else root.backend_type
    about = ", ".join(filter(None, (root.who or kind, root.state)))
    called = f"pid {name}" if name.isdecimal() else name
    alert = "LockQueue" if root.behind > limit("LockQueue", "sessions") else "LockWait"
    sentence = f"{called}{f' ({about})' if about else ''} blocks {count(root.behind, 'session')}"
    longest = max((each.seconds for each in below if each.seconds is not None), default=None)
    remedies = tuple(_remedies(root, name))
    return Finding(
        f"PostgreSQL{alert}", rule(alert).severity, sentence, longest, root.statement, remedies, {"pid": name}
    )


def _remedies(root: Node, pid: str) -> Iterator[Remedy]:
    """Return what ends a session of a client; others, and a commit that waits for a standby, are left alone."""
    if root.backend_type == "client backend" and "SyncRep" not in root.state:
        is_idle = root.state.startswith("idle")
        if not is_idle:
            yield cancel(pid)
        yield terminate(pid, is_next=not is_idle)
    elif root.backend_type == "autovacuum worker":
        yield from remedies_for({"pid": pid, "state": "autovacuum"})
    elif pid.startswith(PREPARED):
        yield roll_back(pid.removeprefix(PREPARED), "")
