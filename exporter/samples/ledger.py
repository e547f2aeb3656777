"""The ledger: rows that come, go and start again from zero, kept as counters that add up."""

import heapq
import sys
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, itemgetter, sub
from typing import Any

from exporter.catalog.model import LedgerKey
from exporter.planning.oid_names import Names
from exporter.planning.plan import Job
from exporter.samples.convert import columns, numbers
from exporter.samples.label_values import escaped, label_values
from exporter.samples.model import Columns, Family, Number, Rest, Samples
from exporter.samples.shared_series import OTHER, OWN, SharedSeries

HALF_LIFE_SECONDS = 900.0
"""In this time what a part once spent loses half of its weight in the choice of members."""

HYSTERESIS = 2.0
"""A part becomes a member only when it weighs this many times as much as the member whose place it takes."""

BUSY_RATIO = 0.25
"""Share of changed rows beyond which all are read whole: two statements would then cost the server a fifth more."""

HIDDEN_ROWS = 10_000
"""The most absent rows that are remembered because they may be behind unreadable ones."""

Key = tuple[Hashable, ...]
Counts = tuple[Number, ...]
Row = tuple[Number | None, ...]


@dataclass(frozen=True)
class Account:
    """The ledger at one moment: `sum(members) + own + other == total` in each column, and none of them ever falls."""

    members: Mapping[Hashable, Counts]
    own: Counts
    other: Counts
    total: Counts


class Ledger:
    """Accumulates what rows grow by, for a bounded and sticky set of members and one remainder.

    A row whose counters fell was reset and counts from zero; a row that is gone was evicted and keeps what it had.
    A row that is there but cannot be read is not gone. So that nothing is counted twice, an absent row is remembered
    while it may be one of those: while an unreadable key agrees with its own in all that can be read.
    Members are the parts that grew most in the last quarters of an hour: `rank` says in which column. The parts OWN and
    OTHER never become members.
    """

    def __init__(self, size: int, width: int, rank: int) -> None:
        self._size = size
        self._rank = rank
        self._rows: dict[Key, tuple[Row, Hashable]] = {}
        """The rows of the last look that could be read: their counters and their part."""
        self._hidden: dict[Key, Row] = {}
        """Rows of before that may be among the unreadable."""
        self._weights: dict[Hashable, float] = {}
        self._members: dict[Hashable, Counts] = {}
        self._shared: dict[Hashable, Counts] = dict.fromkeys((OWN, OTHER), (0,) * width)
        self._total: Counts = (0,) * width
        self._looked_at: float | None = None
        self._source: Hashable = None
        self._is_busy = False
        self.left_out = 0
        """Number of parts that were there at the last look and are no members, though they might be."""
        self.shared = SharedSeries()
        """The rows that belong to OWN or OTHER."""

    @property
    def rows(self) -> list[Key]:
        """List the rows of the last look."""
        return list(self._rows)

    def move(self, rows: Mapping[Key, str]) -> None:
        """Count rows of the last look for OWN or OTHER from now on."""
        left = {self._rows[row][1]: place for row, place in rows.items()}
        self._rows |= {row: (self._rows[row][0], place) for row, place in rows.items()}
        self._release(left, {part for _, part in self._rows.values()})

    def reads_whole(self, source: Hashable) -> bool:
        """Return whether to read all rows whole: there was no look at this source, or many had changed by the last."""
        return self._is_busy or source != self._source

    def difference(self, marks: Mapping[Key, Row], columns: Sequence[int]) -> tuple[list[Key], list[Key]]:
        """List the rows of the last look that are no longer as they were, and the rows that are new.

        Args:
            marks: what each row says now in some of the columns, at least one of which differs in a changed row.
            columns: the places of these columns.

        """
        picked = itemgetter(*columns) if len(columns) > 1 else lambda row: (row[columns[0]],)
        stale = [row for row, (last, _) in self._rows.items() if marks.get(row) != picked(last)]
        return stale, [row for row in marks if row not in self._rows]

    def update(
        self,
        rows: Mapping[Key, Row],
        now: float,
        part_of: Mapping[Key, Hashable] | None = None,
        unreadable: Collection[Key] = (),
        source: Hashable = None,
        stale: Iterable[Key] | None = None,
        shared: Mapping[Key, str] | None = None,
    ) -> Account:
        """Count what has been added since the last call.

        Args:
            rows: the counters of each row as they stand now; None counts as 0.
            now: a clock in seconds that never goes back.
            part_of: the part (label set) that a row belongs to where that is not the row itself.
            unreadable: the keys of rows left out of `rows`, None in the place of what cannot be read of a key.
            source: where the rows come from; those of another one than before say from where on to count.
            stale: the rows of the last look that are no longer as they were; None for all. The others may be left out
                of `rows`.
            shared: OWN or OTHER for the rows that belong there instead.

        """
        shared = shared or {}
        parts: Mapping[Key, Hashable] = part_of or {row: row for row in rows}
        seen = {row: (counts, shared.get(row, parts[row])) for row, counts in rows.items()}
        if source != self._source and self._looked_at is not None:
            self._rows, self._hidden = dict(seen), {}
        self._source = source
        grown, changed = self._grown(seen)
        self._replace(seen, self._rows if stale is None else stale, unreadable)
        self._is_busy = changed > BUSY_RATIO * len(self._rows)
        present = {part for _, part in self._rows.values()}
        self._release({parts[row]: place for row, place in shared.items()}, present)
        self._weigh(grown, present, now)
        self._elect()
        self.left_out = len(present - self._members.keys() - self._shared.keys())
        for part, growth in grown.items():
            self._add(part, growth)
        return Account(dict(self._members), self._shared[OWN], self._shared[OTHER], self._total)

    def _replace(
        self, seen: Mapping[Key, tuple[Row, Hashable]], stale: Iterable[Key], unreadable: Collection[Key]
    ) -> None:
        """Take the rows that were read, drop those that are gone, and remember those that may be unreadable."""
        gone = [row for row in (*stale, *unreadable) if row not in seen]
        self._hidden |= {row: self._rows.pop(row)[0] for row in gone if row in self._rows}
        self._hidden = {row: self._hidden[row] for row in _hidden(self._hidden, unreadable) if row not in seen}
        self._rows |= seen

    def _grown(self, seen: Mapping[Key, tuple[Row, Hashable]]) -> tuple[dict[Hashable, Counts], int]:
        """Say by how much each part grew, and how many rows changed."""
        grown: dict[Hashable, Counts] = {}
        changed = 0
        for row, (counts, part) in seen.items():
            last, _ = self._rows.get(row) or (self._hidden.get(row), None)
            if counts != last:
                changed += 1
                growth = _growth(counts, last)
                grown[part] = _add(grown[part], growth) if part in grown else growth
        return grown, changed

    def _weigh(self, grown: Mapping[Hashable, Counts], present: set[Hashable], now: float) -> None:
        """Let what was spent before fade, add what has been spent since, and forget the parts that are gone."""
        spent = {part: float(growth[self._rank]) for part, growth in grown.items() if part not in self._shared}
        # What was spent before the first look is of unknown age: it orders the parts, and anything newer outweighs it.
        scale = 1.0 if self._looked_at is not None else 1.0 / (sum(spent.values()) or 1.0)
        fading = 0.5 ** ((now - (self._looked_at if self._looked_at is not None else now)) / HALF_LIFE_SECONDS)
        self._looked_at = now
        weights = self._weights
        self._weights = {p: w * fading for p, w in weights.items() if p in present or p in self._members}
        for part, seconds in spent.items():
            self._weights[part] = self._weights.get(part, 0.0) + seconds * scale

    def _elect(self) -> None:
        """Fill free places by weight, then let much heavier parts take the places of the lightest members."""
        weights, free = self._weights, max(self._size - len(self._members), 0)
        least = -1.0 if free else HYSTERESIS * min(weights.get(p, 0.0) for p in self._members)
        candidates = (p for p, weight in weights.items() if weight > least and p not in self._members)
        outside = heapq.nlargest(self._size, candidates, key=weights.__getitem__)
        for part in outside[:free]:
            self._members[part] = (0,) * len(self._total)
        inside = sorted(self._members, key=lambda p: weights.get(p, 0.0))
        for newcomer, member in zip(outside[free:], inside, strict=False):
            if weights[newcomer] <= HYSTERESIS * weights.get(member, 0.0):
                break
            self._shared[OTHER] = _add(self._shared[OTHER], self._members.pop(member))
            self._members[newcomer] = (0,) * len(self._total)

    def _release(self, parts: Mapping[Hashable, str], present: Collection[Hashable]) -> None:
        """Add members whose rows have all moved to OWN or OTHER to what stands there."""
        for part, place in parts.items():
            if part in self._members and part not in present:
                self._shared[place] = _add(self._shared[place], self._members.pop(part))

    def _add(self, part: Hashable, growth: Counts) -> None:
        self._total = _add(self._total, growth)
        if part in self._members:
            self._members[part] = _add(self._members[part], growth)
        else:
            place = OWN if part == OWN else OTHER
            self._shared[place] = _add(self._shared[place], growth)


def _hidden(absent: Iterable[Key], unreadable: Collection[Key]) -> list[Key]:
    """Select the absent rows, those seen last, that agree with an unreadable key in all but its blanks."""
    blanks = {tuple(column is None for column in key) for key in unreadable}
    keys = set(unreadable)
    return [row for row in absent if any(_blanked(row, blank) in keys for blank in blanks)][-HIDDEN_ROWS:]


def _blanked(row: Key, blank: Sequence[bool]) -> Key:
    return tuple(None if gone else column for column, gone in zip(row, blank, strict=True))


def _growth(row: Row, last: Row | None) -> Counts:
    """Say by how much a row grew; one that fell in any column was reset, and all of it is new."""
    counts = tuple([count or 0 for count in row])
    if last is None:
        return counts
    growth = tuple(map(sub, counts, [then or 0 for then in last]))
    return counts if min(growth) < 0 else growth


def _add(left: Counts, right: Counts) -> Counts:
    return tuple(map(add, left, right))


def new_ledger(job: Job) -> Ledger:
    """Open the ledger that a collector's file asks for."""
    rule, of_metrics = _rule(job)
    return Ledger(size=job.collector.limit or sys.maxsize, width=len(of_metrics), rank=of_metrics.index(rule.rank))


@dataclass(frozen=True)
class Comparison:
    """Difference between the rows as they stand and those of the last look."""

    stale: Sequence[Key]
    """Rows of the last look that have changed or are gone."""
    wanted: Sequence[str] | None
    """Numbers, as text, of the rows that have changed or are new, as far as they have one; None without such rows."""


def compared(job: Job, found: Sequence[Any], ledger: Ledger) -> Comparison:
    """Compare the rows of the narrow query with the last look."""
    rule, of_metrics = _rule(job)
    if not rule.changes:
        raise ValueError(f"{job.collector.name} names no columns in which changes are seen")
    table = columns(found)
    keys = zip(*(table.get(column, ()) for column in rule.key), strict=True)
    values = zip(*(table.get(column, ()) for column in rule.changes.columns), strict=True)
    marks: dict[Key, Row] = dict(zip(keys, values, strict=True))
    stale, new = ledger.difference(marks, [of_metrics.index(column) for column in rule.changes.columns])
    changed = [*(row for row in stale if row in marks), *new]
    place = rule.key.index(rule.changes.by)
    wanted = sorted({str(row[place]) for row in changed if row[place] is not None})
    return Comparison(stale, wanted if changed else None)


def key_columns(job: Job, rows: Sequence[Key]) -> Columns:
    """Turn the keys of some rows into columns by name."""
    rule, _ = _rule(job)
    return dict(zip(rule.key, zip(*rows, strict=True), strict=True)) if rows else {}


def update_ledger(
    job: Job,
    table: Columns,
    names: Names,
    ledger: Ledger,
    now: float,
    stale: Sequence[Key] | None = None,
    shared: SharedSeries | None = None,
) -> Samples:
    """Count the rows of one job: all, or those of the last look that are stale, and new ones.

    Return its members, the rows that share a series (`pgvigil` or `other` in the last label) and the totals.
    """
    if shared and shared != ledger.shared:
        ledger.move(_places(job, ledger.rows, shared))
        ledger.shared = shared
    rows, parts, unreadable = _read(job, table) if table else ({}, {}, [])
    account = ledger.update(rows, now, parts, unreadable, job.sql, stale, _places(job, list(rows), ledger.shared))
    return _samples(job, account, names, ledger.left_out, len(unreadable))


def _places(job: Job, rows: Sequence[Key], shared: SharedSeries) -> dict[Key, str]:
    """Map the rows that share a series to OWN or OTHER."""
    return {rows[i]: place for i, place in shared.places(key_columns(job, rows)).items()}


def _read(job: Job, table: Columns) -> tuple[dict[Key, Row], dict[Key, Hashable], list[Key]]:
    """Take the counters of each row, the part that it belongs to, and the keys that cannot be read."""
    rule, of_metrics = _rule(job)
    values, malformed = numbers(job.metrics, table)
    keys = list(zip(*(table[column] for column in rule.key), strict=True))
    counts = [values.get(column, [None] * len(keys)) for column in of_metrics]
    rows: dict[Key, Row] = dict(zip(keys, zip(*counts, strict=True), strict=True))
    labels = zip(*(table[label] for label in job.collector.labels), strict=True)
    parts: dict[Key, Hashable] = dict(zip(keys, labels, strict=True))
    unreadable = [key for i, key in enumerate(keys) if None in key or i in malformed]
    for key in set(unreadable):
        del rows[key], parts[key]
    return rows, parts, unreadable


def _rule(job: Job) -> tuple[LedgerKey, list[str]]:
    """Give the rule, and the columns of all versions: the ledger outlives an update of the server or the extension."""
    rule = job.collector.ledger
    if rule is None:
        raise ValueError(f"{job.collector.name} keeps no ledger")
    return rule, list(dict.fromkeys(metric.column for metric in job.collector.metrics))


def _samples(job: Job, account: Account, names: Names, left_out: int, unreadable: int) -> Samples:
    _, of_metrics = _rule(job)
    shared = {OWN: account.own} if job.collector.statements else {}
    shared[OTHER] = account.other
    shown = _label_values(job, list(account.members), list(shared), names)
    pairs = [[f'{label}="{text}"' for text in escaped(list(shown[label]))] for label in job.collector.labels]
    labels = [",".join(row) for row in zip(*pairs, strict=True)]
    counts = zip(*account.members.values(), *shared.values(), strict=True)
    by_column = dict(zip(of_metrics, counts, strict=True))
    totals = dict(zip(of_metrics, account.total, strict=True))
    others = dict(zip(of_metrics, account.other, strict=True))
    families = [Family(metric, labels, by_column[metric.column]) for metric in job.metrics]
    families += [Family(total, [""], [totals[m.column]]) for m in job.metrics if (total := m.in_total())]
    rest = [_rest(m.name, others[m.column], totals[m.column]) for m in job.metrics if m.rest]
    rejected = {"malformed": unreadable} if unreadable else {}
    return Samples(tuple(families), len(labels), left_out, tuple(rest), rejected, shown)


def _label_values(job: Job, parts: Sequence[Any], shared: Sequence[str], names: Names) -> dict[str, Sequence[str]]:
    """Write the labels of some parts, each a tuple of label values, and of the shared series after them."""
    table = dict(zip(job.collector.labels, zip(*parts, strict=True), strict=True)) if parts else {}
    known = label_values(job.collector, table, names)
    *_, last = job.collector.labels
    blank = [""] * len(shared)
    return {label: [*known.get(label, ()), *(shared if label == last else blank)] for label in job.collector.labels}


def _rest(name: str, other: Number, total: Number) -> Rest:
    return Rest(name, float(other), float(total))
