"""Asks the console of PgBouncer: shows what collectors ask for, within bounds."""

import asyncio
import re
import time
from collections.abc import Generator, Iterable
from typing import Any

import psycopg
from psycopg import generators, pq, waiting

from exporter.connections.console_sql import Shown, Value, commands, rows
from exporter.connections.place import Place
from exporter.connections.session import (
    MOST_ROWS,
    Answer,
    Asked,
    Contents,
    Directory,
    Session,
    Stuck,
    Vitals,
)
from exporter.connections.text_codec import decoder
from exporter.errors import (
    DatabaseError,
    ExcessError,
    QueryError,
    QueryReason,
)
from exporter.planning.label_columns import LabelColumns
from exporter.planning.oid_names import Relation

DATABASE = "pgbouncer"
"""The database name that PgBouncer gives its admin console."""

_VITALS_TIMEOUT_SECONDS = 3.0
"""Upper bound on SHOW VERSION: the console answers from memory, so a longer wait means that it hangs."""

_POLL_SECONDS = 1.0
"""Interval at which psycopg checks a silent socket again, beside the wake-up when data arrives."""

_MESSAGE_CHARACTERS = 500
"""Upper bound on a message of PgBouncer or libpq, in characters."""

_INTEGER_OIDS = {20, 21, 23, 1700}
"""bigint, smallint, integer and numeric: the console has whole numbers in all of them."""

_ADMIN_ONLY = "admin access"
"""Words of the message that refuses a command to a user who is not in admin_users."""


class Console(Session):
    """One connection to the console. It takes the simple query protocol only, of which asyncpg returns no rows."""

    _errors = (psycopg.Error, OSError)

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__()
        self._connection = connection
        self._closed = False
        self.pid = connection.pgconn.backend_pid
        self.user = connection.info.user
        self.place = _place(connection.info)

    async def fetch(
        self,
        sql: str,
        timeout: float,
        *args: Any,
        patience: float | None = None,
        search_path: str = "",
        most_rows: int = MOST_ROWS,
        labels: LabelColumns | None = None,
    ) -> Answer:
        """Run the SHOW commands that a query names, then the query on their answers."""
        give_up = time.monotonic() + (timeout if patience is None else patience)
        shown = {name: await self.show(name, give_up - time.monotonic()) for name in commands(sql)}
        found = rows(sql, shown, timeout, most_rows + 1)
        return Answer(found[:most_rows], is_cut=len(found) > most_rows)

    async def show(self, name: str, patience: float) -> Shown:
        """Run one SHOW command."""
        command = f"SHOW {name.upper()}"
        answer: Shown = await self._answered(command, self._ask(command), max(patience, 0.0))
        return answer

    async def vitals(self, timeout: float) -> Vitals:
        """Read the version of PgBouncer."""
        asked_at = time.monotonic()
        shown = await self.show("version", _VITALS_TIMEOUT_SECONDS)
        found = re.search(r"PgBouncer (\d+)\.(\d+)", str(shown.rows[0][0])) if shown.rows else None
        if not found:
            raise QueryError("query", "SHOW VERSION names no PgBouncer of 1.12 or newer")
        return Vitals((int(found[1]), int(found[2])), False, DATABASE, 0, time.monotonic() - asked_at)

    async def directory(self, timeout: float) -> Directory:
        """Return no databases: one console serves all of them."""
        return Directory({}, {}, ())

    async def contents(self, timeout: float) -> Contents:
        """Return no extensions, and that there are tables: no collector has to wait for some."""
        return Contents({}, has_tables=True)

    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Return no relations."""
        return {}

    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Return no process ids: PgBouncer drops a client that has left as soon as it runs again."""
        return set()

    def _is_closed(self) -> bool:
        return self._closed or self._connection.closed

    async def close(self) -> None:
        """Close the connection."""
        self.terminate()

    def terminate(self) -> None:
        """Close the connection, after the event loop has let go of its socket.

        psycopg's own close and cancel are not used: to cancel a query it opens a second connection.
        """
        self._closed = True
        wire = self._connection.pgconn
        if isinstance(self._state, Asked | Stuck) and not self._state.answer.done():
            self._state.answer.add_done_callback(lambda _: wire.finish())
            self._state.answer.cancel()
        else:
            wire.finish()

    async def _ask(self, command: str) -> Shown:
        """Send one command by the simple query protocol and wait for its result.

        These are the steps of `AsyncConnection.execute`, less its reaction to a cancelled wait: a request to cancel
        the query, which takes a second connection.
        """
        wire = self._connection.pgconn
        try:
            wire.send_query(command.encode())
            wire.set_single_row_mode()
            return await waiting.wait_async(self._rows(wire), wire.socket, _POLL_SECONDS)
        except asyncio.CancelledError:
            if self._closed:
                raise psycopg.OperationalError("the connection was closed on this side") from None
            raise
        except ExcessError:
            self.terminate()
            raise
        except ValueError as error:
            self.terminate()
            raise QueryError("query", f"{command} returned a number that is none") from error

    def _rows(self, wire: pq.abc.PGconn) -> Generator[Any, Any, Shown]:
        """Read an answer row by row, so that one without an end is noticed; libpq would collect all of it."""
        columns: tuple[str, ...] = ()
        found: list[tuple[Value, ...]] = []
        refusal: QueryError | None = None
        yield from generators.send(wire)
        while (result := (yield from generators.fetch(wire))) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                refusal = refusal or self._refusal(result)
                continue
            part = _shown(result)
            columns = columns or part.columns
            found += part.rows
            if len(found) > MOST_ROWS:
                raise ExcessError(f"the console sends more than {MOST_ROWS} rows")
        if refusal:
            raise refusal
        return Shown(columns, tuple(found))

    def _refusal(self, result: pq.abc.PGresult) -> QueryError:
        message = result.get_error_message().strip()[:_MESSAGE_CHARACTERS]
        reason: QueryReason = "permission" if _ADMIN_ONLY in message else "query"
        return QueryError("connection" if self.is_lost else reason, message)

    def _translated(self, error: Exception) -> DatabaseError:
        self.terminate()
        return QueryError("connection", said(error))


def _shown(result: pq.abc.PGresult) -> Shown:
    columns = range(result.nfields)
    numbers = [result.ftype(column) in _INTEGER_OIDS for column in columns]
    return Shown(
        tuple((result.fname(column) or b"").decode(errors="replace") for column in columns),
        tuple(
            tuple(_value(result.get_value(row, column), numbers[column]) for column in columns)
            for row in range(result.ntuples)
        ),
    )


def _value(found: bytes | None, number: bool) -> Value:
    if found is None:
        return None
    return int(found) if number else decoder()(bytes(found))


def said(error: Exception) -> str:
    """Return the first line of a driver's error, bounded in length."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_MESSAGE_CHARACTERS]


def _place(info: psycopg.ConnectionInfo) -> Place:
    """Return which of several servers libpq chose; it knows the address of one that was looked up."""
    return Place(info.host, str(info.port), "" if info.host.startswith(("/", "@")) else info.hostaddr)
