"""Has PostgreSQL write the text of a label, whatever the type of its column. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.sql import quoted, without_end

PLAIN_TYPES = frozenset({16, 19, 20, 21, 23, 25, 26, 114, 142, 705, 1043, 2278})
"""OIDs of bool, name, int8, int2, int4, text, oid, json, xml, unknown, varchar and void, whose text needs no cast.

The driver returns a str, an int or a bool for them.
"""

_TIMES = frozenset({1082, 1114, 1184})
"""OIDs of date, timestamp and timestamptz."""

_TAG = re.compile(r"/\* pgvigil:\w+ \*/\s*\Z")


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a query that are labels: PostgreSQL writes their text, since every type has its own rules."""

    names: frozenset[str]
    also_values: frozenset[str] = frozenset()
    """Those whose value is needed beside its text, which then is in a column of its own."""
    times_as_seconds: bool = False
    """Whether a date or a time is written in whole Unix seconds, as postgres_exporter has it."""

    def query(self, sql: str, columns: Sequence[tuple[str, int]]) -> str:
        """Write the query so that it returns text where the driver would return something else.

        Args:
            sql: the query.
            columns: name and type OID of each of its columns, in order.

        """
        if all(name not in self.names or oid in PLAIN_TYPES for name, oid in columns):
            return sql
        tag = _TAG.search(sql)
        written = ",\n       ".join(
            part for i, (name, oid) in enumerate(columns) for part in self._column(i, name, oid)
        )
        aliases = ", ".join(f"c{i}" for i in range(len(columns)))
        return (
            f"SELECT {written}\n  FROM (\n{without_end(sql)}\n) AS labelled ({aliases})"  # noqa: S608  # quoted
            f"{chr(10) + tag[0] if tag else ''}"
        )

    def _column(self, place: int, name: str, oid: int) -> list[str]:
        value = f"c{place} AS {quoted(name)}"
        if name not in self.names or oid in PLAIN_TYPES:
            return [value]
        text = f"CAST(c{place} AS pg_catalog.text)"
        if oid in _TIMES and self.times_as_seconds:
            seconds = f"CAST(CAST(floor(extract(epoch FROM c{place})) AS int8) AS pg_catalog.text)"
            text = f"CASE WHEN isfinite(c{place}) THEN {seconds} ELSE {text} END"
        both = name in self.also_values
        return [*([value] if both else []), f"{text} AS {quoted(text_column(name) if both else name)}"]


def text_column(label: str) -> str:
    """Name the column that has the text of a label whose own column has its value."""
    return f"pgvigil_text_{label}"
