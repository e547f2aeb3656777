"""Rows read in two statements, of which the second asks for those that changed: the page is the same as of one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fake_session import ROLE, FakeServer, collector, job, scraping
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import examples
from virtual_time import in_virtual_time

from exporter.catalog.model import Collector
from exporter.errors import QueryError
from exporter.planning.server import Extension
from exporter.report import Report
from exporter.samples.model import Samples
from exporter.scrape.target import Target

COLUMNS = ("calls", "plans", "exec_seconds", "rows")
SUMMED = ("calls", "plans", "rows")
"""The columns of whole numbers, whose sums are exact."""

KEYS = tuple((userid, queryid) for userid in (ROLE, 11) for queryid in range(1, 11))
"""Statements: two users run the same queries."""

MALFORMED = "many"


def statements(*, is_narrow: bool) -> Collector:
    """A collector of statements of which three have series of their own."""
    key = ["userid", "dbid", "queryid", "toplevel", "generation"]
    rule: dict[str, Any] = {"key": key, "rank": "exec_seconds"}
    if is_narrow:
        rule["changes"] = {"columns": ["calls", "plans", "exec_seconds"], "by": "queryid"}
    metrics = [
        {"name": f"pg_{c}_total", "type": "counter", "help": "A.", "column": c, "total": f"pg_all_{c}_total"}
        for c in COLUMNS
    ]
    return collector(
        "statements",
        extension="pg_stat_statements",
        labels=["usename", "queryid"],
        statements=True,
        limit=3,
        ledger=rule,
        metrics=metrics,
    )


@dataclass
class Table:
    """A pg_stat_statements of our own, which answers as the server would."""

    has_generation: bool = True
    counts_hidden: bool = True
    entries: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    done: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))
    twins: set[tuple[int, int]] = field(default_factory=set)
    malformed: set[tuple[int, int]] = field(default_factory=set)
    has_texts: bool = True
    clock: int = 0
    asked: list[bool] = field(default_factory=list)
    """Of every statement so far whether it asked for certain rows."""
    between: Callable[[], None] = lambda: None
    """What happens before certain rows are read."""

    def add(self, key: tuple[int, int], **grown: float) -> None:
        """Count an execution or a planning; no two take the same time."""
        self.clock += 1
        if key not in self.entries:
            self.entries[key] = dict.fromkeys(COLUMNS, 0) | {"generation": self.clock if self.has_generation else 0}
        for column, value in grown.items():
            self.entries[key][column] += value
            self.done[column] += value

    def call(self, key: tuple[int, int], calls: int = 1, rows: int = 1) -> None:
        self.add(key, calls=calls, rows=rows, exec_seconds=0.1 + self.clock * 0.001)

    def plan(self, key: tuple[int, int]) -> None:
        self.add(key, plans=1, rows=2)

    def evict(self, key: tuple[int, int]) -> None:
        self.entries.pop(key, None)

    def replace(self, key: tuple[int, int]) -> None:
        """Evict an entry that returns before the next look with as many calls and plans as it had."""
        if was := self.entries.pop(key, None):
            self.add(key, calls=was["calls"], plans=was["plans"], rows=3, exec_seconds=0.1 + self.clock * 0.001)

    def reset(self) -> None:
        self.entries.clear()

    def hide(self, userid: int) -> None:
        """Hide the queries of a user, or show them again."""
        self.hidden ^= {userid}

    def repeat(self, key: tuple[int, int]) -> None:
        """Have a row twice from now on, or no longer."""
        self.twins ^= {key}

    def spoil(self, key: tuple[int, int]) -> None:
        """Have one execution end in a value that is no number, or the next one in a number again."""
        self.malformed ^= {key}
        self.call(key)

    def lose(self) -> None:
        """Lose the file of texts, or have it again."""
        self.has_texts = not self.has_texts

    def texts(self, _: int, wanted: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return the texts of queries of our role's."""
        text = "/* pgvigil:statements */" if self.has_texts else None
        return [{"queryid": int(queryid), "query": text} for queryid in wanted]

    def answer(self, *wanted: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return the rows, or those with certain numbers and those that have none."""
        self.asked.append(bool(wanted))
        if wanted:
            self.between()
        rows = [row for key in self.entries for row in self._rows(key)]
        return [row for row in rows if not wanted or row["queryid"] is None or str(row["queryid"]) in wanted[0]]

    def _rows(self, key: tuple[int, int]) -> list[Mapping[str, Any]]:
        userid, queryid = key
        is_hidden = userid in self.hidden
        row = self.entries[key] | {"userid": userid, "usename": str(userid), "dbid": 1, "toplevel": True}
        row |= {"queryid": None if is_hidden else queryid, "plan_seconds": 0.0}
        row |= {"shared_blks_hit": row["rows"], "shared_blks_read": 1}
        if self.counts_hidden:
            row["pgvigil_hidden"] = int(is_hidden)
        if key in self.malformed:
            row["rows"] = MALFORMED
        return [{**row, "calls": row["calls"] + 5, "rows": 50}, row] if key in self.twins else [row]


def server_of(table: Table) -> FakeServer:
    """A server with this table; every query of our role's is a run of the collector `statements`."""
    server = FakeServer(extensions={"pg_stat_statements": Extension((1, 11), "public")})
    server.on("statements", rows=table.answer)
    server.on("own_texts", rows=table.texts)
    return server


def seen(report: Report) -> dict[str, Any]:
    """What the page says of statements; how many rows were read, and how long that took, is another matter."""
    status = job(report, "statements")
    found = status.samples or Samples()
    values = ([round(value or 0, 9) for value in family.values] for family in found.families)  # added in any order
    families = {f.metric.name: dict(zip(f.labels, v, strict=True)) for f, v in zip(found.families, values, strict=True)}
    rest = (found.rows, found.truncated_rows, found.rejected, found.label_values)
    costs = {name: (round(cost.seconds, 9), cost.blocks) for name, cost in report.costs.items()}
    return {"families": families, "rest": rest, "reason": status.reason, "costs": costs}


async def settled(*targets: Target) -> None:
    """Scrape until only rows that change are read whole."""
    for _ in range(2):
        for target in targets:
            await target.scrape(10)
        await asyncio.sleep(30)


keys = st.sampled_from(KEYS)
call = st.tuples(st.just("call"), keys, st.integers(1, 3), st.integers(0, 9))
plan, evict, replace = (st.tuples(st.just(what), keys) for what in ("plan", "evict", "replace"))
reset = st.just(("reset",))
odd = st.one_of(
    st.tuples(st.just("hide"), st.sampled_from([ROLE, 11])),
    st.just(("lose",)),
    st.tuples(st.just("repeat"), keys),
    st.tuples(st.just("spoil"), st.sampled_from(KEYS[10:])),  # our own are counted as costs too, and are numbers
)
change = st.one_of(call, call, call, call, plan, plan, evict, evict, replace, replace, reset)
few = st.lists(st.one_of(change, change, odd), max_size=6)


def played(table: Table, steps: Sequence[tuple[Any, ...]]) -> None:
    """Let these things happen to a table."""
    for what, *arguments in steps:
        getattr(table, what)(*arguments)


@given(
    history=st.lists(st.tuples(st.floats(15, 2000), few), max_size=12),
    has_generation=st.booleans(),
    counts_hidden=st.booleans(),
    has_texts=st.booleans(),
)
@settings(max_examples=examples(250), deadline=None)
def test_the_page_is_that_of_reading_all_rows_whole(
    history: Sequence[tuple[float, Sequence[tuple[Any, ...]]]],
    has_generation: bool,
    counts_hidden: bool,
    has_texts: bool,
) -> None:
    table = Table(has_generation, counts_hidden, has_texts=has_texts)
    played(table, [("call", key) for key in KEYS])  # so that a few that change are not many

    async def scenario() -> None:
        async with (
            scraping(server_of(table), statements(is_narrow=True)) as narrow,
            scraping(server_of(table), statements(is_narrow=False)) as whole,
        ):
            await settled(narrow, whole)
            for pause, steps in history:
                played(table, steps)
                assert seen(await narrow.scrape(10)) == seen(await whole.scrape(10))
                await asyncio.sleep(pause)

    in_virtual_time(scenario())


@given(history=st.lists(st.tuples(st.lists(change, max_size=8), st.lists(change, max_size=4)), max_size=12))
@settings(max_examples=examples(250), deadline=None)
def test_whatever_happens_between_the_two_statements_the_parts_add_up_and_nothing_falls(
    history: Sequence[tuple[Sequence[tuple[Any, ...]], Sequence[tuple[Any, ...]]]],
) -> None:
    table = Table()
    played(table, [("call", key) for key in KEYS])

    async def scenario() -> None:
        before: dict[str, Any] = {}
        async with scraping(server_of(table), statements(is_narrow=True)) as target:
            await settled(target)
            for steps, meanwhile in [*history, ((), ()), ((), ())]:
                played(table, steps)
                table.between = lambda meanwhile=meanwhile: played(table, meanwhile)  # type: ignore[misc]
                found = seen(await target.scrape(10))["families"]
                for column in SUMMED:
                    [total], parts = found[f"pg_all_{column}_total"].values(), found[f"pg_{column}_total"]
                    assert total == sum(parts.values())
                    assert total <= table.done[column]
                    was = before.get(f"pg_{column}_total", {})
                    assert all(parts[labels] >= value for labels, value in was.items() if labels in parts)
                before = found
                await asyncio.sleep(30)
        lossless = {"call", "plan"}
        if all(what in lossless for steps in history for part in steps for what, *_ in part):
            assert {column: sum(found[f"pg_{column}_total"].values()) for column in SUMMED} == {
                column: table.done[column] for column in SUMMED
            }

    in_virtual_time(scenario())


def test_what_is_read_is_in_proportion_to_what_changed() -> None:
    """All at first; nothing more while nothing changed or a row went; all at once when many change each time."""
    table = Table()
    played(table, [("call", key) for key in KEYS])
    steps: list[tuple[Sequence[tuple[Any, ...]], list[bool]]] = [
        ((), [False]),
        ((), [False]),
        ([("call", KEYS[0])], [False, True]),
        ([("evict", KEYS[0])], [False]),
        ([("call", key) for key in KEYS], [False, True]),
        ([("call", key) for key in KEYS], [False]),
        ([("call", KEYS[0])], [False]),
        ([("call", KEYS[0])], [False, True]),
    ]

    async def scenario() -> None:
        async with scraping(server_of(table), statements(is_narrow=True)) as target:
            for happens, asked in steps:
                played(table, happens)
                table.asked.clear()
                report = await target.scrape(10)
                assert table.asked == asked
                await asyncio.sleep(30)
            assert job(report, "statements").returned_rows == 20 + 20 + (20 + 2) + 19 + (20 + 20) + 20 + 20 + (20 + 2)

    in_virtual_time(scenario())


@pytest.mark.parametrize("failing", [0, 1])
def test_a_statement_of_the_two_that_fails_fails_the_collector_and_loses_nothing(failing: int) -> None:
    table = Table()
    played(table, [("call", key) for key in KEYS])

    def broken(*wanted: Sequence[str]) -> list[Mapping[str, Any]]:
        if len(wanted) == failing:
            raise QueryError("lock_timeout", "no")
        return table.answer(*wanted)

    async def scenario() -> None:
        server = server_of(table)
        async with scraping(server, statements(is_narrow=True)) as target:
            await settled(target)
            table.call(KEYS[0])
            server.on("statements", rows=broken)
            failed = job(await target.scrape(10), "statements")
            assert (failed.success, failed.reason) == (False, "lock_timeout")
            await asyncio.sleep(300)
            server.on("statements", rows=table.answer)
            report = await target.scrape(10)
            assert seen(report)["families"]["pg_all_calls_total"] == {"": len(KEYS) + 1}

    in_virtual_time(scenario())


@pytest.mark.parametrize("hanging", [0, 1])
def test_a_statement_of_the_two_that_hangs_suspends_its_own_collector(hanging: int) -> None:
    table = Table()
    played(table, [("call", key) for key in KEYS])

    async def scenario() -> None:
        server = server_of(table)

        def then_hangs(*wanted: Sequence[str]) -> list[Mapping[str, Any]]:
            server.on("statements", hangs=True)
            return table.answer(*wanted)

        async with scraping(server, statements(is_narrow=True), collector("other")) as target:
            await settled(target)
            table.call(KEYS[0])
            server.on("statements", **({"rows": then_hangs} if hanging else {"hangs": True}))
            report = await target.scrape(30)
            assert job(report, "statements").next_run_why == "suspended"
            assert job(report, "other").success

    in_virtual_time(scenario())
