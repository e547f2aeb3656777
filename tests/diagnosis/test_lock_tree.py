"""Who waits for whom: roots first, sessions alike together, however deep or circular."""

from typing import Any

from exporter.diagnosis.lock_tree import alike, lock_tree


def session(pid: int, *blocked_by: int | str, query: str = "SELECT ?", **more: Any) -> dict[str, Any]:
    return {"pid": pid, "usename": "web", "application_name": "shop", "state": "active", "query": query, **more} | (
        {"blocked_by": list(blocked_by), "wait_event_type": "Lock", "wait_event": "relation"} if blocked_by else {}
    )


def listed(*sessions: dict[str, Any]) -> list[tuple[int, tuple[str, ...], int]]:
    """Depth, names, and how many are behind."""
    return [(node.depth, node.names, node.behind) for node in lock_tree(sessions)]


def test_the_root_comes_first_and_sessions_alike_are_one_line() -> None:
    rows = [session(3, 2, query_seconds=5.0), session(4, 2, query_seconds=9.0), session(2, 1), session(1), session(5)]
    assert listed(*rows) == [(0, ("1",), 3), (1, ("2",), 2), (2, ("3", "4"), 0)]
    root, _, last = lock_tree(rows)
    assert (root.who, root.state, root.seconds) == ("web, shop", "active", None)
    assert (last.state, last.seconds) == ("active, waits for Lock relation", 9.0)


def test_the_queue_with_the_most_behind_its_root_comes_first_and_in_it_the_longest_branch() -> None:
    rows = [session(1), session(2), session(3, 1), session(4, 2), session(5, 2, query="UPDATE t"), session(6, 5)]
    assert listed(*rows) == [
        (0, ("2",), 3),
        (1, ("4",), 0),
        (1, ("5",), 1),
        (2, ("6",), 0),
        (0, ("1",), 1),
        (1, ("3",), 0),
    ]


def test_who_waits_for_several_has_them_all_as_roots() -> None:
    sessions = [session(1), session(2), session(3, 1, 2), session(4, 2, 1, 3), session(5, 3)]
    shown = listed(*sessions)
    assert [(depth, names) for depth, names, _ in shown if not depth] == [(0, ("1",)), (0, ("2",))]
    assert listed(session(1), session(2), session(3, 1, 2), session(4, 1, 2)) == [
        (0, ("1",), 2),
        (1, ("3", "4"), 0),
        (0, ("2",), 2),
    ]


def test_who_waits_behind_several_of_a_root_counts_once() -> None:
    chain = [session(number, number - 1, 2) for number in range(4, 1000)]
    shown = listed(session(1), session(2), session(3, 1, 2), *chain)
    assert [(names, behind) for depth, names, behind in shown if not depth] == [(("1",), 997), (("2",), 997)]


def test_a_root_that_is_no_session_of_the_snapshot_is_shown_by_its_name() -> None:
    assert listed(session(2, "prepared transaction x")) == [(0, ("prepared transaction x",), 1), (1, ("2",), 0)]


def test_a_circle_ends() -> None:
    assert listed(session(1, 2), session(2, 1), session(3, 1)) == [(0, ("2",), 2), (1, ("1",), 1), (2, ("3",), 0)]


def test_a_chain_of_a_thousand_is_listed() -> None:
    chain = [session(1), *(session(n, n - 1) for n in range(2, 1001))]
    assert listed(*chain) == [(n, (str(n + 1),), 999 - n) for n in range(1000)]


def test_sessions_that_do_the_same_are_one_line_the_most_first() -> None:
    rows = [session(1, query="UPDATE t"), *(session(n, query_seconds=float(n)) for n in (2, 3, 4))]
    assert [(node.names, node.statement, node.seconds) for node in alike(rows)] == [
        (("2", "3", "4"), "SELECT ?", 4.0),
        (("1",), "UPDATE t", None),
    ]
