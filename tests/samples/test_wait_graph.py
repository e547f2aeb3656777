"""Roots of wait-for graphs: the right ones, with the right number of sessions behind each, in linear time."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import examples

from exporter.samples.strongly_connected import components
from exporter.samples.wait_graph import (
    CONFLICTS,
    CYCLE,
    MOST_BLOCKERS,
    STRENGTH,
    _objects,
    _WaitGraph,
    blockers,
    wait_roots,
)

SHARE, EXCLUSIVE = "ShareLock", "ExclusiveLock"
READ, ALTER = "AccessShareLock", "AccessExclusiveLock"


class Entry(NamedTuple):
    """One row of the query."""

    owner: int
    object: str
    mode: str
    waited: float | None = None
    """None for a lock that is held."""
    locktype: str = "relation"


def table(entries: Iterable[Entry]) -> Mapping[str, Sequence[Any]]:
    """The columns of a query."""
    rows = list(entries)
    return {
        "owner": [row.owner for row in rows],
        "object": [row.object for row in rows],
        "locktype": [row.locktype for row in rows],
        "mode": [row.mode for row in rows],
        "granted": [row.waited is None for row in rows],
        "waited_seconds": [row.waited for row in rows],
        "state": ["active"] * len(rows),
    }


def found(*entries: Entry) -> list[tuple[int, str, int]]:
    """Owner, state and number of blocked sessions of each root, worst first."""
    roots = wait_roots(table(entries))
    return list(zip(roots["owner"], roots["state"], roots["blocked_sessions"], strict=True)) if roots else []


def row_lock(waiters: int) -> list[Entry]:
    """Updates of one row: the first waits for the transaction of 0, all others for its tuple lock."""
    first = [Entry(0, "xid", EXCLUSIVE), Entry(1, "xid", SHARE, float(waiters)), Entry(1, "tuple", EXCLUSIVE)]
    return first + [Entry(i, "tuple", EXCLUSIVE, float(waiters - i)) for i in range(2, waiters + 1)]


def migration(waiters: int) -> list[Entry]:
    """Readers behind an ALTER TABLE that waits for 0 and for as many other readers."""
    before = [Entry(-i, "t", READ) for i in range(waiters)]
    behind = [Entry(i, "t", READ, float(waiters - i)) for i in range(2, waiters + 1)]
    return [*before, Entry(1, "t", ALTER, float(waiters)), *behind]


def chain(waiters: int) -> list[Entry]:
    """Each session waits for the one before."""
    held = [Entry(i, f"x{i}", EXCLUSIVE) for i in range(waiters + 1)]
    return held + [Entry(i, f"x{i - 1}", SHARE, float(i)) for i in range(1, waiters + 1)]


def shared_chain(waiters: int) -> list[Entry]:
    """Each session waits for the one before and for a root of its own: the roots of the last are all of them."""
    return [
        entry
        for i in range(waiters)
        for entry in (Entry(i, f"x{i}", SHARE), Entry(-i - 1, f"x{i}", SHARE), Entry(i + 1, f"x{i}", EXCLUSIVE, 1.0))
    ]


def upgrades(waiters: int) -> list[Entry]:
    """Sessions that have read a table and wait to write it."""
    both = [(Entry(i, "t", READ), Entry(i, "t", "RowExclusiveLock", float(i))) for i in range(1, waiters + 1)]
    return [Entry(0, "t", SHARE), *(entry for pair in both for entry in pair)]


@pytest.mark.parametrize("shape", [row_lock, chain, upgrades])
def test_everybody_waits_for_the_one_root(shape: Any) -> None:
    assert found(*shape(1000)) == [(0, "active", 1000)]


def test_every_reader_that_a_migration_waits_for_is_a_root() -> None:
    assert sorted(found(*migration(3))) == [(-2, "active", 3), (-1, "active", 3), (0, "active", 3)]


def test_one_that_holds_nothing_in_conflict_is_no_root() -> None:
    assert found(Entry(1, "t", SHARE), Entry(2, "t", READ), Entry(3, "t", "RowExclusiveLock", 1.0)) == [
        (1, "active", 1)
    ]


def test_one_that_waits_is_no_root_even_if_nobody_is_seen_to_hold_what_it_waits_for() -> None:
    assert found(Entry(1, "t", ALTER, 2.0), Entry(2, "t", READ, 1.0)) == []


def test_a_cycle_is_one_root_with_its_members_and_its_tail() -> None:
    ring = [Entry(7, "a", EXCLUSIVE), Entry(8, "b", EXCLUSIVE), Entry(7, "b", SHARE, 9.0), Entry(8, "a", SHARE, 8.0)]
    tail = [Entry(i, "a", SHARE, 1.0) for i in range(10, 50)]
    other = [Entry(1, "c", EXCLUSIVE), Entry(2, "c", SHARE, 20.0)]
    assert found(*ring, *tail, *other) == [(7, CYCLE, 42), (1, "active", 1)]
    roots = wait_roots(table([*ring, *tail, *other]))
    assert roots["longest_wait_seconds"] == [9.0, 20.0]
    assert (roots["mode"][0], roots["held_mode"][0], roots["object"][0]) == (SHARE, EXCLUSIVE, "a")


def test_a_cycle_that_also_waits_for_a_root_is_named_beside_it() -> None:
    """Ending the root would not free it."""
    ring = [Entry(7, "a", SHARE), Entry(8, "b", EXCLUSIVE), Entry(7, "b", SHARE, 9.0), Entry(8, "a", EXCLUSIVE, 8.0)]
    assert sorted(found(*ring, Entry(1, "a", SHARE))) == [(1, "active", 2), (7, CYCLE, 2)]


def test_a_circle_of_places_in_queues_is_a_cycle_only_without_a_root() -> None:
    """3 reads a table that 2 waits to alter; 2 waits for 1, which waits for 3: it lasts until queues are reordered."""
    circle = [
        Entry(1, "t", READ),
        Entry(2, "t", ALTER, 3.0),
        Entry(3, "t", READ, 2.0),
        Entry(3, "x", EXCLUSIVE),
        Entry(1, "x", EXCLUSIVE, 1.0),
    ]
    assert found(*circle) == [(1, CYCLE, 3)]
    assert found(*circle, Entry(9, "t", READ)) == [(9, "active", 3)]


def test_processes_of_one_owner_count_once_and_never_block_it() -> None:
    """A parallel query: two processes of 2 wait for 1, and 3 waits for 2."""
    entries = [
        Entry(1, "t", ALTER),
        Entry(2, "t", READ, 3.0),
        Entry(2, "t", READ, 2.0),
        Entry(2, "a", EXCLUSIVE),
        Entry(3, "a", EXCLUSIVE, 1.0),
    ]
    assert found(*entries) == [(1, "active", 2)]


def test_one_that_upgrades_goes_ahead_of_those_that_wait_for_it() -> None:
    """4 keeps only the ALTER waiting: 3, which the ALTER waits for as well, goes ahead of it and waits for 1 alone."""
    entries = [
        Entry(1, "t", SHARE),
        Entry(3, "t", READ),
        Entry(4, "t", READ),
        Entry(2, "t", ALTER, 5.0),
        Entry(3, "t", "RowExclusiveLock", 1.0),
    ]
    assert found(*entries) == [(1, "active", 2), (4, "active", 1)]


def test_the_row_tells_what_the_longest_direct_waiter_wants_and_how_it_is_held() -> None:
    roots = wait_roots(
        table(
            [
                Entry(1, "t", READ),
                Entry(1, "t", SHARE),
                Entry(2, "t", "RowExclusiveLock", 3.0),
                Entry(3, "t", ALTER, 9.0),
            ]
        )
    )
    assert (roots["mode"], roots["held_mode"], roots["longest_wait_seconds"]) == ([ALTER], [SHARE], [9.0])


def test_a_wait_of_unknown_length_counts_and_has_no_length() -> None:
    """The replay of a standby, before PostgreSQL 14."""
    entries = table([Entry(1, "t", READ), Entry(2, "t", ALTER, 0.0)])
    roots = wait_roots({**entries, "waited_seconds": [None, None]})
    assert (roots["blocked_sessions"], roots["longest_wait_seconds"]) == ([1], [None])


MAINTENANCE = "ShareUpdateExclusiveLock"


@pytest.mark.parametrize(
    ("behind", "seconds"),
    [
        ([Entry(2, "t", MAINTENANCE, 9.0)], None),
        ([Entry(2, "v", SHARE, 9.0, "virtualxid")], None),
        ([Entry(2, "a", EXCLUSIVE, 9.0, "advisory")], None),
        ([Entry(2, "t", MAINTENANCE, 9.0), Entry(3, "x", SHARE, 2.0, "transactionid")], 2.0),
        ([Entry(2, "v", SHARE, 9.0, "virtualxid"), Entry(2, "t", MAINTENANCE), Entry(3, "t", ALTER, 3.0)], 3.0),
        ([Entry(2, "a", SHARE, 9.0, "advisory"), Entry(2, "y", EXCLUSIVE), Entry(3, "y", SHARE, 4.0, "tuple")], 4.0),
        ([Entry(2, "t", MAINTENANCE, 9.0), Entry(2, "x", SHARE, 5.0, "transactionid")], 5.0),  # one parallel query
    ],
)
def test_the_longest_wait_for_data_is_told_apart_from_that_of_maintenance(
    behind: list[Entry], seconds: float | None
) -> None:
    """Direct or through others, whatever the longest waiter wants."""
    held = [Entry(1, "t", MAINTENANCE), *(Entry(1, name, EXCLUSIVE) for name in "vax")]
    roots = wait_roots(table([*held, *behind]))
    assert roots["longest_data_wait_seconds"] == [seconds]
    assert roots["longest_wait_seconds"] == [9.0]


def test_the_most_waiters_and_the_longest_waits_take_turns() -> None:
    """So that the limit of the collector cuts neither the longest queue nor the longest wait."""
    crowds = [
        entry
        for root in range(20)
        for entry in (
            Entry(root, f"t{root}", ALTER),
            *(Entry(100 + 10 * root + i, f"t{root}", READ, 5.0 + root) for i in range(3)),
        )
    ]
    patient = [Entry(50, "xid", EXCLUSIVE), Entry(51, "xid", SHARE, 3600.0, "transactionid")]
    build = [Entry(60, "v", EXCLUSIVE), Entry(61, "v", SHARE, 9000.0, "virtualxid")]
    roots = wait_roots(table([*crowds, *patient, *build]))
    assert roots["owner"][:5] == [19, 60, 50, 18, 17]


def test_nobody_waits() -> None:
    assert wait_roots(table([Entry(1, "t", ALTER)])) == {}


@pytest.mark.parametrize("shape", [row_lock, migration, chain, shared_chain, upgrades])
def test_edges_grow_with_entries_not_with_pairs_of_them(shape: Any) -> None:
    entries = shape(2000)
    graph = _WaitGraph(*_objects(table(entries)))
    assert sum(map(len, graph.all)) <= 12 * len(entries)


Graph = dict[int, set[int]]


def edges(entries: Sequence[Entry]) -> tuple[Graph, Graph, set[int]]:
    """Who waits for whom, by locks that are held and in all, pair by pair; and for whom that is a guess."""
    hard: Graph = {}
    every: Graph = {}
    guessed: set[int] = set()
    for name in {entry.object for entry in entries}:
        here = [entry for entry in entries if entry.object == name]
        queue: list[Entry] = []
        for entry in sorted((e for e in here if e.waited is not None), key=lambda e: -(e.waited or 0.0)):
            mine = [e.mode for e in here if e.owner == entry.owner and e.waited is None]
            ahead_of = [i for i, e in enumerate(queue) if any(e.mode in CONFLICTS[mode] for mode in mine)]
            queue.insert(min(ahead_of, default=len(queue)), entry)
        for place, entry in enumerate(queue):
            held = {e.owner for e in here if e.waited is None and e.mode in CONFLICTS[entry.mode]}
            ahead = {e.owner for e in queue[:place] if e.mode in CONFLICTS[entry.mode]}
            if not ahead and not held - {entry.owner}:
                ahead = {e.owner for e in queue if e.mode in CONFLICTS[entry.mode]}
                guessed.add(entry.owner)
            hard.setdefault(entry.owner, set()).update(held - {entry.owner})
            every.setdefault(entry.owner, set()).update((held | ahead) - {entry.owner})
    return hard, every, guessed


def reached(graph: Graph, start: int) -> set[int]:
    """Everybody that one waits for, directly or through others."""
    seen: set[int] = set()
    ahead = set(graph.get(start, ()))
    while ahead:
        seen |= ahead
        ahead = {target for each in ahead for target in graph.get(each, ())} - seen
    return seen


def expected(entries: Sequence[Entry]) -> set[tuple[int, str, int]]:
    """The roots, by looking at all pairs."""
    hard, every, guessed = edges(entries)
    behind = {owner: reached(every, owner) for owner in every}
    culprits = {frozenset([owner]): "active" for targets in behind.values() for owner in targets - every.keys()}
    for graph in (hard, every):
        by_owner = {owner: reached(graph, owner) for owner in graph}
        for owner, targets in by_owner.items():
            ring = frozenset(other for other in targets if owner in by_owner.get(other, ()))
            others = [each for each in culprits if each & behind[owner]]
            if len(ring) > 1 and (graph is hard or not (others or ring & guessed)):
                culprits[ring] = CYCLE
    return {
        (min(culprit), state, sum(bool(culprit & (targets | {owner})) for owner, targets in behind.items()))
        for culprit, state in culprits.items()
    }


@st.composite
def lock_tables(draw: st.DrawFn) -> list[Entry]:
    """Some sessions that hold and wait for a few objects in any modes, as no server would let them, too."""
    owners, names, modes = st.integers(1, 7), st.sampled_from("abc"), st.sampled_from(list(STRENGTH))
    held = draw(st.lists(st.builds(Entry, owners, names, modes), max_size=10))
    waiting = draw(st.lists(st.tuples(owners, names, modes), max_size=10))
    return held + [Entry(*each, float(seconds)) for seconds, each in enumerate(waiting)]


@settings(max_examples=examples(500))
@given(lock_tables())
def test_roots_and_counts_are_those_found_by_looking_at_all_pairs(entries: list[Entry]) -> None:
    roots = found(*entries)
    assert len(set(roots)) == len(roots)
    assert set(roots) == expected(entries)


@given(st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=8))
def test_components_are_those_that_reach_each_other_the_ones_led_to_first(targets: list[list[int]]) -> None:
    graph = [[target for target in each if target < len(targets)] for each in targets]
    as_sets = {node: set(each) for node, each in enumerate(graph)}
    order = list(components(graph))
    assert sorted(node for component in order for node in component) == list(range(len(graph)))
    for component in order:
        for a, b in product(component, repeat=2):
            assert a == b or b in reached(as_sets, a)
    place = {node: i for i, component in enumerate(order) for node in component}
    assert all(place[target] <= place[node] for node, each in as_sets.items() for target in each)
    for a, b in product(as_sets, repeat=2):
        if a != b and b in reached(as_sets, a) and a in reached(as_sets, b):
            assert place[a] == place[b]


def waits(*entries: Entry) -> dict[int, list[int]]:
    """Whom each owner waits for."""
    return blockers(table(entries))


def test_those_that_hold_are_waited_for_else_the_one_ahead_in_the_queue() -> None:
    queue = [Entry(5, "t", READ), Entry(1, "t", ALTER, 9.0), Entry(2, "t", READ, 8.0), Entry(3, "t", READ, 7.0)]
    assert waits(*queue) == {1: [5], 2: [1], 3: [1]}
    assert waits(*row_lock(3)) == {1: [0], 2: [1], 3: [1]}
    assert waits(*chain(3)) == {1: [0], 2: [1], 3: [2]}


def test_a_session_does_not_wait_for_itself() -> None:
    assert waits(Entry(1, "t", READ), Entry(2, "t", READ), Entry(1, "t", ALTER, 5.0)) == {1: [2]}


def test_all_objects_that_a_session_waits_for_count() -> None:
    """The processes of a parallel query are one owner."""
    held = [Entry(1, "a", ALTER), Entry(2, "b", ALTER), Entry(2, "a", READ)]
    assert waits(*held, Entry(3, "a", READ, 1.0), Entry(3, "b", READ, 1.0)) == {3: [1, 2]}


def test_before_14_the_first_in_conflict_stands_for_the_order() -> None:
    """Their queries may have begun in another order than their waits."""
    queue = [Entry(5, "t", READ), Entry(2, "t", READ, 9.0), Entry(1, "t", ALTER, 8.0)]
    assert waits(*queue) == {1: [5], 2: [1]}


def test_many_who_wait_for_many_are_shown_a_few_each() -> None:
    readers = [Entry(-i, "t", "RowExclusiveLock") for i in range(1, 301)]
    writers = [Entry(i, "t", SHARE, 1.0) for i in range(1, 301)]
    found = waits(*readers, *writers)
    assert {len(blocking) for blocking in found.values()} == {MOST_BLOCKERS}
    assert len(found) == 300


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from("ab"), st.sampled_from(sorted(STRENGTH)))))
@settings(max_examples=examples(200), deadline=None)
def test_whoever_is_waited_for_has_an_entry_in_conflict(rows: list[tuple[int, str, str]]) -> None:
    entries = [Entry(owner, name, mode, None if i % 2 else float(i)) for i, (owner, name, mode) in enumerate(rows)]
    for waiter, blocking in waits(*entries).items():
        for owner in blocking:
            assert owner != waiter
            assert any(
                held.owner == owner and held.mode in CONFLICTS[wait.mode] and held.object == wait.object
                for wait in entries
                if wait.owner == waiter and wait.waited is not None
                for held in entries
            )
