"""Who waits for whom, in the order of a page: each root, and below it who waits for it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.documented import documented
from exporter.watch.incidents import Session


@documented
@dataclass(frozen=True)
class Node:
    """A session, a prepared transaction, or several sessions alike."""

    depth: int
    """Sessions between it and nobody: 0 for a root."""
    names: tuple[str, ...]
    """Pids, or a prepared transaction."""
    who: str
    """User and application."""
    state: str
    backend_type: str
    """Empty for what is no session, or one that is not known."""
    seconds: float | None
    """Seconds that the longest of them has been at its statement."""
    statement: str
    behind: int
    """Sessions that wait for it, directly or through others."""


def lock_tree(sessions: Sequence[Session]) -> tuple[Node, ...]:
    """List the lock queues of a snapshot, that with the most waiters first; a chain may be a thousand sessions long.

    Who waits for several stands below the first of them; the others are listed as roots of their own.
    """
    by_name = {str(each["pid"]): each for each in sessions}
    waiters: dict[str, list[str]] = {}
    for name, each in by_name.items():
        for blocker in list(each.get("blocked_by") or ())[:1]:
            waiters.setdefault(str(blocker), []).append(name)
    seen: set[str] = set()
    trees = [_behind(root, waiters, seen) for root in waiters if not by_name.get(root, {}).get("blocked_by")]
    circles = [_behind(name, waiters, seen) for name in waiters if name not in seen]
    beside = [{root: count} for root, count in _roots_beside(by_name, waiters).items()]
    nodes: list[Node] = []
    for tree in sorted(
        (*trees, *filter(None, circles), *beside), key=lambda tree: max(tree.values(), default=0), reverse=True
    ):
        nodes += _listed(tree, by_name, waiters)
    return tuple(nodes)


def _roots_beside(by_name: Mapping[str, Session], waiters: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Count the sessions behind each root that nobody waits for first."""
    found: dict[str, list[str]] = {}
    for name, each in by_name.items():
        for blocker in map(str, list(each.get("blocked_by") or ())[1:]):
            if blocker not in waiters and not by_name.get(blocker, {}).get("blocked_by"):
                found.setdefault(blocker, []).append(name)
    return {root: _together(names, waiters) for root, names in found.items()}


def _together(names: Sequence[str], waiters: Mapping[str, Sequence[str]]) -> int:
    """Count sessions and all that are behind them, each once."""
    seen: set[str] = set()
    for name in names:
        _behind(name, waiters, seen)
    return len(seen)


def _behind(root: str, waiters: Mapping[str, Sequence[str]], seen: set[str]) -> dict[str, int]:
    """Count for a root, and for all that wait for it, how many sessions are behind; the root comes first."""
    if root in seen:
        return {}
    seen.add(root)
    order, parents = [root], {root: ""}
    for name in order:
        new = [waiter for waiter in waiters.get(name, ()) if waiter not in seen]
        seen.update(new)
        parents |= dict.fromkeys(new, name)
        order += new
    behind = dict.fromkeys(order, 0)
    for name in reversed(order[1:]):
        behind[parents[name]] += 1 + behind[name]
    return behind


def _listed(
    behind: Mapping[str, int], by_name: Mapping[str, Session], waiters: Mapping[str, Sequence[str]]
) -> list[Node]:
    """List a tree from its root on; sessions that nobody waits for, and that do the same, are one."""
    found: list[Node] = []
    left, shown = [(next(iter(behind)), 0)], set[str]()
    while left:
        name, depth = left.pop()
        shown.add(name)
        found.append(_node((name,), depth, by_name, behind[name]))
        below = [waiter for waiter in waiters.get(name, ()) if waiter in behind and waiter not in shown]
        alike: dict[Node, list[str]] = {}
        for waiter in below:
            if not behind[waiter]:
                alike.setdefault(_node((), depth + 1, {"": by_name[waiter]}, 0), []).append(waiter)
        shown.update(name for names in alike.values() for name in names)
        found += [_node(tuple(names), depth + 1, by_name, 0) for names in alike.values()]
        left += [(waiter, depth + 1) for waiter in sorted(below, key=behind.__getitem__) if behind[waiter]]
    return found


def alike(sessions: Sequence[Session]) -> tuple[Node, ...]:
    """Put sessions that do the same into one, the most of a kind first."""
    by_name = {str(each["pid"]): each for each in sessions}
    kinds: dict[Node, list[str]] = {}
    for name, each in by_name.items():
        kinds.setdefault(_node((), 0, {"": each}, 0), []).append(name)
    return tuple(_node(tuple(names), 0, by_name, 0) for names in sorted(kinds.values(), key=len, reverse=True))


def _node(names: tuple[str, ...], depth: int, by_name: Mapping[str, Session], behind: int) -> Node:
    """Describe sessions alike; without names, what makes them alike."""
    sessions = [by_name.get(name, {}) for name in names or ("",)]
    first = sessions[0]
    about = [first.get(key, "") for key in ("usename", "application_name")]
    state = first.get("state") or first.get("backend_type") or ""
    if first.get("wait_event_type", "Client") != "Client":  # an idle session waits for its client: that is its state
        state = ", ".join(filter(None, (state, f"waits for {first['wait_event_type']} {first.get('wait_event', '')}")))
    seconds = [each["query_seconds"] for each in sessions if names and each.get("query_seconds") is not None]
    who = ", ".join(filter(None, about))
    return Node(
        depth,
        names,
        who,
        state.strip(),
        first.get("backend_type", ""),
        max(seconds, default=None),
        first.get("query", ""),
        behind,
    )
