"""Runs a collector's SQL on what PgBouncer's console shows, which cannot calculate itself. Pure."""

import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from exporter.errors import QueryError
from exporter.sql import quoted

_TABLE = re.compile(r"\bshow_([a-z_]+)")
"""`show_pools` in a query is the table of what SHOW POOLS answers."""

_MOST = 2**63 - 1
"""SQLite's largest whole number; PgBouncer counts to twice as many."""

_STEPS = 1000
"""Of SQLite, between two looks at the clock."""

Value = int | float | str | None


@dataclass(frozen=True)
class Shown:
    """What one SHOW command answered."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


def commands(sql: str) -> tuple[str, ...]:
    """Name what a query wants to be shown: `pools` for SHOW POOLS."""
    return tuple(dict.fromkeys(_TABLE.findall(sql)))


def rows(sql: str, shown: Mapping[str, Shown], seconds: float) -> list[sqlite3.Row]:
    """Run a query on what was shown; QueryError says why there are no rows."""
    give_up = time.monotonic() + seconds
    with closing(sqlite3.connect(":memory:")) as memory:
        memory.row_factory = sqlite3.Row
        memory.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # so that no query reaches a file
        memory.set_progress_handler(lambda: time.monotonic() > give_up, _STEPS)
        try:
            for name, answer in shown.items():
                _fill(memory, f"show_{name}", answer)
            return memory.execute(sql).fetchall()
        except sqlite3.Error as error:
            late = time.monotonic() > give_up
            raise QueryError("timeout" if late else "query", str(error)) from error


def _fill(memory: sqlite3.Connection, table: str, answer: Shown) -> None:
    columns = ", ".join(map(quoted, answer.columns))
    places = ", ".join("?" * len(answer.columns))
    memory.execute(f"CREATE TABLE {table} ({columns})")
    fitting = (tuple(map(_fitting, row)) for row in answer.rows)
    memory.executemany(f"INSERT INTO {table} VALUES ({places})", fitting)  # noqa: S608  # the name is a word


def _fitting(value: Value) -> Value:
    return float(value) if isinstance(value, int) and value > _MOST else value
