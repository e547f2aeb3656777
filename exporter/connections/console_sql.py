"""Runs a collector's SQL, with SQLite, on the answers of PgBouncer's console, which cannot calculate. Pure."""

import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from exporter.errors import QueryError
from exporter.sql import quoted

_TABLE = re.compile(r"\bshow_([a-z_]+)")
"""`show_pools` in a query is a table that holds the answer of SHOW POOLS."""

_LARGEST_INTEGER = 2**63 - 1
"""Largest whole number of SQLite; PgBouncer's counters reach twice that."""

_STEPS_BETWEEN_CHECKS = 1000
"""Virtual machine steps of SQLite between two checks of the deadline."""

Value = int | float | str | None


@dataclass(frozen=True)
class Shown:
    """The answer of one SHOW command."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


def commands(sql: str) -> tuple[str, ...]:
    """Name the SHOW commands that a query needs: `pools` for SHOW POOLS."""
    return tuple(dict.fromkeys(_TABLE.findall(sql)))


def rows(sql: str, shown: Mapping[str, Shown], seconds: float, most: int) -> list[sqlite3.Row]:
    """Run a query on these answers, and read so many rows at most; QueryError says why there are none."""
    give_up = time.monotonic() + seconds
    with closing(sqlite3.connect(":memory:")) as memory:
        memory.row_factory = sqlite3.Row
        memory.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # so that no query reaches a file
        memory.set_progress_handler(lambda: time.monotonic() > give_up, _STEPS_BETWEEN_CHECKS)
        try:
            for name, answer in shown.items():
                _fill(memory, f"show_{name}", answer)
            return memory.execute(sql).fetchmany(most)
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
    return float(value) if isinstance(value, int) and value > _LARGEST_INTEGER else value
