"""Asks a server for what the exporter's role can see, do and reach there."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from exporter.connections.postgres import Postgres
from exporter.connections.postgres_session import PostgresSession
from exporter.errors import DatabaseError
from exporter.planning.database_filter import DatabaseFilter

if TYPE_CHECKING:  # its driver is an extra
    from exporter.connections.pgbouncer import PgBouncer

_TIMEOUT = 5.0
"""Upper bound on each query, in seconds."""

MONITOR, RESERVED = "pg_monitor", "pg_use_reserved_connections"

ROLES = (MONITOR, RESERVED)
"""The predefined roles whose rights the findings depend on; the second exists since 16."""

SETTINGS = (
    "autovacuum",
    "compute_query_id",
    "max_connections",
    "pg_stat_statements.max",
    "pg_stat_statements.track",
    "reserved_connections",
    "shared_preload_libraries",
    "superuser_reserved_connections",
    "track_activities",
    "track_counts",
    "track_io_timing",
)
"""The settings of the server that the findings depend on."""


@dataclass(frozen=True)
class Setting:
    """A setting of the server, as our session sees it."""

    value: str
    source: str = "default"
    pending_restart: bool = False


@dataclass(frozen=True)
class Offer:
    """An extension whose files the server has."""

    default: str
    installed: str | None = None
    """Its version in one database; None where it is not installed."""
    schema: str = ""
    usable: bool = True
    """True when our role has USAGE on that schema."""


@dataclass(frozen=True)
class Answers:
    """Answers of one PostgreSQL server to our role."""

    version: tuple[int, int]
    database: str
    role: str
    in_recovery: bool = False
    superuser: bool = False
    inherits: bool = True
    connection_limit: int = -1
    rights: Collection[str] = ()
    """Those of ROLES whose rights our role inherits."""
    memberships: Collection[str] = ()
    """Those of ROLES that our role is a member of, with or without their rights."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Those of SETTINGS that exist and that our role may read."""
    backends: int = 0
    closed: tuple[str, ...] = ()
    """Databases that our role lacks the right to connect to."""
    unreachable: Mapping[str, DatabaseError] = field(default_factory=dict)
    """Databases that could not be looked into although our role has the right to connect."""
    idle_patterns: tuple[str, ...] = ()
    """Patterns of include_databases and exclude_databases that match no database."""
    extensions: Mapping[str, Mapping[str, Offer]] = field(default_factory=dict)
    """Database -> extension name -> offer."""


@dataclass(frozen=True)
class ConsoleAnswers:
    """Answers of one PgBouncer to our user."""

    version: str
    user: str
    admins: str
    """Its setting admin_users."""


_ROLE = """
SELECT rolname::text AS role,
       rolsuper AS superuser,
       rolinherit AS inherits,
       rolconnlimit AS connection_limit,
       (SELECT sum(pg_stat_get_db_numbackends(oid))::bigint FROM pg_catalog.pg_database) AS backends
  FROM pg_catalog.pg_roles
 WHERE rolname = current_user
"""

_MEMBERSHIPS = """
SELECT rolname::text AS name,
       pg_has_role(oid, 'USAGE') AS inherited
  FROM pg_catalog.pg_roles
 WHERE rolname = ANY ($1::name[])
   AND pg_has_role(oid, 'MEMBER')
"""

_SETTINGS = """
SELECT name,
       setting AS value,
       source,
       pending_restart
  FROM pg_catalog.pg_settings
 WHERE name = ANY ($1::text[])
"""

_OFFERS = """
SELECT a.name::text AS name,
       a.default_version AS default,
       a.installed_version AS installed,
       coalesce(n.nspname::text, '') AS schema,
       coalesce(has_schema_privilege(n.oid, 'USAGE'), true) AS usable
  FROM pg_catalog.pg_available_extensions AS a
  LEFT JOIN pg_catalog.pg_extension AS e ON e.extname = a.name
  LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
 WHERE a.name = ANY ($1::name[])
"""


async def ask(postgres: Postgres, extensions: Collection[str], database_filter: DatabaseFilter) -> Answers:
    """Ask the DSN's database, then all others that the filter accepts; ConnectError without a session in the first."""
    async with await postgres.connect() as session:
        vitals = await session.vitals(_TIMEOUT)
        [role] = await session.rows(_ROLE, _TIMEOUT)
        memberships = await session.rows(_MEMBERSHIPS, _TIMEOUT, ROLES)
        settings = await session.rows(_SETTINGS, _TIMEOUT, SETTINGS)
        directory = await session.directory(_TIMEOUT)
        offers = {vitals.database: await _offers(session, extensions)}
    answers = Answers(
        version=vitals.version,
        database=vitals.database,
        in_recovery=vitals.in_recovery,
        **role,
        memberships={row["name"] for row in memberships},
        rights={row["name"] for row in memberships if row["inherited"]},
        settings={row["name"]: Setting(row["value"], row["source"], row["pending_restart"]) for row in settings},
        closed=tuple(filter(database_filter.accepts, directory.closed)),
        idle_patterns=database_filter.unmatched(directory.databases.values()),
        extensions=offers,
    )
    others = [name for name in filter(database_filter.accepts, directory.connectable) if name != vitals.database]
    return await _with_others(answers, others, postgres, extensions)


async def _with_others(
    answers: Answers, databases: Iterable[str], postgres: Postgres, extensions: Collection[str]
) -> Answers:
    """Look into the other databases as well."""
    offers = dict(answers.extensions)
    unreachable: dict[str, DatabaseError] = {}
    for name in databases:
        try:
            async with await postgres.connect(name) as session:
                offers[name] = await _offers(session, extensions)
        except DatabaseError as error:
            unreachable[name] = error
    return replace(answers, extensions=offers, unreachable=unreachable)


async def _offers(session: PostgresSession, extensions: Collection[str]) -> dict[str, Offer]:
    rows = await session.rows(_OFFERS, _TIMEOUT, list(extensions))
    return {row["name"]: Offer(**{key: value for key, value in row.items() if key != "name"}) for row in rows}


async def ask_console(pgbouncer: "PgBouncer") -> ConsoleAnswers:
    """Ask a PgBouncer; ConnectError says why there is no session."""
    async with await pgbouncer.connect() as console:
        [(version,)] = await console.rows("SELECT version FROM show_version", _TIMEOUT)
        [(admins,)] = await console.rows("SELECT value FROM show_config WHERE key = 'admin_users'", _TIMEOUT)
        return ConsoleAnswers(version, console.user, admins)
