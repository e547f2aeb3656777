"""Checks every target, and writes the result for a terminal."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from exporter.assembly import catalog_of, credentials_of, database_filter_of, pgbouncer_of, postgres_of
from exporter.catalog.model import Catalog
from exporter.commands.answers import ask, ask_console
from exporter.commands.findings import Finding, findings, findings_of_console, findings_of_scrape, sql_to_mend
from exporter.commands.trials import Trial, try_collectors
from exporter.connection_settings import Connection
from exporter.connections.credentials import COMMAND_SECONDS, FromCommand
from exporter.connections.session import Connector
from exporter.discovery.discovery import with_discovered
from exporter.errors import ConnectError, ConnectReason, PgvigilError
from exporter.printable import printable
from exporter.scrape.target import Options, Target
from exporter.settings import Settings
from exporter.sql import quoted

_CONNECTIONS = 3
"""Fewer than the exporter may use: the check runs beside it."""

_ADVICE: Mapping[ConnectReason, str] = {
    "refused": "Check host and port. Does PostgreSQL run, and does its listen_addresses include this address, or its"
    " unix_socket_directories this folder? (Of PgBouncer: listen_addr, listen_port, unix_socket_dir.)",
    "unreachable": "Check the host name, the network and the firewalls between here and there, and sslmode.",
    "authentication": "Check user, password and database (in the DSN, password_file, password_command, PGPASSWORD,"
    " .pgpass), and the server's pg_hba.conf, or PgBouncer's stats_users and auth_file. `pgvigil grants` prints what"
    " makes the role.",
    "settings": "Correct the exporter's own settings: what the DSN asks for (sslmode, options), password_file or"
    " password_command. For sslmode=require and above the server needs ssl = on.",
    "no_database": "Create the database, or name another one in the DSN.",
    "too_many_connections": "Every connection is taken: end some, or raise max_connections or the CONNECTION LIMIT of"
    " the role or the database.",
    "out_of_files": "Raise the limit on open files: `ulimit -n`, or LimitNOFILE in the systemd unit.",
    "starting_up": "Wait until the server has started, then check again.",
    "shutting_down": "Wait until the server runs again, then check again.",
    "recovery_conflict": "Replay on this standby ended the session. Check again.",
    "pooler": "Connect to PostgreSQL's own host and port. To watch PgBouncer as well, add a target of kind pgbouncer.",
    "timeout": "Nobody answered: check host, port and firewalls, or raise PGVIGIL_CONNECT_TIMEOUT.",
    "hung": "The server takes connections but does not answer: look at its log, its disk and its load.",
    "other": "Check the names of host and database in the DSN, and the server's log.",
}


@dataclass(frozen=True)
class Checkup:
    """The result for one target."""

    target: str
    server: str = ""
    """Product, version, database and role; empty without a connection."""
    standby: bool = False
    role: str = ""
    """The role that collectors run as; empty for PgBouncer."""
    findings: tuple[Finding, ...] = ()
    trials: tuple[Trial, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    notes: tuple[str, ...] = ()
    """Notes on collector files that were translated."""

    @property
    def exit_code(self) -> int:
        """0 when nothing is missing, 1 when something is or a collector fails, 2 when there was no connection."""
        if self.error:
            return 2
        return int(any(f.level == "missing" for f in self.findings) or any(t.problem for t in self.trials))


async def check(settings: Settings) -> tuple[list[Checkup], list[str]]:
    """Check every target of the settings, and of the sources that they name; return also what is wrong with sources."""
    catalog = catalog_of(settings)
    settings, failures = await with_discovered(settings)
    return [await _checkup(name, connection, settings, catalog) for name, connection in settings.servers], failures


async def _checkup(name: str, connection: Connection, settings: Settings, catalog: Catalog) -> Checkup:
    look = _pgbouncer if connection.kind == "pgbouncer" else _postgres
    try:
        credentials = credentials_of(connection, settings)
        if isinstance(credentials, FromCommand):  # no scrape waits here: it may take the time that it has
            await credentials.password({}, COMMAND_SECONDS)
        return replace(await look(connection, settings, catalog), target=name, notes=catalog.notes)
    except ConnectError as error:
        return Checkup(name, error=f"{error}\n{_ADVICE[error.reason]}")
    except PgvigilError as error:
        return Checkup(name, error=str(error))


async def _postgres(connection: Connection, settings: Settings, catalog: Catalog) -> Checkup:
    extensions = {c.extension for c in catalog if c.extension and c.enabled and not c.optional}
    postgres = postgres_of(connection, settings)
    database_filter = database_filter_of(connection, settings)
    answers = await ask(postgres, extensions, database_filter)
    queries = sum(c.enabled and c.scope == "database" for c in catalog.of_kind(connection.kind))
    found = findings(answers, extensions, settings.max_connections_per_target, queries)
    state = "standby" if answers.in_recovery else "primary"
    version = ".".join(map(str, answers.version))
    server = f"PostgreSQL {version}, a {state}; database {answers.database}, role {answers.role}"
    target = Target(catalog, postgres, Options(max_connections=_CONNECTIONS, databases=database_filter))
    return await _tried(Checkup("", server, answers.in_recovery, answers.role, found), postgres, settings, target)


async def _pgbouncer(connection: Connection, settings: Settings, catalog: Catalog) -> Checkup:
    pgbouncer = pgbouncer_of(connection, settings)
    answers = await ask_console(pgbouncer)
    found = findings_of_console(answers)
    target = Target(catalog, pgbouncer, Options(max_connections=_CONNECTIONS))
    server = f"{answers.version}; its console, user {answers.user}"
    return await _tried(Checkup("", server, findings=found), pgbouncer, settings, target)


def findings_of_trials(trials: Iterable[Trial], role: str) -> Iterator[Finding]:
    """Say which privileges collectors lack, with the SQL that grants them."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        for privilege in trial.lacks:
            lacking.setdefault((trial.database, privilege), []).append(trial.collector)
    for (database, privilege), collectors in lacking.items():
        what = f"role {role} lacks {privilege} in database {database}, which {', '.join(collectors)} needs"
        yield Finding("missing", what, (f"GRANT {privilege} TO {quoted(role)};",), database=database)


async def _tried(checkup: Checkup, server: Connector, settings: Settings, target: Target) -> Checkup:
    report, trials = await try_collectors(target, server)
    found = checkup.findings + findings_of_scrape(report.seconds, settings.scrape_timeout)
    found += tuple(findings_of_trials(trials, checkup.role))
    return replace(checkup, findings=found, trials=trials, skipped=report.skipped)


def written(checkup: Checkup) -> str:
    """Format a checkup for a terminal."""
    name = f"{checkup.target}: " if checkup.target else ""
    if checkup.error:
        return f"{name}cannot be checked: " + "\n".join(map(printable, checkup.error.splitlines()))
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
    yield f"  {finding.level:<9}{printable(finding.what)}"
    yield from textwrap.wrap(printable(finding.advice), 110, initial_indent=" " * 11, subsequent_indent=" " * 11)


def _note(note: str) -> list[str]:
    return textwrap.wrap(note, 118, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _line(mark: str, collector: str, text: str) -> str:
    return f"  {mark:<9}{collector:<24} {printable(text)}"


def _trials(trials: Iterable[Trial]) -> Iterator[str]:
    """Yield a line for each collector that runs, and one for each database where it fails."""
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
