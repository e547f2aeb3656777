"""Statements that add up: whatever happens to the rows, sums are right and no series falls."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from typing import Any

import pytest
from collector_files import collector
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tiers import examples

from exporter.planning.oid_names import Names
from exporter.planning.plan import Job
from exporter.samples.ledger import HALF_LIFE_SECONDS, HIDDEN_ROWS, Account, Key, Ledger, new_ledger, update_ledger
from exporter.samples.model import Samples
from exporter.samples.shared_series import SharedSeries

Statement = tuple[int, str]
"""Its user and its query."""

STATEMENTS: list[Statement] = [*((1, letter) for letter in "abcd"), *((2, letter) for letter in "efgh")]
NOTHING = frozenset[Any]()


def job(size: int) -> Job:
    """A job whose rows have a user, a query, calls and seconds, and whose ledger has this many members."""
    made = collector(
        labels=["userid", "queryid"],
        limit=size,
        statements=True,
        ledger={"key": ["userid", "dbid", "queryid", "toplevel", "generation"], "rank": "seconds"},
        metrics=[
            {
                "name": f"{column}_total",
                "type": "counter",
                "help": "A.",
                "column": column,
                "total": f"all_{column}_total",
            }
            for column in ("calls", "seconds")
        ],
    )
    return Job(made, "postgres", "SELECT", made.metrics)


def account_of(samples: Samples) -> Account:
    """What stands on the page, as the ledger has it."""
    calls, seconds, *totals = samples.families
    counts: list[Any] = list(zip(calls.values, seconds.values, strict=True))
    total: Any = tuple(family.values[0] for family in totals)
    assert list(calls.labels[-2:]) == ['userid="",queryid="pgvigil"', 'userid="",queryid="other"']
    *members, own, other = counts
    return Account(dict(zip(calls.labels[:-2], members, strict=True)), own, other, total)


class Statements(RuleBasedStateMachine):
    """A pg_stat_statements of our own, with calls, evictions, resets and unreadable rows, and the ledger of it."""

    @initialize(size=st.integers(1, 5))
    def start(self, size: int) -> None:
        self.job = job(size)
        self.ledger = new_ledger(self.job)
        self.size = size
        self.rows: dict[Statement, tuple[int, int]] = {}
        self.seen: dict[Statement, tuple[int, int]] = {}
        self.done = Counter[int]()
        self.true_total = Counter[int]()
        self.now = 0.0
        self.own = NOTHING
        self.own_rows: list[Statement] = []
        self.account: Account | None = None
        self.before: Account | None = None

    @rule(statement=st.sampled_from(STATEMENTS), calls=st.integers(1, 5), cost=st.integers(0, 1000))
    def call(self, statement: Statement, calls: int, cost: int) -> None:
        had_calls, had_cost = self.rows.get(statement, (0, 0))
        self.rows[statement] = (had_calls + calls, had_cost + cost)
        self.done += Counter({0: calls, 1: cost})

    @rule(statement=st.sampled_from(STATEMENTS))
    def evict(self, statement: Statement) -> None:
        self.rows.pop(statement, None)

    @rule()
    def reset(self) -> None:
        self.rows.clear()

    @rule(statement=st.sampled_from(STATEMENTS))
    def learn(self, statement: Statement) -> None:
        """Know a statement of role 1 as the exporter's own; role 2 may run the same one."""
        self.own |= {statement[1]}

    @rule(
        seconds=st.floats(0, 10 * HALF_LIFE_SECONDS),
        hidden=st.just(NOTHING) | st.frozensets(st.sampled_from([1, 2])),
        malformed=st.just(NOTHING) | st.frozensets(st.sampled_from(STATEMENTS)),
    )
    def read(self, seconds: float, hidden: Set[int], malformed: Set[Statement]) -> None:
        """Look at all rows, of which those of some users hide their query, and some hold no numbers."""
        self.now += seconds
        readable = {s: counts for s, counts in self.rows.items() if s[0] not in hidden and s not in malformed}
        self.count(readable)
        users = {user for user, _ in self.rows if user in hidden}  # any query of theirs may be there
        self.seen = {
            s: c for s, c in self.seen.items() if s[0] in users or s in malformed & self.rows.keys()
        } | readable
        self.own_rows = [(user, query) for user, query in readable if user == 1 and query in self.own]
        self.before = self.account
        table: dict[str, Sequence[Any]] = dict.fromkeys(("dbid", "toplevel", "generation"), [1] * len(self.rows))
        table |= {
            "userid": [user for user, _ in self.rows],
            "queryid": [query if user not in hidden else None for user, query in self.rows],
            "calls": [calls if s not in malformed else "many" for s, (calls, _) in self.rows.items()],
            "seconds": [cost for _, cost in self.rows.values()],
        }
        ledger = self.ledger, self.now, None, SharedSeries(1, self.own)
        self.account = account_of(update_ledger(self.job, table if self.rows else {}, Names(), *ledger))

    def count(self, readable: Mapping[Statement, tuple[int, int]]) -> None:
        for statement, counts in readable.items():
            last = self.seen.get(statement, (0, 0))
            fell = any(now < then for now, then in zip(counts, last, strict=True))
            for column, (now, then) in enumerate(zip(counts, last, strict=True)):
                self.true_total[column] += now if fell else now - then

    @invariant()
    def the_parts_add_up_to_the_total(self) -> None:
        if self.account:
            for column in range(2):
                members = sum(counts[column] for counts in self.account.members.values())
                parts = members + self.account.own[column] + self.account.other[column]
                assert parts == self.account.total[column] == self.true_total[column]

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        if self.account:
            assert all(total <= self.done[column] for column, total in enumerate(self.account.total))

    @invariant()
    def nothing_falls(self) -> None:
        if self.account and self.before:
            for column in range(2):
                assert self.account.own[column] >= self.before.own[column]
                assert self.account.other[column] >= self.before.other[column]
                assert self.account.total[column] >= self.before.total[column]
                for part, counts in self.account.members.items():
                    assert counts[column] >= self.before.members.get(part, (0, 0))[column]

    @invariant()
    def what_is_our_own_is_no_member(self) -> None:
        """A member that went or hid before it was known stays until its row can be read again."""
        members = self.account.members if self.account else {}
        assert [query for user, query in self.own_rows if f'userid="{user}",queryid="{query}"' in members] == []

    @invariant()
    def the_set_is_bounded(self) -> None:
        assert self.account is None or len(self.account.members) <= self.size


TestStatements = Statements.TestCase
TestStatements.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


def counts(seconds: float, calls: int = 1) -> tuple[float, float]:
    """Calls and execution seconds of one row."""
    return calls, seconds


def test_a_new_heavy_statement_gets_a_series_within_a_minute_however_old_the_others_are() -> None:
    """Incident 1: a bad query appears among 1000 that ran for months; every scrape is 15 s."""
    ledger = Ledger(100, 2, 1)
    rows: dict[Key, tuple[float, float]] = {(i,): counts(1e6 + i) for i in range(1000)}
    account = ledger.update(rows, 0.0)
    for scrape in range(1, 5):
        others = {part: counts(seconds + 0.0075) for part, (_, seconds) in rows.items() if part != ("bad",)}
        rows = {**others, ("bad",): counts(7.5 * scrape)}  # half of the work done in these 15 s, the others do the rest
        account = ledger.update(rows, 15.0 * scrape)
    assert ("bad",) in account.members


def test_members_stay_while_nobody_outweighs_them_clearly() -> None:
    ledger = Ledger(2, 2, 1)
    ledger.update({}, 0)
    rows = {"a": 10.0, "b": 10.0, "c": 0.0}
    before: set[Hashable] = set()
    for scrape in range(1, 50):
        rows = {"a": rows["a"] + 10, "b": rows["b"] + 10, "c": rows["c"] + 12}
        members = set(
            ledger.update({(part,): counts(seconds) for part, seconds in rows.items()}, 15.0 * scrape).members
        )
        assert scrape == 1 or members == before
        before = members


def test_an_idle_member_makes_room_for_a_busy_newcomer() -> None:
    ledger = Ledger(1, 2, 1)
    ledger.update({("old",): counts(100.0)}, 0)
    account = ledger.update({("old",): counts(100.0), ("new",): counts(50.0)}, 15)
    assert account.members == {("new",): (1, 50.0)}
    assert account.other == (1, 100.0)


def test_what_is_excluded_later_moves_to_the_rest_with_what_it_had() -> None:
    """A role was renamed to a name that is excluded; its statement does not run again."""
    made = job(5)
    ledger = new_ledger(made)
    same: dict[str, Sequence[Any]] = {
        "dbid": [7, 7, 8],
        "toplevel": [True] * 3,
        "generation": [0] * 3,
        "seconds": [1.0] * 3,
    }
    table = {"userid": [1, 2, 2], "queryid": [5, 5, 6], "calls": [1, 2, 4], **same}
    before = account_of(update_ledger(made, table, Names(), ledger, 0))
    assert {counts[0] for counts in before.members.values()} == {1, 2, 4}
    excluded = SharedSeries(1, frozenset({6}), users=frozenset({1}), databases=frozenset({8}))
    after = account_of(update_ledger(made, {}, Names(), ledger, 1, (), excluded))
    assert (after.members, after.own, after.total) == ({'userid="2",queryid="5"': (2, 1.0)}, (0, 0), before.total)
    assert after.other == (5, 2.0)
    assert ledger.left_out == 0


def test_rows_of_one_part_are_added_up() -> None:
    """The same statement at top level and inside a function: two rows, one series."""
    ledger = Ledger(5, 2, 1)
    account = ledger.update({("q", True): (1, 2), ("q", False): (3, 4)}, 0, {("q", True): "q", ("q", False): "q"})
    assert account.members == {"q": (4, 6)}
    account = ledger.update({("q", True): (2, 3)}, 1, {("q", True): "q"})
    assert account.members == {"q": (5, 7)}


@pytest.mark.parametrize(
    ("first", "second", "grown"),
    [((5, 5), (7, 6), (2, 1)), ((5, 5), (5, 5), (0, 0)), ((5, 5), (1, 1), (1, 1)), ((5, 5), (6, 4), (6, 4))],
)
def test_a_row_that_fell_in_any_column_was_reset_and_counts_from_zero(
    first: tuple[int, int], second: tuple[int, int], grown: tuple[int, int]
) -> None:
    ledger = Ledger(1, 2, 1)
    ledger.update({("a",): first}, 0)
    assert ledger.update({("a",): second}, 1).total == tuple(a + b for a, b in zip(first, grown, strict=True))


@pytest.mark.parametrize(
    ("unreadable", "grown"),
    [
        ([(1, "a")], 1),  # itself
        ([(1, None)], 1),  # perhaps itself
        ([(None, None), (2, "b")], 1),
        ([(1, "b"), (2, None)], 6),  # others, for sure
        ([], 6),
    ],
)
def test_an_absent_row_is_remembered_while_it_may_be_among_the_unreadable(unreadable: list[Key], grown: int) -> None:
    ledger = Ledger(1, 1, 0)
    ledger.update({(1, "a"): (5,)}, 0)
    for look in (1, 2):
        assert ledger.update({}, look, unreadable=unreadable).total == (5,)
    assert ledger.update({(1, "a"): (6,)}, 3).total == (5 + grown,)


def test_not_more_than_so_many_absent_rows_are_remembered() -> None:
    ledger = Ledger(1, 1, 0)
    rows: dict[Key, tuple[int]] = {(i,): (1,) for i in range(HIDDEN_ROWS + 1)}
    ledger.update(rows, 0)
    ledger.update({}, 1, unreadable=[(None,)])
    assert ledger.update(rows, 2).total == (len(rows) + 1,)


@given(st.lists(st.floats(0, 1e7), min_size=1, max_size=30))
def test_years_pass_without_overflow(pauses: list[float]) -> None:
    ledger = Ledger(2, 2, 1)
    now = 0.0
    for i, pause in enumerate(pauses):
        now += pause
        account = ledger.update({("a",): counts(i + 1.0), ("b",): counts(i + 2.0), (i,): counts(1.0)}, now)
        assert len(account.members) == 2
