"""Server cost of our own statements, by collector, as pg_stat_statements counts it."""

import re
import sys
from collections.abc import Collection, Hashable, Mapping

from exporter.planning.oid_names import Names
from exporter.report import ServerCost
from exporter.samples.ledger import Key, Ledger, Row
from exporter.samples.model import Columns
from exporter.sql import signed

OUR_TEXTS = signed(
    """
SELECT queryid,
       right(query, 100) AS query
  FROM {schema}.pg_stat_statements(true)
 WHERE userid = $1::oid
   AND queryid = ANY ($2::text[]::bigint[])
""",
    "own_texts",
)
"""Reads the file of texts, so it runs only when a statement of ours turns up that is not known yet.

The ids come as texts: the driver knows what an array of text is, and would ask the server in the same transaction what
one of bigint is.
"""

LOOK_EVERY_SECONDS = 300.0
"""Least interval between look-ups of an unknown statement of our role, in seconds."""

_Statement = tuple[int, int, bool, float]
"""Its database, query, level and generation."""

_BLOCKS = ("shared_blks_hit", "shared_blks_read")


class ServerCosts:
    """Remembers which statement belongs to which collector, and adds up what they cost, also over resets."""

    def __init__(self) -> None:
        self._ledger = Ledger(size=sys.maxsize, width=2, rank=0)
        self._collectors: dict[int, str] = {}
        self._asked: dict[int, float] = {}
        self._costs: Mapping[tuple[str, str], ServerCost] = {}
        self._rows: dict[_Statement, Row] = {}
        """What each statement of our role stands at."""
        self.own: frozenset[int] = frozenset()
        """Query identifiers of the statements that are known as ours."""

    def see(self, table: Columns, role: int, stale: Columns | None) -> None:
        """Note what the statements of our role stand at.

        Args:
            table: what has been read whole.
            role: the OID of our role.
            stale: the keys of rows seen before that have changed or are gone; None for all.

        """
        if stale is None:
            self._rows = {}
        for _, key in _ours(stale or {}, role):
            self._rows.pop(key, None)
        for i, key in _ours(table, role):
            seconds = table["exec_seconds"][i] + table["plan_seconds"][i]
            self._rows[key] = (seconds, sum(table[column][i] for column in _BLOCKS))

    def missing(self, now: float) -> list[int]:
        """Select the statements of our role that are unknown and were not asked for within LOOK_EVERY_SECONDS."""
        ours = {queryid for _, queryid, *_ in self._rows} - self._collectors.keys()
        self._asked = {queryid: at for queryid, at in self._asked.items() if queryid in ours}
        new = [queryid for queryid in ours if now - self._asked.get(queryid, float("-inf")) >= LOOK_EVERY_SECONDS]
        self._asked |= dict.fromkeys(new, now)
        return sorted(new)

    def learn(self, texts: Mapping[int, str | None]) -> None:
        """Read from the comment at its end which collector a statement belongs to."""
        for queryid, text in texts.items():
            if found := re.search(r"/\* pgvigil:(\w+) \*/\s*$", text or ""):
                self._collectors[queryid] = found[1]
        self.own = frozenset(self._collectors)

    def update(self, names: Names, per_database: Collection[str], now: float) -> None:
        """Count what the statements of our role have cost since the last look."""
        rows: dict[Key, Row] = {}
        parts: dict[Key, Key] = {}
        for key, counts in self._rows.items():
            dbid, queryid, *_ = key
            if collector := self._collectors.get(queryid):
                rows[key] = counts
                parts[key] = (collector, dbid if collector in per_database else 0)
        members = self._ledger.update(rows, now, parts).members
        labels = [_label(part, names) for part in members]
        self._costs = {
            label: ServerCost(float(seconds), int(blocks))
            for label, (seconds, blocks) in zip(labels, members.values(), strict=True)
        }

    @property
    def all(self) -> Mapping[tuple[str, str], ServerCost]:
        """The costs by collector and database; no database for what is asked once for the whole server."""
        return self._costs


def _label(part: Hashable, names: Names) -> tuple[str, str]:
    collector, dbid = part if isinstance(part, tuple) else (part, 0)
    return str(collector), names.text("database", [dbid])[0]


def _ours(table: Columns, role: int) -> list[tuple[int, _Statement]]:
    """List the places and keys of our role's statements."""
    if not table:
        return []
    keys = zip(*(table[column] for column in ("dbid", "queryid", "toplevel", "generation")), strict=True)
    return [
        (i, key)
        for i, (userid, key) in enumerate(zip(table["userid"], keys, strict=True))
        if userid == role and key[1] is not None
    ]
