"""A server that tests script: answers, delays, errors and hangs, by query. For scheduling, deadlines and states only.

SQL and values are tested against real servers; this stands in where a real one would take seconds to misbehave:

    server = FakeServer()
    server.on("directory", after=1.6)             # the query tagged /* pgvigil:directory */ takes 1.6 s
    server.on("locks", hangs=True)                # never answered: statement_timeout is ignored
    server.on("tables", error=QueryError("permission", "no"), database="shop")
    server.on("tables", rows=[{"relname": "t", "live": 1}])
    server.on_login(after=20.0, database="shop")  # a login that takes 20 s

The newest script that matches wins; `server.off()` forgets all of them. Run tests with `virtual_time`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from exporter.catalog.model import Catalog, Collector
from exporter.connections.place import Place
from exporter.connections.session import (
    LONGEST_SILENCE_SECONDS,
    MOST_ROWS,
    Answer,
    Contents,
    Directory,
    Known,
    Question,
    Session,
    Vitals,
)
from exporter.errors import ConnectError, PgvigilError, QueryError
from exporter.kinds import Kind
from exporter.planning.label_columns import LabelColumns
from exporter.planning.oid_names import Relation
from exporter.planning.server import Extension
from exporter.report import JobStatus, Report
from exporter.scrape.target import Options, Target
from exporter.scrape.turns import Turns
from exporter.sql import signed

ROLE = 10


class Row:
    """A row as the driver gives it: it knows its columns, and yields its values."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = dict(columns)

    def keys(self) -> Iterable[str]:
        """Return the names of the columns."""
        return self._columns.keys()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._columns.values())

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


@dataclass(frozen=True)
class Script:
    """What happens to one query, or to a login."""

    query: str
    database: str | None = None
    rows: Sequence[Mapping[str, Any]] | Callable[..., Sequence[Mapping[str, Any]]] = ()
    """What it returns, or what makes that of the query's parameters."""
    after: float = 0.0
    """Seconds until the answer comes."""
    error: Exception | None = None
    hangs: bool = False
    """Never answered, whatever its timeout."""


@dataclass
class FakeServer:
    """One server, and the connector that opens sessions on it."""

    version: tuple[int, int] = (18, 0)
    database: str = "postgres"
    databases: tuple[str, ...] = ("postgres",)
    roles: Mapping[int, str] = field(default_factory=lambda: {ROLE: "pgvigil"})
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    in_recovery: bool = False
    connect_timeout: float = 3.0
    answering: bool = False
    """Whether a new connection gets a first answer."""
    started: float = 1000.0
    """Unix time at which it was started."""
    place: Place | None = None
    """Which of several servers lets in logins that may go to any of them."""
    certificate_expires_at: float | None = None
    """Unix time at which the certificate ends that it shows to new connections; None without TLS."""
    joins: bool = False
    """Whether its sessions ask several queries by one statement, tagged `joint`: as slow as all, and failed by one."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Every query so far: the database, and the tag."""
    sessions: list["FakeSession"] = field(default_factory=list)
    """Every session so far."""
    _scripts: list[Script] = field(default_factory=list)
    _logins: list[Script] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """What it stands for."""
        return "postgresql"

    @property
    def address(self) -> str:
        """What log lines call it."""
        return "fake:5432"

    files = ()
    """The files that its DSN comes from."""

    def is_another(self) -> bool:
        """Stay what it is."""
        return False

    @property
    def open(self) -> int:
        """Sessions that are open."""
        return sum(not session.is_lost for session in self.sessions)

    def on(self, query: str, **script: Any) -> None:
        """Script a query by its tag: the name of a collector, or of a question such as `vitals` and `directory`."""
        self._scripts.insert(0, Script(query, **script))

    def on_login(self, **script: Any) -> None:
        """Script logins."""
        self._logins.insert(0, Script("", **script))

    def off(self) -> None:
        """Forget all scripts: everything is answered at once."""
        self._scripts.clear()
        self._logins.clear()

    def runs(self, query: str, database: str | None = None) -> int:
        """Count how often a query was asked."""
        return sum(tag == query and database in (None, where) for where, tag in self.asked)

    def script(self, query: str, database: str) -> Script:
        """Find what happens to a query."""
        found = (s for s in self._scripts if s.query == query and s.database in (None, database))
        return next(found, Script(query))

    async def is_answering(self, at: Place | None = None) -> bool:
        """Answer as scripted."""
        return self.answering

    async def log_in(self, database: str | None = None, at: Place | None = None) -> "FakeSession":
        """Open a session, and wait long for it."""
        session = await self.connect(database, LONGEST_SILENCE_SECONDS)
        session.place = at or self.place
        return session

    async def connect(self, database: str | None = None, timeout: float | None = None) -> "FakeSession":
        """Open a session, as scripted."""
        name = database or self.database
        login = next((s for s in self._logins if s.database in (None, name)), Script(""))
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(10**9 if login.hangs else login.after)
        except TimeoutError:
            raise ConnectError("timeout", "no login in time") from None
        if login.error:
            raise login.error
        session = FakeSession(self, name, pid=1000 + len(self.sessions))
        self.sessions.append(session)
        return session


def _tag(sql: str) -> str:
    return sql.rpartition("/* pgvigil:")[2].rstrip().removesuffix(" */")


class FakeSession(Session):
    """One session of a scripted server."""

    _errors = (PgvigilError,)

    def __init__(self, server: FakeServer, database: str, pid: int) -> None:
        super().__init__(asyncio.get_running_loop().time)
        self.pid = pid
        self.database = database
        self.certificate_expires_at = server.certificate_expires_at
        self._server = server
        self._closed = False
        self._known: set[str] = set()

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
        """Play the script of a query; like a server, end one that takes longer than its timeout."""
        tag = _tag(sql)
        self._known.add(sql)
        self._server.asked.append((self.database, tag))
        play = self._play(self._server.script(tag, self.database), timeout, args)
        rows = await self._answered(sql, play, timeout + 1.0 if patience is None else patience)
        return Answer([Row(row) for row in rows[:most_rows]], is_cut=len(rows) > most_rows)

    def can_join(self, sql: str) -> bool:
        """Join what has been asked before."""
        return self._server.joins and sql in self._known

    async def fetch_jointly(self, questions: Sequence[Question], timeout: float) -> list[Answer]:
        """Play the scripts of several queries, one after another."""
        self._server.asked.append((self.database, "joint"))
        return list(await self._answered("joint", self._play_all(questions, timeout), timeout + 1.0))

    async def _play_all(self, questions: Sequence[Question], timeout: float) -> list[Answer]:
        answers = []
        for question in questions:
            script = self._server.script(_tag(question.sql), self.database)
            rows = await self._play(script, timeout, ())
            table = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
            answer = Answer(range(len(rows)), table=table, seconds=script.after, fingerprint=hash(repr(table)))
            is_known = question.known == Known(hash(repr(table)), len(rows))
            answers.append(replace(answer, table=None, is_known=True) if is_known else answer)
        return answers

    async def _play(self, script: Script, timeout: float, args: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        if script.hangs:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(min(script.after, timeout))
        if script.after > timeout:
            raise QueryError("timeout", "canceling statement due to statement timeout")
        if script.error:
            raise script.error
        return script.rows(*args) if callable(script.rows) else script.rows

    async def vitals(self, timeout: float) -> Vitals:
        """Answer what the server is."""
        await self.fetch(signed("SELECT", "vitals"), timeout, patience=3.0)
        return Vitals(self._server.version, self._server.in_recovery, self.database, ROLE, 0.0, self._server.started)

    async def directory(self, timeout: float) -> Directory:
        """List the databases."""
        await self.fetch(signed("SELECT", "directory"), timeout)
        names = self._server.databases
        return Directory(dict(enumerate(names, start=1)), dict(self._server.roles), names)

    async def contents(self, timeout: float) -> Contents:
        """List the extensions, and say that there are tables."""
        await self.fetch(signed("SELECT", "contents"), timeout)
        return Contents(dict(self._server.extensions), has_tables=True)

    async def relations(self, oids: Iterable[int], database: int, timeout: float) -> dict[Relation, str]:
        """Name relations after their OIDs."""
        await self.fetch(signed("SELECT", "relations"), timeout)
        return {(database, oid): f"public.t{oid}" for oid in oids}

    async def end_abandoned(self, pids: Iterable[int], timeout: float) -> set[int]:
        """Let the abandoned backends end at once."""
        await self.fetch(signed("SELECT", "end_abandoned"), timeout)
        return set()

    async def close(self) -> None:
        """Close the session."""
        self.terminate()

    def terminate(self) -> None:
        """Drop the connection."""
        self._closed = True

    def _is_closed(self) -> bool:
        return self._closed

    def _translated(self, error: Exception) -> QueryError:
        assert isinstance(error, QueryError), error
        if error.reason == "connection":
            self.terminate()
        return error


def collector(name: str, **keys: Any) -> Collector:
    """Make a collector of one gauge, `pg_<name>`, from its query's column `value`."""
    metric = {"name": f"pg_{name}", "type": "gauge", "help": "Of a test.", "column": "value"}
    plain = {
        "name": name,
        "help": "Of a test.",
        "sql": "SELECT 1 AS value",
        "metrics": [metric],
        "fresh": not keys.get("cache"),
        "joins": True,
    }
    return Collector.model_validate(plain | keys)


def catalog(*collectors: Collector) -> Catalog:
    """Make a catalog of these."""
    return Catalog(collectors)


@asynccontextmanager
async def scraping(
    server: FakeServer,
    *collectors: Collector,
    name: str = "db1",
    turns: Turns | None = None,
    **options: Any,
) -> AsyncIterator[Target]:
    """A target of the fake server, on the loop's clock."""
    clock = asyncio.get_running_loop().time
    target = Target(catalog(*collectors), server, Options(**options), name, clock, turns)
    try:
        yield target
    finally:
        await target.close()


def job(report: Report, name: str, datname: str = "") -> JobStatus:
    """The status of one collector."""
    [found] = [each for each in report.jobs if (each.collector, each.datname) == (name, datname)]
    return found
