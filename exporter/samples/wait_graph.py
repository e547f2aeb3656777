"""Lock entries -> the roots of their wait-for graph. Pure, and linear in the number of entries."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, islice
from operator import or_
from typing import Any, NamedTuple

from exporter.samples.model import Columns
from exporter.samples.strongly_connected import Graph, components
from exporter.samples.wait_tallies import counted, longest_waits

CYCLE = "deadlock cycle"
"""State of a root that is no session, but sessions that wait for each other."""

STRENGTH: Mapping[str, int] = {
    mode: strength
    for strength, mode in enumerate(
        (
            "AccessShareLock",
            "RowShareLock",
            "RowExclusiveLock",
            "ShareUpdateExclusiveLock",
            "ShareLock",
            "ShareRowExclusiveLock",
            "ExclusiveLock",
            "AccessExclusiveLock",
        )
    )
}
"""The lock modes, the strongest last."""

_CONFLICTS = ("7", "67", "4567", "34567", "23567", "234567", "1234567", "01234567")
"""Source: PostgreSQL's table "Conflicting Lock Modes", by the strength of the modes."""

CONFLICTS: Mapping[str, frozenset[str]] = {
    mode: frozenset(other for other, number in STRENGTH.items() if str(number) in conflicts)
    for mode, conflicts in zip(STRENGTH, _CONFLICTS, strict=True)
}
"""Lock mode -> the modes that another session cannot hold at the same time."""

MOST_BLOCKERS = 10
"""Upper bound on the owners that one waiter is shown to wait for."""

_ASIDE = ("virtualxid", "advisory")
"""Lock types of waits that are not for data: of concurrent index builds, and of what an application agrees on."""


class _Entry(NamedTuple):
    """One lock that is held or waited for."""

    row: int
    owner: int
    mode: str
    waited: float
    """Seconds of the wait so far; an unknown wait counts as the youngest."""


@dataclass(frozen=True)
class _Object:
    """One lockable object: the entries that hold it and those that wait for it."""

    held: dict[str, dict[int, _Entry]] = field(default_factory=dict)
    """Mode -> owner -> entry."""
    queue: list[_Entry] = field(default_factory=list)

    def is_held(self, mode: str, by_other_than: int) -> bool:
        """Return whether another owner holds the object in a mode."""
        owners = self.held.get(mode, {})
        return len(owners) > (by_other_than in owners)


class _Roots(NamedTuple):
    """The sessions that cannot go on by a wait of others only, numbered as the bits of a mask."""

    owners: list[int]
    """Root number -> its owner; of a cycle, the lowest one of it."""
    cycles: Set[int]
    """Numbers of the roots that are cycles."""
    masks: Mapping[int, int]
    """Waiting owner -> mask of the roots that it waits for, directly or through others."""


def wait_roots(table: Columns) -> Columns:
    """Find the roots of the wait-for graph, worst first: one row each, of the entry by which it blocks.

    The most sessions behind a root, the longest wait and the longest wait for data take turns in that order.

    A root holds what others wait for and waits for nothing itself. Sessions in a deadlock, which wait for each other,
    are one root: its row is that of the lowest owner, its state is CYCLE. An owner is one session, whatever the number
    of its processes.

    Args:
        table: entries of all objects that are waited for. `owner` is the number of a session, `object` a text that
            identifies what is locked; all other columns describe the owner or the object.

    Returns:
        The columns of the entries, and `held_mode`, `blocked_sessions`, `longest_wait_seconds` and
        `longest_data_wait_seconds`. `mode` is the one that the longest direct waiter wants.

    """
    objects, waited = _objects(table)
    if not waited:
        return {}
    roots = _roots(objects, waited)
    counts = counted(roots.masks.values(), len(roots.owners))
    longest = longest_waits(roots.masks, waited, len(roots.owners))
    longest_data = longest_waits(roots.masks, _data_waits(objects, table["locktype"]), len(roots.owners))
    direct = _direct(objects)
    worst_first = _worst_first(roots.owners, counts, longest, longest_data)
    owners = [roots.owners[root] for root in worst_first]
    entries = [direct[owner] for owner in owners]
    found = {name: [values[held.row] for held, _ in entries] for name, values in table.items()}
    if "state" in found:
        is_cycle = [root in roots.cycles for root in worst_first]
        found["state"] = [CYCLE if cycle else state for cycle, state in zip(is_cycle, found["state"], strict=True)]
    return found | {
        "mode": [waiter.mode for _, waiter in entries],
        "held_mode": [None if held is waiter else held.mode for held, waiter in entries],
        "blocked_sessions": [counts[root] for root in worst_first],
        "longest_wait_seconds": _known(longest, worst_first),
        "longest_data_wait_seconds": _known(longest_data, worst_first),
    }


def blockers(table: Columns, most: int = MOST_BLOCKERS) -> dict[int, list[int]]:
    """Find for each waiting owner whom it waits for directly.

    Those are the owners that hold what it waits for in a mode that conflicts. Where none does, it waits behind one in
    the queue: the nearest ahead of it, or before PostgreSQL 14, where the order is a guess, the first one in conflict.

    Args:
        table: entries as for `wait_roots`.
        most: upper bound on the owners of one waiter, so that many who wait for many cost no square.

    """
    found: dict[int, dict[int, None]] = {}
    for each in _objects(table)[0]:
        ahead: dict[str, int] = {}
        first = {entry.mode: entry.owner for entry in reversed(each.queue)}
        for entry in each.queue:
            in_conflict = CONFLICTS[entry.mode]
            holders = (owner for mode in in_conflict for owner in each.held.get(mode, ()) if owner != entry.owner)
            known = found.setdefault(entry.owner, {})
            known |= dict.fromkeys(islice(holders, most))
            if not known:
                queued = [places[mode] for places in (ahead, first) for mode in in_conflict & places.keys()]
                known |= dict.fromkeys(islice((owner for owner in queued if owner != entry.owner), 1))
            ahead[entry.mode] = entry.owner
    return {owner: list(known)[:most] for owner, known in found.items()}


def _objects(table: Columns) -> tuple[list[_Object], dict[int, float]]:
    """Gather the objects that are waited for, with their queues in order, and how long each owner has waited."""
    objects: dict[Any, _Object] = {}
    waited: dict[int, float] = {}
    for row, (owner, key, mode, granted, seconds) in enumerate(_entries(table)):
        if owner is None or mode not in STRENGTH:
            continue
        each = objects.setdefault(key, _Object())
        entry = _Entry(row, owner, mode, -1.0 if seconds is None else seconds)
        if granted:
            each.held.setdefault(mode, {})[owner] = entry
        else:
            each.queue.append(entry)
            waited[owner] = max(waited.get(owner, -1.0), entry.waited)
    contested = [each for each in objects.values() if each.queue]
    for each in contested:
        each.queue[:] = _in_order(each)
    return contested, waited


def _entries(table: Columns) -> Iterable[tuple[Any, ...]]:
    needed = ("owner", "object", "mode", "granted", "waited_seconds")
    return zip(*(table[name] for name in needed), strict=True)


def _in_order(contested: _Object) -> list[_Entry]:
    """Order a queue as PostgreSQL does: by arrival, but ahead of those that wait for what the newcomer holds."""
    ordered: list[_Entry] = []
    present: set[str] = set()
    for entry in sorted(contested.queue, key=lambda entry: -entry.waited):
        held = {mode for mode, owners in contested.held.items() if entry.owner in owners}
        overtaken = present & {mode for each in held for mode in CONFLICTS[each]}
        place = len(ordered)
        if overtaken:
            place = next(i for i, other in enumerate(ordered) if other.mode in overtaken)
        ordered.insert(place, entry)
        present.add(entry.mode)
    return ordered


class _WaitGraph:
    """Owners, and the nodes that keep the number of edges linear.

    One node stands for all holders of an object in a mode, and one for all that wait for it in a mode up to a place in
    the queue, which leads to the one of the place before. So an entry has an edge for each mode, not for each session.
    """

    def __init__(self, objects: Iterable[_Object], waited: Iterable[int]) -> None:
        self.owner_of: list[int | None] = []
        """Node -> owner; None for a node that stands for several."""
        self.hard: Graph = []
        """Node -> the nodes whose locks it waits for."""
        self.all: Graph = []
        """With those ahead of it in a queue."""
        self.guessed: set[int] = set()
        """Nodes whose edges are a guess."""
        self._nodes: dict[int, int] = {}
        for owner in waited:
            self._session(owner)
        for each in objects:
            self._add(each)

    def _session(self, owner: int) -> int:
        if (node := self._nodes.get(owner)) is None:
            node = self._nodes[owner] = self._node(owner)
        return node

    def _node(self, owner: int | None, targets: Iterable[int] = (), *, is_hard: bool = True) -> int:
        targets = list(targets)
        self.owner_of.append(owner)
        self.hard.append(list(targets) if is_hard else [])
        self.all.append(targets)
        return len(self.owner_of) - 1

    def _add(self, contested: _Object) -> None:
        holders = {mode: self._node(None, map(self._session, owners)) for mode, owners in contested.held.items()}
        ahead: dict[str, int] = {}
        unexplained = []
        for entry in contested.queue:
            node = self._session(entry.owner)
            in_conflict = CONFLICTS[entry.mode]
            hard = [holders[mode] for mode in in_conflict & holders.keys()]
            soft = [ahead[mode] for mode in in_conflict & ahead.keys()]
            self.hard[node] += hard
            self.all[node] += hard + soft
            if not soft and not any(contested.is_held(mode, entry.owner) for mode in in_conflict):
                unexplained.append((node, in_conflict))
            before = [ahead[entry.mode]] if entry.mode in ahead else []
            ahead[entry.mode] = self._node(None, [node, *before], is_hard=False)
        # Before PostgreSQL 14 the order is a guess: who waits for nobody by it waits for all that it conflicts with.
        for node, in_conflict in unexplained:
            self.guessed.add(node)
            self.all[node] += [ahead[mode] for mode in in_conflict & ahead.keys()]

    def owners(self, nodes: Iterable[int]) -> list[int]:
        """Return the owners among some nodes."""
        return [owner for node in nodes if (owner := self.owner_of[node]) is not None]


class _Numbering:
    """Gives roots their numbers."""

    def __init__(self) -> None:
        self.owners: list[int] = []
        self.cycles: set[int] = set()

    def root(self, owner: int) -> int:
        """Number a session; return its mask."""
        self.owners.append(owner)
        return 1 << len(self.owners) - 1

    def cycle(self, owners: Sequence[int]) -> int:
        """Number sessions that wait for each other; return their mask."""
        self.cycles.add(len(self.owners))
        return self.root(min(owners))


def _roots(objects: Iterable[_Object], waited: Mapping[int, float]) -> _Roots:
    """Find the roots, and which of them each owner waits for."""
    graph, numbering = _WaitGraph(objects, waited), _Numbering()
    own: dict[int, int] = {}  # owner -> mask of the deadlock that it is part of
    for nodes in components(graph.hard):
        if len(owners := graph.owners(nodes)) > 1:
            own |= dict.fromkeys(owners, numbering.cycle(owners))
    masks = [0] * len(graph.all)
    for nodes in components(graph.all):  # those that others wait for come first
        owners = graph.owners(nodes)
        behind = (masks[target] for node in nodes for target in graph.all[node])
        themselves = (own.get(owner, 0) if owner in waited else numbering.root(owner) for owner in owners)
        mask = reduce(or_, (*behind, *themselves), 0)
        if (
            not mask and len(owners) > 1 and graph.guessed.isdisjoint(nodes)
        ):  # in a circle by their places in queues only, until PostgreSQL reorders one
            mask = numbering.cycle(owners)
        for node in nodes:
            masks[node] = mask
    by_owner = {owner: mask for owner, mask in zip(graph.owner_of, masks, strict=True) if owner in waited}
    return _Roots(numbering.owners, numbering.cycles, by_owner)  # type: ignore[arg-type]  # None never waits


def _data_waits(objects: Iterable[_Object], locktypes: Sequence[str]) -> dict[int, float]:
    """Find how long each owner has waited for data: not for maintenance, nor for an application's own locks."""
    waited: dict[int, float] = {}
    for each in objects:
        for entry in each.queue:
            if entry.mode != "ShareUpdateExclusiveLock" and locktypes[entry.row] not in _ASIDE:
                waited[entry.owner] = max(waited.get(entry.owner, -1.0), entry.waited)
    return waited


def _worst_first(owners: Sequence[int], counts: Sequence[int], *waits: Sequence[float]) -> list[int]:
    """Order the roots that block: most sessions behind it and each kind of longest wait take turns."""
    blocking = [root for root, count in enumerate(counts) if count]
    blocking.sort(key=lambda root: (-counts[root], [-each[root] for each in waits], owners[root]))
    orders = [blocking, *(sorted(blocking, key=each.__getitem__, reverse=True) for each in waits)]
    return list(dict.fromkeys(chain.from_iterable(zip(*orders, strict=True))))


def _known(waits: Sequence[float], roots: Iterable[int]) -> list[float | None]:
    return [waits[root] if waits[root] >= 0 else None for root in roots]


def _direct(objects: Iterable[_Object]) -> dict[int, tuple[_Entry, _Entry]]:
    """Find for each owner its entry that has been waited for longest, and the waiter; else its own wait, twice."""
    best: dict[int, tuple[_Entry, _Entry]] = {}
    for each in objects:
        for entry in each.queue:
            best.setdefault(entry.owner, (entry, entry))
    ranks: dict[int, tuple[float, int]] = {}
    for each in objects:
        oldest = sorted(each.queue, key=lambda entry: -entry.waited)
        for mode, owners in each.held.items():
            waiters = _two_owners(entry for entry in oldest if entry.mode in CONFLICTS[mode])
            for owner, held in owners.items():
                waiter = next((entry for entry in waiters if entry.owner != owner), None)
                if waiter and (owner not in ranks or ranks[owner] < (waiter.waited, STRENGTH[mode])):
                    ranks[owner], best[owner] = (waiter.waited, STRENGTH[mode]), (held, waiter)
    return best


def _two_owners(entries: Iterable[_Entry]) -> Sequence[_Entry]:
    """Return the first entry, and the first one of another owner."""
    found: list[_Entry] = []
    for entry in entries:
        if not found or entry.owner != found[0].owner:
            found.append(entry)
        if len(found) == 2:
            break
    return found
