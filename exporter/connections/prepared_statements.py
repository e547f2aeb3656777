"""The prepared statements of one connection, each for one query."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg

from exporter.connections.session import Answer
from exporter.planning.label_columns import LabelColumns

Column = tuple[str, int]
"""Name and type OID."""


class PreparedStatements:
    """Prepares each query once, and anew where its columns have changed."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._alone: dict[str, Any] = {}
        """Query -> its prepared statement."""
        self._columns: dict[str, Sequence[Column]] = {}
        """Query -> its columns; none where it was prepared with casts."""

    async def run(self, sql: str, args: Sequence[Any], labels: LabelColumns | None, most_rows: int) -> Answer:
        """Run a query by its prepared statement; where its columns have changed, by a new one."""
        try:
            return await self._rows(sql, args, labels, most_rows)
        except (asyncpg.InvalidCachedStatementError, asyncpg.InvalidColumnReferenceError):
            if self._alone.pop(sql, None) is None:
                raise
            answer = await self._rows(sql, args, labels, most_rows)
            return replace(answer, round_trips=answer.round_trips + 1)
        except asyncpg.OutdatedSchemaCacheError:
            self._alone.clear()  # the driver refuses statements of before
            raise

    async def _rows(self, sql: str, args: Sequence[Any], labels: LabelColumns | None, most_rows: int) -> Answer:
        statement, round_trips = await self._statement(sql, labels)
        fetch = statement._PreparedStatement__bind_execute  # noqa: SLF001  # the driver's fetch() has no limit
        rows: list[Any] = await fetch(args, most_rows + 1, None)
        return Answer(rows[:most_rows], round_trips + 1, is_cut=len(rows) > most_rows)

    async def _statement(self, sql: str, labels: LabelColumns | None) -> tuple[Any, int]:
        """Prepare a query once, with casts of the labels that need one; return how many round trips that took."""
        if found := self._alone.get(sql):
            return found, 0
        round_trips, statement = 1, await self._connection.prepare(sql)
        columns = [(attribute.name, attribute.type.oid) for attribute in statement.get_attributes()]
        self._columns[sql] = columns
        if labels and labels.names and (written := labels.query(sql, columns)) != sql:
            round_trips, statement = 2, await self._connection.prepare(written)
            self._columns[sql] = ()
        self._alone[sql] = statement
        return statement, round_trips

    def columns_as_asked(self, sql: str) -> Sequence[Column]:
        """List the columns of a query that was prepared as it is; none where it was not."""
        return self._columns.get(sql, ())
