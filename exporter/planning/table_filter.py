"""Chooses the tables that get rows in collectors about tables, by the user's shell patterns. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.sql import literal, quoted, without_end

_PART = re.compile(r"(?P<any>\*+)|(?P<one>\?)|\[(?P<none>!?)(?P<of>.[^]]*)\]|(?P<plain>.)", re.DOTALL)


@dataclass(frozen=True)
class TableFilter:
    """Those that match a pattern to include, all where there is none, less those that match one to exclude.

    A pattern with a dot is of schema and table (`audit.*`), another of a table in whatever schema (`tmp_*`).
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def over(self, sql: str, column: str) -> str:
        """Keep the rows of a query whose table is chosen, in their order.

        Args:
            sql: the query.
            column: the one with the OID of a row's table. A row without one stays, as one about what is hidden does.

        """
        conditions = [_matches(self.include)] if self.include else []
        conditions += [f"NOT {_matches(self.exclude)}"] if self.exclude else []
        if not conditions:
            return sql
        table = f"rows.{quoted(column)}"
        return (
            f"SELECT rows.*\n  FROM (\n{without_end(sql)}\n) AS rows\n"  # noqa: S608  # names and patterns are quoted
            f" WHERE {table} IS NULL\n"
            f"    OR {table} IN (SELECT c.oid\n"
            "                     FROM pg_catalog.pg_class AS c\n"
            "                     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace\n"
            f"                    WHERE {' AND '.join(conditions)})"
        )


def _matches(patterns: tuple[str, ...]) -> str:
    """Write a condition on `n` and `c`: a table alone may have a dot in its name."""
    of_names = {
        "(n.nspname || '.' || c.relname)": [pattern for pattern in patterns if "." in pattern],
        "c.relname": [pattern for pattern in patterns if "." not in pattern],
    }
    found = [f"{name} ~ {literal(_regular_expression(each))}" for name, each in of_names.items() if each]
    return f"({' OR '.join(found)})"


def _regular_expression(patterns: Sequence[str]) -> str:
    """Translate shell patterns into a regular expression of PostgreSQL's that matches a whole name."""
    return f"^(?:{'|'.join(_PART.sub(_translated, pattern) for pattern in patterns)})$"


def _translated(part: re.Match[str]) -> str:
    if part["any"]:
        return ".*"
    if part["one"]:
        return "."
    if part["of"]:
        one_of = re.sub(r"[\[\\^]", r"\\\g<0>", part["of"])
        return f"[^{one_of}]" if part["none"] else f"[{one_of}]"
    plain = part["plain"]
    return f"\\{plain}" if plain.isascii() and not plain.isalnum() else plain
