"""Has PostgreSQL write the text of a label, whatever the type of its column. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from exporter.sql import quoted, without_end

PLAIN_TYPES = frozenset({16, 19, 20, 21, 23, 25, 26, 114, 142, 705, 1043, 2278})
"""OIDs of bool, name, int8, int2, int4, text, oid, json, xml, unknown, varchar and void, whose text needs no cast.

The driver returns a str, an int or a bool for them.
"""

_TIMES = frozenset({1082, 1114, 1184})
"""OIDs of date, timestamp and timestamptz."""

_INTERVAL = 1186

_TAG = re.compile(r"/\* pgvigil:\w+ \*/\s*\Z")


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a query that are labels: PostgreSQL writes their text, since every type has its own rules."""

    names: frozenset[str]
    values: frozenset[str] = frozenset()
    """Columns whose value is needed. The text of one that is a label too is in a column of its own."""
    is_lenient: bool = False
    """True if dates, times and intervals become seconds, as in postgres_exporter, and no other column is read.

    The driver has no value for the year 20000, which would cost the whole answer.
    """

    @classmethod
    @lru_cache(1024)
    def of(cls, names: frozenset[str], values: frozenset[str], is_lenient: bool) -> "LabelColumns":
        """Return the same object for the same columns, for the jobs of all targets and databases to share."""
        return cls(names, values, is_lenient)

    def query(self, sql: str, columns: Sequence[tuple[str, int]]) -> str:
        """Write the query so that it returns text where the driver would return something else.

        Args:
            sql: the query.
            columns: name and type OID of each of its columns, in order.

        """
        parts = [(f"c{i} AS {quoted(name)}", self._column(f"c{i}", name, oid)) for i, (name, oid) in enumerate(columns)]
        written = ",\n       ".join(part for _, column in parts for part in column)
        if not written or all(column == [plain] for plain, column in parts):
            return sql
        tag = _TAG.search(sql)
        aliases = ", ".join(f"c{i}" for i in range(len(columns)))
        return (
            f"SELECT {written}\n  FROM (\n{without_end(sql)}\n) AS labelled ({aliases})"  # noqa: S608  # quoted
            f"{chr(10) + tag[0] if tag else ''}"
        )

    def _column(self, value: str, name: str, oid: int) -> list[str]:
        """Write what is selected of one column: its value, its text, both or nothing."""
        plain, is_value = f"{value} AS {quoted(name)}", name in self.values
        if name not in self.names:
            if not self.is_lenient:
                return [plain]
            is_ours = name.startswith("pgvigil_")
            return [f"{self._seconds(value, oid)} AS {quoted(name)}"] if is_value or is_ours else []
        if oid in PLAIN_TYPES:
            return [plain]
        text = f"CAST({value} AS pg_catalog.text)"
        if self.is_lenient and oid in _TIMES:
            seconds = f"CAST(CAST(floor(extract(epoch FROM {value})) AS int8) AS pg_catalog.text)"
            text = f"CASE WHEN isfinite({value}) THEN {seconds} ELSE {text} END"
        return [plain, f"{text} AS {quoted(text_column(name))}"] if is_value else [f"{text} AS {quoted(name)}"]

    def _seconds(self, value: str, oid: int) -> str:
        if oid == _INTERVAL:
            return f"CAST(extract(epoch FROM {value}) AS float8)"
        return f"CAST(floor(extract(epoch FROM {value})) AS float8)" if oid in _TIMES else value


def text_column(label: str) -> str:
    """Name the column that has the text of a label whose own column has its value."""
    return f"pgvigil_text_{label}"
