"""Asks several queries by one statement: one round trip, and one read of the sources that they share.

Each answer comes as JSON, column by column, since a statement has but one shape of rows. So only columns take part
whose JSON is what the driver would have returned.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from exporter.catalog.sources import with_clause
from exporter.connections.prepared_statements import Column, PreparedStatements
from exporter.connections.session import Answer, Known, Question
from exporter.connections.text_codec import reads_utf8
from exporter.errors import QueryError
from exporter.samples.model import Columns
from exporter.sql import quoted, signed, without_end

NAME = "joint"
"""Name of the statement in its comment, and so among the collectors that pg_stat_statements has costs of."""

MOST_ROWS = 10_000
"""Upper bound on the rows of one query: what has more is asked alone."""

_FLOATS = frozenset({701, 1700})
"""OIDs of float8 and numeric."""

_BYTEA = 17
"""OID of bytea, of which JSON has a text that depends on a setting."""

_CASTS = {26: "{}::int8", 1028: "{}::int8[]", _BYTEA: "encode({}, 'hex')"}
"""OIDs of oid, oid[] and bytea, and what is asked in their place."""

_AS_THEY_ARE = frozenset({16, 19, 20, 21, 23, 25, 1043, 1005, 1007, 1016}) | _FLOATS | _CASTS.keys()
"""OIDs of the types that may take part: bool, name, int8, int2, int4, text, varchar, arrays of integers, and these."""


_MOST_PREPARED = 8
"""Upper bound on the statements that are kept prepared: one for each group of queries that are due together."""


class JointStatements:
    """The statements of one connection that ask several queries, each prepared once."""

    def __init__(self, connection: Any, alone: PreparedStatements) -> None:
        self._connection = connection
        self._alone = alone
        self._is_utf8 = reads_utf8(connection.get_settings().server_encoding)
        """False where a byte that is not in the encoding would cost more than its own text."""
        self._prepared: dict[tuple[str, ...], Any] = {}

    def can_ask(self, sql: str) -> bool:
        """Return whether a query may be one of several: it has been asked alone, and its columns are right as JSON."""
        columns = self._alone.columns_as_asked(sql)
        is_plain = {oid for _, oid in columns} <= _AS_THEY_ARE
        return self._is_utf8 and is_plain and 0 < len(columns) == len(dict(columns))

    async def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Ask several queries; QueryError when one of them has more rows than MOST_ROWS."""
        key = tuple(question.sql for question in questions)
        columns = [self._alone.columns_as_asked(sql) for sql in key]
        if (statement := self._prepared.pop(key, None)) is None:
            statement = await self._connection.prepare(joint_statement(questions, columns))
        row = await statement.fetchrow()
        self._prepared[key] = statement
        while len(self._prepared) > _MOST_PREPARED:
            del self._prepared[next(iter(self._prepared))]
        return answers(row, columns, [question.known for question in questions])


def joint_statement(questions: Sequence[Question], columns: Sequence[Sequence[Column]]) -> str:
    """Write the statement that asks all questions, given the columns of each."""
    tables = {name: query for question in questions for name, query in question.tables.items()}
    asked = [_answer(place, *each) for place, each in enumerate(zip(questions, columns, strict=True))]
    sql = ",\n".join(["SELECT clock_timestamp() AS began", *asked])
    return signed(f"{with_clause(tables)}{sql}", NAME)


def _answer(place: int, question: Question, columns: Sequence[Column]) -> str:
    """Write the column with the answer to one question, and the one with the time at which it was there."""
    arrays = ", ".join(f"json_agg({_cast(name, oid)}) AS {quoted(name)}" for name, oid in columns)
    return (
        f"(SELECT row_to_json(answer) FROM (SELECT {arrays} FROM (\n"  # noqa: S608  # names are quoted
        f"SELECT * FROM (\n{without_end(question.part)}\n) AS part LIMIT {MOST_ROWS + 1}\n"
        f") AS part) AS answer) AS answer_{place},\nclock_timestamp() AS ended_{place}"
    )


def _cast(name: str, oid: int) -> str:
    return _CASTS.get(oid, "{}").format(f"part.{quoted(name)}")


def answers(
    row: Mapping[str, Any], columns: Sequence[Sequence[Column]], known: Sequence[Known | None] = ()
) -> list[Answer]:
    """Read the answers, in the order of the questions; QueryError when one has more rows than MOST_ROWS.

    One that is known is recognised by its text, and not read.
    """
    found, began = [], row["began"]
    for place, (of_one, before) in enumerate(zip_longest(columns, known)):
        text, ended = row[f"answer_{place}"], row[f"ended_{place}"]
        seconds = (ended - began).total_seconds()
        began, fingerprint = ended, hash(text)
        if before and before.fingerprint == fingerprint:
            found.append(Answer(range(before.rows), seconds=seconds, fingerprint=fingerprint, is_known=True))
        else:
            table, rows = _table(text, of_one)
            found.append(Answer(range(rows), table=table, seconds=seconds, fingerprint=fingerprint))
    return found


def _table(text: str, columns: Sequence[Column]) -> tuple[Columns, int]:
    """Read one answer as columns, and count its rows."""
    table = json.loads(text)
    rows = len(table[columns[0][0]] or ())
    if rows > MOST_ROWS:
        raise QueryError("query", f"more than {MOST_ROWS} rows")
    for name, oid in columns if rows else ():
        if oid in _FLOATS:  # "NaN" is a text in JSON, and 1.0 is 1
            table[name] = [None if value is None else float(value) for value in table[name]]
        elif oid == _BYTEA:
            table[name] = [None if value is None else bytes.fromhex(value) for value in table[name]]
    return (table if rows else {}), rows
