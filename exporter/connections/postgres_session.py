"""Asks PostgreSQL: learns facts, and fetches rows within bounds."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from exporter.connections.discovery_sql import CONTENTS, DIRECTORY, END_ABANDONED, RELATIONS, VITALS
from exporter.connections.failure_reasons import (
    DECODE_ERRORS,
    DRIVER_ERRORS,
    query_reason,
    query_sentence,
)
from exporter.connections.guard_rails import PINNED, assignments
from exporter.connections.inbound import Inbound
from exporter.connections.joint import NAME, JointStatements
from exporter.connections.place import Place
from exporter.connections.prepared_statements import PreparedStatements
from exporter.connections.session import (
    APPLICATION_NAME,
    MOST_ROWS,
    Answer,
    Contents,
    Directory,
    Question,
    Session,
    Vitals,
)
from exporter.connections.text_codec import decoder
from exporter.errors import DatabaseError, ExcessError, QueryError
from exporter.planning.label_columns import LabelColumns
from exporter.planning.oid_names import Relation
from exporter.planning.server import Extension

_PATHS = {PINNED: PINNED, "role": "DEFAULT"}

_PATIENCE_SECONDS = 1.0
"""Seconds beyond statement_timeout that an answer may take before the server counts as hung."""

_PATIENCE_WITH_VITALS_SECONDS = 3.0
"""Seconds to wait for the vitals, which read no catalog: a server that takes longer counts as hung."""

_MOST_NAMES = 500_000
"""Upper bound on the databases and roles that are known by name, databases first."""

_EARLIEST_TIMEOUT = 0.9
"""Share of its timeout after which the end of a query counts as that; two clocks and rounding differ by less."""


class PostgresSession(Session):
    """One connection to PostgreSQL, behind guard rails."""

    _errors = (*DRIVER_ERRORS, *DECODE_ERRORS)

    def __init__(
        self,
        connection: Any,
        inbound: Inbound,
        login_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        spelled: dict[str, str] | None = None,
        place: Place | None = None,
    ) -> None:
        super().__init__(clock)
        self._spelled = {} if spelled is None else spelled
        """Database -> how a login has to spell it."""
        self._connection = connection
        self._inbound = inbound
        self.login_seconds = login_seconds
        self.certificate_expires_at = inbound.certificate_expires_at
        self.place = place
        self.pid: int = connection.get_server_pid()
        self._set: dict[str, str] = {"search_path": PINNED}
        self._statements = PreparedStatements(connection)
        self._joint = JointStatements(connection, self._statements)
        self._timeout = 0.0
        """The latest statement_timeout, in seconds."""
        self._times_out_at = float("inf")
        """Clock time from which statement_timeout may end the query, in seconds."""

    async def fetch(
        self,
        sql: str,
        timeout: float,
        *args: Any,
        patience: float | None = None,
        search_path: str = PINNED,
        most_rows: int = MOST_ROWS,
        labels: LabelColumns | None = None,
    ) -> Answer:
        """Run one query; the server ends it after the timeout, and stops at one row more than may be read."""
        patience = timeout + _PATIENCE_SECONDS if patience is None else patience
        has_changed = await self._limit(timeout, search_path, patience, most_rows)
        answer: Answer = await self._answered(sql, self._statements.run(sql, args, labels, most_rows), patience)
        return replace(answer, round_trips=answer.round_trips + has_changed)

    async def _limit(self, timeout: float, search_path: str, patience: float, most_rows: int) -> bool:
        """Set the limits of the next query; return whether that took a round trip.

        Where we lose patience before the timeout, one in between that is set already is as good.
        """
        if not patience < self._timeout <= timeout:
            self._timeout = timeout
        wanted = {"statement_timeout": f"{max(1, round(self._timeout * 1000))}", "search_path": _PATHS[search_path]}
        changed = {name: value for name, value in wanted.items() if self._set.get(name) != value}
        if changed:
            await self._change(changed, patience)
        self._times_out_at = self._clock() + self._timeout * _EARLIEST_TIMEOUT
        self._inbound.rows = most_rows + 1
        return bool(changed)

    def can_join(self, sql: str) -> bool:
        """Return whether a query may be one of several that one statement asks."""
        return self._joint.can_ask(sql)

    async def fetch_jointly(self, questions: Sequence[Question], timeout: float) -> list[Answer]:
        """Ask several queries by one statement."""
        await self._limit(timeout, PINNED, timeout + _PATIENCE_SECONDS, 1)
        found: list[Answer] = await self._answered(NAME, self._joint.ask(questions), timeout + _PATIENCE_SECONDS)
        return found

    async def columns(self, sql: str, search_path: str = PINNED) -> dict[str, str]:
        """Name the columns that a query would return, and their types, without running it."""
        if self._set.get("search_path") != (path := _PATHS[search_path]):
            await self._change({"search_path": path}, 5.0 + _PATIENCE_SECONDS)
        statement = await self._answered(sql, self._connection.prepare(sql), 5.0 + _PATIENCE_SECONDS)
        return {attribute.name: attribute.type.name for attribute in statement.get_attributes()}

    async def _change(self, values: Mapping[str, str], patience: float) -> None:
        """Change what the session is set to; until the server has confirmed it, nothing is known of it."""
        for name in values:
            self._set.pop(name, None)
        await self._answered(assignments(values), self._connection.execute(assignments(values)), patience)
        self._set |= values

    async def vitals(self, timeout: float) -> Vitals:
        """Ask what the server is, reading no catalog that could be locked."""
        asked_at = self._clock()
        patience = _PATIENCE_WITH_VITALS_SECONDS
        answer = await self.fetch(VITALS, timeout, patience=patience, most_rows=1)
        round_trip = (self._clock() - asked_at) / answer.round_trips
        if len(answer.rows) != 1:
            raise QueryError("query", f"the server answered a question of one row with {len(answer.rows)}")
        [row] = answer.rows
        return Vitals(
            version=divmod(row["version"], 10000),
            in_recovery=row["in_recovery"],
            database=row["database"],
            role=row["role"] or 0,
            round_trip=round_trip,
            started=row["started"],
        )

    async def directory(self, timeout: float) -> Directory:
        """Read the names of all databases and roles."""
        answer = await self.fetch(DIRECTORY, timeout, most_rows=_MOST_NAMES)
        names: dict[bool, dict[int, str]] = {True: {}, False: {}}
        self._spelled.clear()
        for row in answer.rows:
            names[row["is_database"]][row["oid"]] = row["name"]
            if row["is_database"]:
                self._spelled[row["name"]] = decoder()(row["bytes"])
        found = [row for row in answer.rows if row["is_open"]]
        connectable = tuple(row["name"] for row in found if row["may_connect"])
        closed = tuple(row["name"] for row in found if not row["may_connect"])
        return Directory(names[True], names[False], connectable, closed)

    async def contents(self, timeout: float) -> Contents:
        """Read which extensions this database has, and whether it has tables."""
        rows = await self.rows(CONTENTS, timeout)
        extensions = {
            row["name"]: Extension(tuple(map(int, re.findall(r"\d+", row["version"]))), row["schema"])
            for row in rows
            if row["name"] is not None
        }
        return Contents(extensions, has_tables=rows[0]["has_tables"])

    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Name some relations of this session's database, whose own oid is given."""
        rows = await self.rows(RELATIONS, timeout, sorted(oids))
        return {(database, row["oid"]): row["name"] for row in rows}

    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Terminate those of our own backends that we no longer talk to, and say which of them were still there."""
        rows = await self.rows(END_ABANDONED, timeout, sorted(pids), APPLICATION_NAME)
        return {row["pid"] for row in rows}

    def _is_closed(self) -> bool:
        return bool(self._connection.is_closed())

    async def close(self) -> None:
        """Say goodbye; a server that does not answer is not waited for."""
        if self.is_stuck:
            self.terminate()
            return
        try:
            await self._connection.close(timeout=_PATIENCE_SECONDS)
        except DRIVER_ERRORS:
            self.terminate()

    def terminate(self) -> None:
        """Drop the connection without a word."""
        self._connection.terminate()

    def _translated(self, error: Exception) -> DatabaseError:
        """Say what happened; a connection that is lost is closed on this side as well."""
        if self._inbound.refusal:
            self.terminate()
            return ExcessError(self._inbound.refusal)
        reason = query_reason(error)
        if self._is_closed() and getattr(error, "sqlstate", None) is None:
            reason = "connection"  # it ended while the driver was in the middle of something
        if reason == "connection":
            self.terminate()
        if reason == "timeout" and self._clock() < self._times_out_at:
            reason = "query"  # cancelled by a user, with the SQLSTATE of a timeout
        return QueryError(reason, query_sentence(error))
