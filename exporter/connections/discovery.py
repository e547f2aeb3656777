"""Learns what a server is: version, databases, roles, extensions, names; relearned once it is older than its TTL."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from exporter.catalog.model import Catalog, NameKind
from exporter.connections.database_choice import DatabaseChoice
from exporter.connections.pool import Pool
from exporter.connections.server_starts import ServerStarts
from exporter.connections.session import Contents, Session, Vitals
from exporter.errors import DatabaseError, QueryError
from exporter.logs import TargetLog
from exporter.planning.database_filter import DatabaseFilter
from exporter.planning.oid_names import Names, Relation
from exporter.planning.plan import Job, Plan, lock_entries, plan
from exporter.planning.server import Server
from exporter.planning.table_filter import TableFilter
from exporter.samples.model import Columns
from exporter.sql import quoted

DIRECTORY_SECONDS = 30.0
"""TTL of the list of databases and roles, and of the extensions of the DSN's database, in seconds."""

CONTENTS_SECONDS = 10 * DIRECTORY_SECONDS
"""TTL of the extensions and tables of a database that has to be visited for them, in seconds."""

TIMEOUT = 5.0
"""Timeout of each question of our own, in seconds."""

NAMES_TIMEOUT = 1.0
"""Timeout of a look-up of names, in seconds: a job waits for it, and OIDs stand in for names that are late."""

_NEVER = float("-inf")


class Discovery:
    """Facts of one server, and the plan that follows from them."""

    def __init__(
        self,
        catalog: Catalog,
        database_filter: DatabaseFilter,
        table_filter: TableFilter,
        pool: Pool,
        clock: Callable[[], float],
        log: TargetLog,
    ) -> None:
        self.names = Names()
        self.server: Server | None = None
        """None before the first answer."""
        self.role = 0
        """OID of the role that we connect as."""
        self.learning = asyncio.Lock()
        """Held while a connection learns, so that the other one finds it done."""
        self._catalog = catalog
        self._databases, self._tables = DatabaseChoice(database_filter, log), table_filter
        self._pool, self._clock = pool, clock
        self._log = log
        self._planned: tuple[Server | None, Plan] = (None, Plan((), {}))
        self._round_trips: deque[float] = deque(maxlen=20)
        self._nameless: set[tuple[NameKind, Any]] = set()
        self._learned_at: dict[str, float] = {}
        self._source: Session | None = None
        self._starts = ServerStarts()

    def adopt(self, catalog: Catalog) -> None:
        """Plan the collectors of another catalog from now on."""
        if catalog != self._catalog:
            self._catalog, self._planned = catalog, (None, self._planned[1])

    @property
    def plan(self) -> Plan:
        """The plan for the server as last seen; empty before the first answer."""
        if self._planned[0] is not self.server and self.server:
            self._planned = (self.server, plan(self._catalog, self.server, self._tables))
        return self._planned[1]

    @property
    def closed(self) -> tuple[str, ...]:
        """Databases that are to be looked into, and that the role lacks the privilege to connect to."""
        return self._databases.closed

    @property
    def lock_entries(self) -> str | None:
        """The query for the entries of the lock table in which waits are traced."""
        return lock_entries(self._catalog, self.server)

    @property
    def least_round_trip(self) -> float:
        """Seconds of the shortest of the latest round trips; 0 before the first."""
        return min(self._round_trips, default=0.0)

    @property
    def has_learned(self) -> bool:
        """Return whether anything was learned of the server that is there now."""
        return bool(self._learned_at)

    def note(self, vitals: Vitals, session: Session) -> bool:
        """Note the latest vitals; return whether it is another server than before, or was started again."""
        self.role = vitals.role
        self._round_trips.append(vitals.round_trip)
        known = self.server or Server(vitals.version, vitals.in_recovery, vitals.database)
        seen = replace(
            known,
            version=vitals.version,
            in_recovery=vitals.in_recovery,
            database=vitals.database,
            own=self._databases.accepts(vitals.database),
        )
        was_started = self._starts.is_another(vitals.started, session)
        if is_another := was_started or seen.version != known.version:
            self._learned_at = {}
        self._see(seen)
        return is_another

    def come_from(self, session: Session, database: str) -> None:
        """Note which connection is asked: over a new one another server may answer."""
        if session is not self._source:
            self._learned_at.pop(database, None)
            self._source = session

    async def learn(self, session: Session, database: str) -> None:
        """Read the directory and this database's contents when they are older than their TTL."""
        now = self._clock()
        if self.server is None or now - self._learned_at.get(database, _NEVER) < DIRECTORY_SECONDS:
            return
        try:
            directory = await session.directory(TIMEOUT)
            contents = await session.contents(TIMEOUT)
        except QueryError as error:
            self._log.warning("databases, roles and extensions could not be listed", extra={"error": str(error)})
            return
        self._learned_at[database] = now
        self._nameless = set()
        self.names.replace(directory.databases, directory.roles)
        self.names.forget_relations()
        chosen = self._databases.choose(directory, self.server.database)
        present = {database, *chosen}
        self._learned_at = {name: at for name, at in self._learned_at.items() if name in present}
        by_database = {name: found for name, found in self.server.extensions.items() if name in present}
        self._see(replace(self.server, databases=chosen, extensions=by_database))
        self._note_contents(database, contents)

    @property
    def stale(self) -> set[str]:
        """The databases whose contents are older than their TTL."""
        databases = self.server.databases if self.server else ()
        oldest = self._clock() - CONTENTS_SECONDS
        return {name for name in databases if self._learned_at.get(name, _NEVER) <= oldest}

    async def learn_contents(self, session: Session, database: str) -> None:
        """Read which extensions a database has, and whether it has tables."""
        try:
            contents = await session.contents(TIMEOUT)
        except QueryError as error:
            if not session.is_usable:
                raise
            extra = {"datname": database, "error": str(error)}
            self._log.warning("extensions could not be listed", extra=extra)
            return
        self._learned_at[database] = self._clock()
        self._note_contents(database, contents)

    def _note_contents(self, database: str, found: Contents) -> None:
        """Note the contents of a database."""
        if not self.server:
            return
        extensions = {**self.server.extensions, database: found.extensions}
        without = {name for name in self.server.without_tables if name in extensions} - {database}
        if not found.has_tables:
            without.add(database)
        self._see(replace(self.server, extensions=extensions, without_tables=frozenset(without)))

    def _see(self, server: Server) -> None:
        """Note what the server is now; an unchanged one keeps its plan, and so what is known of its jobs."""
        if server != self.server:
            self.server = server

    def schema(self, job: Job) -> str | None:
        """Return the schema of a job's extension, quoted for SQL."""
        if not self.server or not job.collector.extension:
            return None
        return quoted(self.server.extensions[job.database][job.collector.extension].schema)

    async def look_up_names(self, job: Job, table: Columns, session: Session) -> None:
        """Look up the names of OIDs that are new; without an answer the OIDs stand in for them."""
        for label, kind in job.collector.names.items():
            unknown = {
                key for key in self.names.unknown(kind, table.get(label, ())) if (kind, key) not in self._nameless
            }
            if not unknown or (job.collector.vital and kind != "relation"):
                continue  # the vital few read no catalog of all databases, which may be locked
            try:
                await self._look_up(kind, unknown, job, session, self._clock() + NAMES_TIMEOUT)
            except DatabaseError as error:
                extra = {"collector": job.collector.name, "datname": job.database, "error": str(error)}
                self._log.info("names could not be looked up", extra=extra)
            else:
                self._nameless |= {(kind, key) for key in self.names.unknown(kind, unknown)}

    async def _look_up(
        self, kind: NameKind, unknown: Iterable[Any], job: Job, session: Session, deadline: float
    ) -> None:
        if kind == "relation":
            await self._look_up_relations(unknown, job, session, deadline)
        else:
            directory = await session.directory(NAMES_TIMEOUT)
            self.names.replace(directory.databases, directory.roles)

    async def _look_up_relations(
        self, unknown: Iterable[Relation], job: Job, session: Session, deadline: float
    ) -> None:
        by_database: dict[int, list[int]] = {}
        for database, oid in unknown:
            by_database.setdefault(database, []).append(oid)
        for database, oids in by_database.items():
            name = self.names.database(database)
            if not database or name is None or name == job.database:
                self.names.learn(await session.relations(oids, database, self._left(deadline)))
            else:
                self.names.learn(await self._relations_elsewhere(database, name, oids, deadline))

    async def _relations_elsewhere(
        self, database: int, name: str, oids: Sequence[int], deadline: float
    ) -> dict[Relation, str]:
        async with self._pool.borrowed(name, timeout=0, login_timeout=self._left(deadline)) as session:
            return await session.relations(oids, database, self._left(deadline))

    def _left(self, deadline: float) -> float:
        """Return the seconds until a deadline, enough for one round trip at least."""
        return max(deadline - self._clock(), 0.1)
