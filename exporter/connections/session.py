"""The states of one connection to a server of any kind: idle, asked, stuck, lost. The drivers are in `postgres` and
`pgbouncer`, the settings of a session in `guard_rails`.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from exporter.catalog.sources import Tables
from exporter.connections.patience import wait_within
from exporter.connections.place import Place
from exporter.errors import DatabaseError, QueryError
from exporter.kinds import Kind
from exporter.planning.label_columns import LabelColumns
from exporter.planning.oid_names import Relation
from exporter.planning.server import Extension
from exporter.samples.model import Columns

APPLICATION_NAME = "pgvigil"

MOST_ROWS = 100_000
"""Upper bound on the rows of an answer, unless a question allows for another number."""


LONGEST_SILENCE_SECONDS = 600.0
"""Seconds to wait for a login that the server has not begun to answer: it may be lost on the way."""


@dataclass(frozen=True)
class Vitals:
    """The answer to the first question of every scrape: the server is up."""

    version: tuple[int, int]
    in_recovery: bool
    database: str
    role: int
    """OID of the role that the session runs as."""
    round_trip: float
    """Seconds from the question to the answer, which took the server next to nothing."""
    started: float | None = None
    """Unix time at which the server was started; None where it does not say."""


@dataclass(frozen=True)
class Directory:
    """The databases and roles of a server by OID, and which databases the role may connect to."""

    databases: Mapping[int, str]
    roles: Mapping[int, str]
    connectable: tuple[str, ...]
    closed: tuple[str, ...] = ()
    """Databases that allow connections, but not from the role: it lacks the privilege CONNECT."""


@dataclass(frozen=True)
class Contents:
    """What the plan of one database depends on."""

    extensions: Mapping[str, Extension]
    """Extensions with their versions and schemas."""
    has_tables: bool
    """Whether there is a permanent user table, materialized view or sequence."""


@dataclass(frozen=True)
class Answer:
    """The rows of one query, which know their columns, and how many round trips it took."""

    rows: Sequence[Any]
    round_trips: int = 1
    is_cut: bool = False
    """True if the query had more rows than were asked for."""
    table: Columns | None = None
    """The rows as columns, of a query that was one of several; `rows` are numbers then."""
    seconds: float = 0.0
    """Server time of a query that was one of several."""
    fingerprint: int | None = None
    """By which the answer of a query that was one of several is recognised; None for one that is not."""
    is_known: bool = False
    """True if it is the answer that the question said is known: then there is no table."""


@dataclass(frozen=True)
class Known:
    """An answer that is known: the same again is not read."""

    fingerprint: int
    rows: int


@dataclass(frozen=True)
class Question:
    """One query of several."""

    sql: str
    """The query alone, by which it is known."""
    part: str
    """The same without the tables of its sources."""
    tables: Tables
    known: Known | None = None
    """The answer that is known, if any."""


@dataclass(frozen=True)
class Idle:
    """Takes a query."""


@dataclass(frozen=True)
class Asked:
    """Waits for the answer to a query."""

    sql: str
    since: float
    answer: asyncio.Task[Any]


@dataclass(frozen=True)
class Stuck:
    """The answer did not come in time. The session takes no query until it has come."""

    sql: str
    since: float
    answer: asyncio.Task[Any]


@dataclass(frozen=True)
class Lost:
    """The connection is closed, as far as this side knows."""


SessionState = Idle | Asked | Stuck | Lost


_IDLE = Idle()


class Session(ABC):
    """One connection; closed by its opener.

    A stuck session stays open, so that no second connection joins one that hangs. It is idle again as soon as the
    answer has come.
    """

    pid = 0
    """Process ID of our backend."""

    login_seconds = 0.0
    """Seconds that the login took, guard rails included."""

    place: Place | None = None
    """The server that it goes to, among those of the DSN."""

    certificate_expires_at: float | None = None
    """Unix time from which the server's certificate is invalid; None without TLS, or where nobody checks it."""

    _errors: tuple[type[Exception], ...] = ()
    """Exceptions of the driver."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state: Idle | Asked | Stuck = _IDLE

    @abstractmethod
    async def fetch(
        self,
        sql: str,
        timeout: float,
        *args: Any,
        patience: float | None = None,
        search_path: str = "pg_catalog",
        most_rows: int = MOST_ROWS,
        labels: LabelColumns | None = None,
    ) -> Answer:
        """Run one query; QueryError says why there are no rows.

        Args:
            sql: one statement.
            timeout: seconds after which the server ends it.
            args: its parameters.
            patience: seconds after which the session counts as stuck; a little more than the timeout by default.
            search_path: `pg_catalog`, or `role` for the one that the role has in this database.
            most_rows: upper bound on the rows that are read; the rest stays on the server.
            labels: columns whose text the server writes.

        """

    def can_join(self, sql: str) -> bool:
        """Return whether a query may be one of several that one statement asks."""
        return False

    async def fetch_jointly(self, questions: Sequence[Question], timeout: float) -> list[Answer]:
        """Ask several queries, each of which `can_join`, by one statement; QueryError costs all of them."""
        raise NotImplementedError

    async def rows(self, sql: str, timeout: float, *args: Any) -> Sequence[Any]:
        """Run one query and return its rows only."""
        return (await self.fetch(sql, timeout, *args)).rows

    @abstractmethod
    async def vitals(self, timeout: float) -> Vitals:
        """Ask for version, role and recovery, without reading a catalog that may be locked."""

    @abstractmethod
    async def directory(self, timeout: float) -> Directory:
        """Read the names of all databases and roles."""

    @abstractmethod
    async def contents(self, timeout: float) -> Contents:
        """Read which extensions this database has, and whether it has tables."""

    @abstractmethod
    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Name some relations of this session's database, whose own OID is given."""

    @abstractmethod
    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Terminate those of our own backends that are abandoned; return those that were still there."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection; a server that does not answer is not waited for."""

    @abstractmethod
    def terminate(self) -> None:
        """Drop the connection without a message to the server."""

    @abstractmethod
    def _is_closed(self) -> bool:
        """Return whether the driver knows the connection to be closed."""

    @abstractmethod
    def _translated(self, error: Exception) -> DatabaseError:
        """Translate a driver's error; the connection of one that is lost is closed on this side as well."""

    @property
    def state(self) -> SessionState:
        """The state at this moment."""
        if self._is_closed():
            return Lost()
        if isinstance(self._state, Stuck) and self._state.answer.done():
            self._state = _IDLE
        return self._state

    @property
    def is_usable(self) -> bool:
        """Return whether the session is neither lost nor stuck."""
        return isinstance(self.state, Idle | Asked)

    @property
    def is_lost(self) -> bool:
        """Return whether the connection is closed."""
        return isinstance(self.state, Lost)

    @property
    def is_stuck(self) -> bool:
        """Return whether an answer is still to come that nothing waits for any more."""
        return isinstance(self.state, Stuck)

    @property
    def stuck_on(self) -> str | None:
        """The query whose answer has not come; None when the session is not stuck."""
        state = self.state
        return state.sql if isinstance(state, Stuck) else None

    @property
    def stuck_seconds(self) -> float:
        """Seconds since the question whose answer has not come; 0 when the session is not stuck."""
        state = self.state
        return self._clock() - state.since if isinstance(state, Stuck) else 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _answered(self, sql: str, question: Coroutine[Any, Any, Any], patience: float) -> Any:
        """Wait for an answer. The driver's own timeout would open a second connection to cancel the query."""
        if self.is_stuck:
            question.close()
            raise QueryError("connection", f"no answer for {self.stuck_seconds:.0f} s")
        answer = asyncio.create_task(question)
        answer.add_done_callback(_retrieve)
        asked = Asked(sql, self._clock(), answer)
        self._state = asked
        try:
            await wait_within([answer], patience)
        finally:
            self._state = _IDLE if answer.done() else Stuck(sql, asked.since, answer)
        if not answer.done():
            raise QueryError("connection", "the server does not answer: it is hung, or the network is cut")
        try:
            return answer.result()
        except self._errors as error:
            raise self._translated(error) from error


def _retrieve(answer: asyncio.Task[Any]) -> None:
    """Retrieve the exception of an answer that nothing waits for any more."""
    if not answer.cancelled():
        answer.exception()


class Connector(Protocol):
    """One server: opens sessions."""

    connect_timeout: float

    @property
    def kind(self) -> Kind:
        """The kind of server."""

    @property
    def address(self) -> str:
        """Host and port as log lines name the server; no secret."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its DSN comes from."""

    def is_another(self) -> bool:
        """Read the DSN again; return whether it says anything but another password. Blocking; may be SettingsError."""

    async def connect(self, database: str | None = None, timeout: float | None = None) -> Session:
        """Open a session; ConnectError says why there is none."""

    async def log_in(self, database: str | None = None, at: Place | None = None) -> Session:
        """Open a session for which the server may take its time; it ends in ConnectError where all is silent.

        Args:
            database: its name, that of the DSN by default.
            at: the only server of the DSN to log in to, whatever it is by now; all are tried in order by default.

        """

    async def is_answering(self, at: Place | None = None) -> bool:
        """Return whether a new connection gets a first answer, before any login; it takes no place for long."""
