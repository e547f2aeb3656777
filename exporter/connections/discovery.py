"""What is known of one server: its version, databases, roles, extensions and names, learned anew when it grows old."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from exporter.catalog.model import Catalog, NameKind
from exporter.connections.pool import Sessions
from exporter.connections.session import Directory, Session, Vitals
from exporter.errors import DatabaseError, QueryError
from exporter.planning.database_filter import Choice
from exporter.planning.oid_names import Names, Relation
from exporter.planning.plan import Job, Plan, plan
from exporter.planning.server import Extension, Server
from exporter.samples.model import Columns
from exporter.sql import quoted

_log = logging.getLogger(__name__)

FACTS_SECONDS = 30.0
"""How long the list of databases, roles and extensions is believed."""

CONTENTS_SECONDS = 10 * FACTS_SECONDS
"""How long is believed what is in a database that has to be visited for it."""

FACTS_TIMEOUT = 5.0
"""Seconds that the answer to one of our own questions may take."""

_NAMES_TIMEOUT = 1.0


class Facts:
    """Remembered from one scrape to the next, with the plan that follows from it."""

    def __init__(self, catalog: Catalog, choice: Choice, sessions: Sessions) -> None:
        self.names = Names()
        self.server: Server | None = None
        """None before it was seen."""
        self.learning = asyncio.Lock()
        """Held by whoever learns, so that the next one finds it done."""
        self._catalog = catalog
        self._choice = choice
        self._sessions = sessions
        self._planned: tuple[Server | None, Plan] = (None, Plan((), {}))
        self._nameless: set[tuple[NameKind, Any]] = set()
        self._idle_patterns: tuple[str, ...] = ()
        self._learned_at: dict[str, float] = {}
        self._source: Session | None = None

    @property
    def plan(self) -> Plan:
        """What runs on the server as it was last seen; nothing before it was seen."""
        if self._planned[0] is not self.server and self.server:
            self._planned = (self.server, plan(self._catalog, self.server))
        return self._planned[1]

    @property
    def learned(self) -> bool:
        """Tell whether anything was learned since the server was last seen to be another."""
        return bool(self._learned_at)

    def note(self, vitals: Vitals) -> bool:
        """Take over what the server says of itself; tell whether it is of another version than it was."""
        known = self.server or Server(vitals.version, vitals.in_recovery, vitals.database)
        seen = replace(
            known,
            version=vitals.version,
            in_recovery=vitals.in_recovery,
            database=vitals.database,
            own=self._choice.takes(vitals.database),
        )
        if another := seen.version != known.version:
            self._learned_at = {}
        if seen != self.server:
            self.server = seen
        return another

    def come_from(self, session: Session, database: str) -> None:
        """Note over which connection facts are learned: over a new one another server may answer."""
        if session is not self._source:
            self._learned_at.pop(database, None)
            self._source = session

    async def learn(self, session: Session, database: str) -> None:
        """Read the directory and this database's contents when what is known has grown old; else keep it."""
        now = time.monotonic()
        if self.server is None or now - self._learned_at.get(database, float("-inf")) < FACTS_SECONDS:
            return
        try:
            directory = await session.directory(FACTS_TIMEOUT)
            extensions, bare = await session.extensions(FACTS_TIMEOUT), await session.bare(FACTS_TIMEOUT)
        except QueryError as error:
            _log.warning("databases, roles and extensions could not be listed: %s", error)
            return
        self._learned_at[database] = now
        self._nameless = set()
        self.names.replace(directory.databases, directory.roles)
        self.names.forget_relations()
        chosen = self._chosen(directory)
        present = {database, *chosen}
        self._learned_at = {name: at for name, at in self._learned_at.items() if name in present}
        by_database = {name: found for name, found in self.server.extensions.items() if name in present}
        self.server = replace(self.server, databases=chosen, extensions=by_database)
        self._note_contents(database, extensions, bare=bare)

    def _chosen(self, directory: Directory) -> tuple[str, ...]:
        """Choose the databases to look into, and log the patterns that match none when that is news."""
        idle = self._choice.idle(directory.databases.values())
        if new := set(idle) - set(self._idle_patterns):
            _log.warning("no database matches %s", ", ".join(sorted(new)))
        self._idle_patterns = idle
        return tuple(name for name in directory.connectable if self._choice.takes(name))

    def is_old(self, database: str) -> bool:
        """Tell whether a database was not looked into of late."""
        return time.monotonic() - self._learned_at.get(database, float("-inf")) >= CONTENTS_SECONDS

    async def learn_contents(self, session: Session, database: str) -> None:
        """Read which extensions a database has, and whether it has any table."""
        try:
            extensions, bare = await session.extensions(FACTS_TIMEOUT), await session.bare(FACTS_TIMEOUT)
        except QueryError as error:
            if not session.usable:
                raise
            _log.warning("extensions of %s could not be listed: %s", database, error)
            return
        self._learned_at[database] = time.monotonic()
        self._note_contents(database, extensions, bare=bare)

    def _note_contents(self, database: str, extensions: Mapping[str, Extension], *, bare: bool) -> None:
        """Take over what is in a database; the plan is made anew only if that has changed."""
        if not self.server:
            return
        contents = {**self.server.extensions, database: extensions}
        others = {name for name in self.server.bare if name in contents} - {database}
        seen = replace(self.server, extensions=contents, bare=frozenset(others | ({database} if bare else set())))
        if seen != self.server:
            self.server = seen

    def schema(self, job: Job) -> str | None:
        """Give the schema of a job's extension, quoted for SQL."""
        if not self.server or not job.collector.extension:
            return None
        return quoted(self.server.extensions[job.database][job.collector.extension].schema)

    async def look_up_names(self, job: Job, table: Columns, session: Session) -> None:
        """Ask for the names of what turned up for the first time; without an answer its oids stand in."""
        for label, kind in job.collector.names.items():
            unknown = {
                key for key in self.names.unknown(kind, table.get(label, ())) if (kind, key) not in self._nameless
            }
            if not unknown or (job.collector.vital and kind != "relation"):
                continue  # the vital few read no catalog of all databases, which may be locked
            try:
                async with asyncio.timeout(_NAMES_TIMEOUT):
                    await self._look_up(kind, unknown, job, session)
            except (DatabaseError, TimeoutError) as error:
                _log.info("names could not be looked up: %s", error, extra={"collector": job.collector.name})
            else:
                self._nameless |= {(kind, key) for key in self.names.unknown(kind, unknown)}

    async def _look_up(self, kind: NameKind, unknown: Iterable[Any], job: Job, session: Session) -> None:
        if kind == "relation":
            await self._look_up_relations(unknown, job, session)
        else:
            directory = await session.directory(FACTS_TIMEOUT)
            self.names.replace(directory.databases, directory.roles)

    async def _look_up_relations(self, unknown: Iterable[Relation], job: Job, session: Session) -> None:
        by_database: dict[int, list[int]] = {}
        for database, oid in unknown:
            by_database.setdefault(database, []).append(oid)
        for database, oids in by_database.items():
            self.names.learn(await self._relations(database, oids, session, job.database))

    async def _relations(self, database: int, oids: Sequence[int], session: Session, ours: str) -> dict[Relation, str]:
        name = self.names.database(database)
        if not database or name is None or name == ours:
            return await session.relations(oids, database, FACTS_TIMEOUT)
        async with self._sessions.borrowed(name, wait=False) as other:
            return await other.relations(oids, database, FACTS_TIMEOUT)
