"""Checks a server for a person: asks what matters, tries every collector, and writes down what came of it."""

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

from exporter.assembly import catalog_of, choice_of, pgbouncer_of, postgres_of
from exporter.catalog.model import Catalog
from exporter.commands.findings import (
    ROLES,
    SETTINGS,
    Answers,
    Finding,
    Offer,
    Setting,
    findings,
    findings_of_console,
    sql_to_mend,
)
from exporter.connections.postgres import Postgres, PostgresSession
from exporter.connections.session import Connector
from exporter.errors import ConnectError, DatabaseError, PgvigilError
from exporter.planning.database_filter import Choice
from exporter.planning.plan import Job
from exporter.report import JobStatus
from exporter.samples.convert import missing_columns
from exporter.scrape.target import Options, Target
from exporter.settings import Connection, Settings

_TIMEOUT = 5.0

_SCRAPE_SECONDS = 120.0
"""Longer than any scraper waits: what is slow shall be told from what fails."""

_CONNECTIONS = 3
"""Fewer than a running exporter may use, beside which the check may run."""

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

_DATABASES = """
SELECT datname::text AS name,
       has_database_privilege(oid, 'CONNECT') AS open
  FROM pg_catalog.pg_database
 WHERE datallowconn
   AND NOT datistemplate
 ORDER BY datname
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

_NUMBERS = {"int2", "int4", "int8", "float4", "float8", "numeric", "bool"}
"""The types that a sample's value can have."""

_ADVICE = {
    "refused": "Check host and port. Does PostgreSQL run, and does its listen_addresses include this address?",
    "unreachable": "Check the host name, the network and the firewalls between here and there, and sslmode.",
    "authentication": "Check user, password and database (PGVIGIL_DSN, PGVIGIL_PASSWORD_FILE, PGPASSWORD, .pgpass), and"
    " the server's pg_hba.conf, or PgBouncer's stats_users and auth_file. `pgvigil grants` prints what makes the role.",
    "too_many_connections": "Every connection is taken: end some, or raise max_connections or the CONNECTION LIMIT of"
    " the role or the database.",
    "starting_up": "Wait until the server has started, then check again.",
    "shutting_down": "Wait until the server runs again, then check again.",
    "timeout": "Nobody answered: check host, port and firewalls, or raise PGVIGIL_CONNECT_TIMEOUT.",
    "hung": "The server takes connections but does not answer: look at its log, its disk and its load.",
}

_OTHER_ADVICE = "Check the names of host and database in PGVIGIL_DSN, and the server's log."


@dataclass(frozen=True)
class Trial:
    """How one collector fared in one database."""

    collector: str
    datname: str
    rows: int
    seconds: float
    problem: str = ""


@dataclass(frozen=True)
class Checkup:
    """What came of checking one target."""

    target: str
    server: str = ""
    """What it is, and who we are there; empty when there was no connection."""
    standby: bool = False
    findings: tuple[Finding, ...] = ()
    trials: tuple[Trial, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    notes: tuple[str, ...] = ()
    """What became of collector files that had to be translated."""

    @property
    def exit_code(self) -> int:
        """0 when nothing is missing, 1 when something is or a collector fails, 2 when there was no connection."""
        if self.error:
            return 2
        return int(any(f.level == "missing" for f in self.findings) or any(t.problem for t in self.trials))


async def check(settings: Settings) -> list[Checkup]:
    """Check every target that the settings name, one after another."""
    catalog = catalog_of(settings)
    return [await _checkup(name, connection, settings, catalog) for name, connection in settings.servers]


async def _checkup(name: str, connection: Connection, settings: Settings, catalog: Catalog) -> Checkup:
    look = _pgbouncer if connection.kind == "pgbouncer" else _postgres
    try:
        return replace(await look(connection, settings, catalog), target=name, notes=catalog.notes)
    except ConnectError as error:
        return Checkup(name, error=f"{error}\n{_ADVICE.get(error.reason, _OTHER_ADVICE)}")
    except PgvigilError as error:
        return Checkup(name, error=str(error))


async def _postgres(connection: Connection, settings: Settings, catalog: Catalog) -> Checkup:
    extensions = {c.extension for c in catalog if c.extension and c.enabled and not c.optional}
    postgres = postgres_of(connection, settings)
    choice = choice_of(connection, settings)
    answers = await _answers(postgres, extensions, choice)
    queries = sum(c.enabled and c.scope == "database" for c in catalog.of_kind(connection.kind))
    found = findings(answers, extensions, settings.max_connections_per_target, queries)
    state = "standby" if answers.in_recovery else "primary"
    version = ".".join(map(str, answers.version))
    server = f"PostgreSQL {version}, a {state}; database {answers.database}, role {answers.role}"
    target = Target(catalog, postgres, Options(max_connections=_CONNECTIONS, databases=choice))
    return await _tried(Checkup("", server, answers.in_recovery, found), postgres, settings, target)


async def _pgbouncer(connection: Connection, settings: Settings, catalog: Catalog) -> Checkup:
    pgbouncer = pgbouncer_of(connection, settings)
    async with await pgbouncer.connect() as console:
        [(version,)] = await console.rows("SELECT version FROM show_version", _TIMEOUT)
        [(admins,)] = await console.rows("SELECT value FROM show_config WHERE key = 'admin_users'", _TIMEOUT)
        found = findings_of_console(console.user, admins)
    checkup = Checkup("", f"{version}; its console, user {console.user}", findings=found)
    target = Target(catalog, pgbouncer, Options(max_connections=_CONNECTIONS))
    return await _tried(checkup, pgbouncer, settings, target)


async def _answers(postgres: Postgres, extensions: Collection[str], choice: Choice) -> Answers:
    async with await postgres.connect() as session:
        vitals = await session.vitals(_TIMEOUT)
        [role] = await session.rows(_ROLE, _TIMEOUT)
        memberships = await session.rows(_MEMBERSHIPS, _TIMEOUT, ROLES)
        settings = await session.rows(_SETTINGS, _TIMEOUT, SETTINGS)
        present = await session.rows(_DATABASES, _TIMEOUT)
        offers = {vitals.database: await _offers(session, extensions)}
    databases = [row for row in present if choice.takes(row["name"])]
    answers = Answers(
        version=vitals.version,
        database=vitals.database,
        in_recovery=vitals.in_recovery,
        **role,
        memberships={row["name"] for row in memberships},
        rights={row["name"] for row in memberships if row["inherited"]},
        settings={row["name"]: Setting(row["value"], row["source"], row["pending_restart"]) for row in settings},
        closed=tuple(row["name"] for row in databases if not row["open"]),
        idle_patterns=choice.idle(row["name"] for row in present),
        extensions=offers,
    )
    others = [row["name"] for row in databases if row["open"] and row["name"] != vitals.database]
    return await _with_others(answers, others, postgres, extensions)


async def _with_others(
    answers: Answers, databases: Iterable[str], postgres: Postgres, extensions: Collection[str]
) -> Answers:
    """Look into the other databases as well."""
    offers, unreachable = dict(answers.extensions), {}
    for name in databases:
        try:
            async with await postgres.connect(name) as session:
                offers[name] = await _offers(session, extensions)
        except DatabaseError as error:
            unreachable[name] = str(error)
    return replace(answers, extensions=offers, unreachable=unreachable)


async def _offers(session: PostgresSession, extensions: Collection[str]) -> dict[str, Offer]:
    rows = await session.rows(_OFFERS, _TIMEOUT, list(extensions))
    return {row["name"]: Offer(**{key: value for key, value in row.items() if key != "name"}) for row in rows}


async def _tried(checkup: Checkup, server: Connector, settings: Settings, target: Target) -> Checkup:
    """Run everything once, as a scrape does, and compare the columns of what had no rows to show them."""
    try:
        report = await target.scrape(_SCRAPE_SECONDS)
    finally:
        await target.close()
    if not report.up:
        raise ConnectError(report.down_reason or "other", "the server was lost while its collectors were tried")
    lacking = await _lacking(target.plan.jobs, server) if isinstance(server, Postgres) else {}
    trials = tuple(_trial(status, lacking) for status in report.jobs)
    found = checkup.findings + _slow(report.seconds, settings.scrape_timeout)
    return replace(checkup, findings=found, trials=trials, skipped=report.skipped)


async def _lacking(jobs: Iterable[Job], postgres: Postgres) -> dict[tuple[str, str], str]:
    """Prepare every query, and say which declared columns it does not return."""
    problems: dict[tuple[str, str], str] = {}
    for database, group in groupby(sorted(jobs, key=lambda job: job.database), key=lambda job: job.database):
        try:
            async with await postgres.connect(database) as session:
                problems.update([(job.key, await _lack(job, session)) for job in group])
        except ConnectError:
            continue  # the scrape could not connect either, and says so
    return problems


async def _lack(job: Job, session: PostgresSession) -> str:
    try:
        types = await session.columns(job.sql, job.collector.search_path)
    except DatabaseError as error:
        return str(error)
    if missing := missing_columns(job, list(types)):
        return f"the query has no column {', '.join(missing)}"
    if job.collector.lenient:
        return ""
    wrong = {m.column: types[m.column] for m in job.metrics if types[m.column] not in _NUMBERS}
    return ", ".join(f"column {column} is of type {of}, which is no number" for column, of in wrong.items())


def _trial(status: JobStatus, lacking: Mapping[tuple[str, str], str]) -> Trial:
    rows = status.samples.rows if status.samples else 0
    rejected = ", ".join(f"{count} {reason}" for reason, count in status.rejected.items())
    problem = "" if status.success else status.message or "was not run"
    problem = problem or lacking.get((status.collector, status.datname), "")
    problem = problem or (f"rows that cannot be served: {rejected}" if rejected else "")
    return Trial(status.collector, status.datname, rows, status.duration or 0.0, problem)


def _slow(seconds: float, limit: float) -> tuple[Finding, ...]:
    if seconds <= limit:
        return ()
    what = f"the first scrape took {seconds:.1f} s, longer than the {limit:g} s of scrape_timeout"
    advice = "Later ones are faster; if not, set cache or limit of the slow collectors."
    return (Finding("warning", what, advice=advice),)


def written(checkup: Checkup) -> str:
    """Write a checkup for a terminal."""
    name = f"{checkup.target}: " if checkup.target else ""
    if checkup.error:
        return f"{name}cannot be checked: {checkup.error}"
    blocks = [
        [f"{name}{checkup.server}"],
        [line for finding in checkup.findings for line in _finding(finding)],
        ["Collectors", *_trials(checkup.trials), *(_line("skipped", n, why) for n, why in checkup.skipped.items())],
        ["Collector files", *(line for note in checkup.notes for line in _note(note))] if checkup.notes else [],
        _remedy(checkup),
        [_verdict(checkup)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _finding(finding: Finding) -> Iterator[str]:
    yield f"  {finding.level:<9}{finding.what}"
    yield from textwrap.wrap(finding.advice, 110, initial_indent=" " * 11, subsequent_indent=" " * 11)


def _note(note: str) -> list[str]:
    return textwrap.wrap(note, 118, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _line(mark: str, collector: str, text: str) -> str:
    return f"  {mark:<9}{collector:<24} {text}"


def _trials(trials: Iterable[Trial]) -> Iterator[str]:
    """One line for each collector that runs, and one for each database where it fails."""
    by_collector: dict[str, list[Trial]] = {}
    for trial in trials:
        by_collector.setdefault(trial.collector, []).append(trial)
    for collector, tried in by_collector.items():
        well = [trial for trial in tried if not trial.problem]
        if well:
            where = f" in {len(well)} databases" if len(well) > 1 else ""
            seconds = sum(trial.seconds for trial in well)
            yield _line("ok", collector, f"{sum(trial.rows for trial in well)} rows{where}, {seconds * 1000:.0f} ms")
        for trial in tried:
            if trial.problem:
                where = f"in {trial.datname}: " if trial.datname else ""
                yield _line("failed", collector, where + trial.problem)


def _remedy(checkup: Checkup) -> list[str]:
    sql = sql_to_mend(checkup.findings)
    if not sql:
        return []
    where = "ALTER SYSTEM here, the rest on the primary" if checkup.standby else "in psql"
    return [f"To mend this, run as a superuser, {where}:", "", sql]


def _verdict(checkup: Checkup) -> str:
    missing, warnings = (sum(f.level == level for f in checkup.findings) for level in ("missing", "warning"))
    tried = len({trial.collector for trial in checkup.trials})
    failed = len({trial.collector for trial in checkup.trials if trial.problem})
    return f"{missing} missing, {warnings} warnings; {failed} of {tried} collectors fail"
