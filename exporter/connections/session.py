"""One connection to a server of any kind: asks one question at a time, and knows when no answer comes."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from exporter.catalog.model import Kind
from exporter.errors import DatabaseError, QueryError, SettingsError
from exporter.planning.oid_names import Relation
from exporter.planning.server import Extension

APPLICATION_NAME = "pgvigil"


@dataclass(frozen=True)
class Vitals:
    """What every scrape asks first: an answer means that the server is up."""

    version: tuple[int, int]
    in_recovery: bool
    database: str
    role: int
    """The oid of the role that we are."""
    rtt: float
    """Seconds from the question to the answer, which took the server next to nothing."""


@dataclass(frozen=True)
class Directory:
    """The databases and roles of a server by oid, and which databases the role may connect to."""

    databases: Mapping[int, str]
    roles: Mapping[int, str]
    connectable: tuple[str, ...]


class Session(ABC):
    """One connection. Whoever opened it closes it.

    A session whose server did not answer in time is `stuck`: it takes no further query, but stays open, so that no
    second connection joins the one that hangs; it can be used again as soon as the answer has come.
    """

    pid = 0
    """The process id of our backend."""

    login_seconds = 0.0
    """How long it took to get the session ready."""

    trips = 1
    """How often the latest query went to the server and back."""

    _errors: tuple[type[Exception], ...] = ()
    """What the driver raises."""

    def __init__(self) -> None:
        self._pending: asyncio.Task[Any] | None = None
        self._awaited = False
        self._asked_at = 0.0

    @abstractmethod
    async def fetch(
        self, sql: str, timeout: float, *args: Any, patience: float | None = None, search_path: str = "pg_catalog"
    ) -> list[Any]:
        """Run one query and return its rows, which know their columns; QueryError says why there are none.

        Args:
            sql: one statement.
            timeout: seconds that it may take.
            args: its parameters.
            patience: seconds after which a server that does not answer counts as stuck; a little more than the timeout.
            search_path: `pg_catalog`, or `role` for the one that the role has in this database.

        """

    @abstractmethod
    async def vitals(self, timeout: float) -> Vitals:
        """Ask what the server is."""

    @abstractmethod
    async def directory(self, timeout: float) -> Directory:
        """Read the names of all databases and roles."""

    @abstractmethod
    async def extensions(self, timeout: float) -> dict[str, Extension]:
        """List the extensions of this database with their versions and schemas."""

    @abstractmethod
    async def bare(self, timeout: float) -> bool:
        """Tell whether this database has no lasting table, materialized view or sequence but the server's own."""

    @abstractmethod
    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Name some relations of this session's database, whose own oid is given."""

    @abstractmethod
    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """End those of our own connections that we no longer talk to, and say which of them were still there."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Tell whether the connection is closed, as far as this side knows."""

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye; a server that does not answer is not waited for."""

    @abstractmethod
    def terminate(self) -> None:
        """Drop the connection without a word."""

    @abstractmethod
    def _translated(self, error: Exception) -> DatabaseError:
        """Say what happened; a connection that is lost is closed on this side as well."""

    @property
    def stuck(self) -> bool:
        """Tell whether there is an answer to come that nobody waits for any more."""
        return not self._awaited and self._pending is not None and not self._pending.done()

    @property
    def stuck_seconds(self) -> float:
        """How long the answer has been waited for."""
        return time.monotonic() - self._asked_at if self.stuck else 0.0

    @property
    def usable(self) -> bool:
        """Tell whether a query can be asked."""
        return not self.lost and not self.stuck

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _answered(self, question: Coroutine[Any, Any, Any], patience: float) -> Any:
        """Wait for an answer; the driver's own time limit would open a second connection to cancel the query."""
        if self.stuck:
            question.close()
            raise QueryError("connection", f"the server has not answered for {self.stuck_seconds:.0f} s")
        self._asked_at = time.monotonic()
        self._pending = asyncio.create_task(question)
        self._pending.add_done_callback(_heard)
        self._awaited = True
        try:
            await asyncio.wait([self._pending], timeout=patience)
        finally:
            self._awaited = False
        if self.stuck:
            raise QueryError("connection", "the server does not answer: it is hung, or the network is cut")
        try:
            return self._pending.result()
        except self._errors as error:
            raise self._translated(error) from error


def _heard(answer: asyncio.Task[Any]) -> None:
    """Take note of an answer that nobody waits for any more."""
    if not answer.cancelled():
        answer.exception()


class Connector(Protocol):
    """One server: opens sessions."""

    connect_timeout: float

    @property
    def kind(self) -> Kind:
        """What it is."""

    async def connect(self, database: str | None = None, timeout: float | None = None) -> Session:
        """Open a session; ConnectError says why there is none."""


def secret_in(file: Path) -> str:
    """Read a secret from a file, less the newline at its end; SettingsError when it cannot be read."""
    try:
        return file.read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error
