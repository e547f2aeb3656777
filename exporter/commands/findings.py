"""Judges the answers of a server: what the exporter lacks there, with the SQL that mends it. Pure."""

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from exporter.catalog.by_version import NEWEST, OLDEST
from exporter.commands.answers import MONITOR, RESERVED, Answers, ConsoleAnswers, Offer
from exporter.planning.database_filter import PROVIDERS
from exporter.printable import printable
from exporter.sql import literal, quoted

Level = Literal["ok", "missing", "warning"]

STATEMENTS = "pg_stat_statements"

DEFAULT_MOST = 5000
"""The default of pg_stat_statements.max."""


@dataclass(frozen=True)
class Finding:
    """One thing that works or does not."""

    level: Level
    what: str
    sql: tuple[str, ...] = ()
    """SQL for a superuser that mends it."""
    advice: str = ""
    """Advice where SQL alone is not enough."""
    database: str = ""
    """Database in which the SQL has to run; empty for any."""


def findings(answers: Answers, extensions: Collection[str], connections: int, queries: int = 0) -> tuple[Finding, ...]:
    """Judge a server by what the collectors in use need.

    Args:
        answers: what the server told our role.
        extensions: those that collectors read.
        connections: how many the exporter has at most.
        queries: how many it runs in each database.

    """
    per_extension = chain.from_iterable(_extension(answers, name) for name in sorted(extensions))
    about_statements = chain(_statements(answers), _crowded(answers, queries)) if STATEMENTS in extensions else ()
    return tuple(
        chain(
            _version(answers),
            _rights(answers),
            _superuser(answers),
            _connection_limit(answers, connections),
            _free_connections(answers, connections),
            _databases(answers),
            about_statements,
            per_extension,
            _switches(answers),
        )
    )


def findings_of_console(answers: ConsoleAnswers) -> tuple[Finding, ...]:
    """Judge the rights on PgBouncer's console; every user that it lets in may look at everything."""
    user = answers.user
    if user not in re.split(r"[,\s]+", answers.admins):
        return (Finding("ok", f"user {user} may look, and change nothing"),)
    advice = "Take it out of admin_users, name it in stats_users, and RELOAD: `pgvigil grants --kind pgbouncer`."
    return (Finding("warning", f"user {user} is in admin_users, which is more than the exporter needs", advice=advice),)


def findings_of_scrape(seconds: float, limit: float) -> tuple[Finding, ...]:
    """Judge the duration of a first scrape by scrape_timeout."""
    if seconds <= limit:
        return ()
    what = f"the first scrape took {seconds:.1f} s, longer than the {limit:g} s of scrape_timeout"
    advice = "Later ones are faster; if not, set cache or limit of the slow collectors."
    return (Finding("warning", what, advice=advice),)


def sql_to_mend(found: Iterable[Finding]) -> str:
    """Put the SQL of all findings into one block to copy; of a statement that occurs twice the last one stays."""
    blocks: dict[str, list[str]] = {}
    for finding in found:
        blocks.setdefault(finding.database, []).extend(finding.sql)
    lines: list[str] = []
    for database, statements in sorted(blocks.items()):
        lines += [f"-- in database {printable(quoted(database))}:"] if database and statements else []
        lines += [_on_one_line(each) for each in reversed(dict.fromkeys(reversed(statements)))]
    return "\n".join(lines)


def _on_one_line(sql: str) -> str:
    """Leave SQL as a comment where a name in it has line breaks or controls, which would not be what is read here."""
    return sql if sql.isprintable() else f"-- has a name that cannot be shown as it is: {printable(sql)}"


def _version(answers: Answers) -> Iterator[Finding]:
    major = answers.version[0]
    if major < OLDEST:
        yield Finding("missing", f"PostgreSQL {major} is too old", advice=f"pgvigil needs {OLDEST} or later.")
    elif major > NEWEST:
        yield Finding("warning", f"PostgreSQL {major} is newer than the versions pgvigil is tested on, up to {NEWEST}")


def _rights(answers: Answers) -> Iterator[Finding]:
    if MONITOR in answers.rights:
        yield Finding("ok", f"role {answers.role} has the rights of {MONITOR}")
    elif MONITOR in answers.memberships:
        what = f"role {answers.role} is a member of {MONITOR} but does not inherit its rights"
        yield Finding("missing", what, _grant(answers))
    else:
        what = f"role {answers.role} is not a member of {MONITOR}: it cannot see what other roles do"
        yield Finding("missing", what, _grant(answers))


def _grant(answers: Answers) -> tuple[str, ...]:
    """Grant the rights so that they are inherited: since 16 that is up to the grant, before it was up to the role."""
    grant = f"GRANT {MONITOR} TO {quoted(answers.role)}"
    if answers.version[0] >= 16:
        explicit = not answers.inherits or MONITOR in answers.memberships
        return (f"{grant} WITH INHERIT TRUE;" if explicit else f"{grant};",)
    return (f"{grant};",) if answers.inherits else (f"ALTER ROLE {quoted(answers.role)} INHERIT;", f"{grant};")


def _superuser(answers: Answers) -> Iterator[Finding]:
    if answers.superuser:
        yield Finding(
            "warning",
            f"role {answers.role} is a superuser, which is more than the exporter needs",
            advice="Let it connect as a role of its own: `pgvigil grants` prints the SQL that creates one.",
        )


def _connection_limit(answers: Answers, connections: int) -> Iterator[Finding]:
    if answers.superuser or answers.connection_limit < 0:
        return
    what = f"role {answers.role} may hold {answers.connection_limit} connections; pgvigil uses up to {connections}"
    if answers.connection_limit >= connections:
        yield Finding("ok", what)
    else:
        yield Finding("missing", what, (f"ALTER ROLE {quoted(answers.role)} CONNECTION LIMIT {2 * connections};",))


def _free_connections(answers: Answers, connections: int) -> Iterator[Finding]:
    """Count the slots that are left for us; from 16 on a server can keep some for roles like ours."""
    reserved, ours = _number(answers, "reserved_connections"), answers.superuser or RESERVED in answers.rights
    kept = 0 if answers.superuser else _number(answers, "superuser_reserved_connections")
    free = _number(answers, "max_connections") - kept - (0 if ours else reserved) - answers.backends
    if reserved and not ours:
        what = f"{reserved} connections are reserved for members of {RESERVED}, and {answers.role} is none"
        yield Finding("warning", what, (f"GRANT {RESERVED} TO {quoted(answers.role)};",))
    if free < connections:
        what = f"only {max(free, 0)} connections are free; pgvigil uses up to {connections}"
        yield Finding("warning", what, advice=_more_connections(answers))


def _more_connections(answers: Answers) -> str:
    if answers.version[0] < 16:
        return "Raise max_connections, or let the applications share connections."
    return f"Raise max_connections, or set reserved_connections and grant {answers.role} {RESERVED} (`pgvigil grants`)."


def _databases(answers: Answers) -> Iterator[Finding]:
    for name in answers.closed:
        if name not in PROVIDERS:
            yield Finding(
                "missing",
                f"role {answers.role} may not connect to database {name}: its tables stay unseen",
                (f"GRANT CONNECT ON DATABASE {quoted(name)} TO {quoted(answers.role)};",),
            )
    for name, error in answers.unreachable.items():
        advice = "Check again, and look at the server's log."
        if error.reason == "authentication":
            advice = f"Let role {answers.role} in: a line of pg_hba.conf for database {name}, or for all."
        elif error.reason == "too_many_connections":
            advice = f"Raise the CONNECTION LIMIT of database {name} or of role {answers.role}, or end sessions."
        yield Finding("missing", f"no connection to database {name}: {error}", advice=advice)
    for pattern in answers.idle_patterns:
        advice = "include_databases and exclude_databases take shell patterns: shop_* is shop_ and what follows."
        yield Finding("warning", f"no database matches {pattern}", advice=advice)


def _statements(answers: Answers) -> Iterator[Finding]:
    """Judge pg_stat_statements, whose settings exist only once its library is loaded."""
    track = answers.settings.get("pg_stat_statements.track")
    if track is None:
        yield _preload(answers)
        return
    yield Finding("ok", "pg_stat_statements is preloaded")
    if track.value == "none":
        yield _switched(answers, "warning", "pg_stat_statements.track", "top", "no statement is counted")
    if (found := answers.settings.get("compute_query_id")) and found.value == "off":
        yield _switched(answers, "warning", "compute_query_id", "auto", "no statement is counted")


def _crowded(answers: Answers, queries: int) -> Iterator[Finding]:
    """Judge whether our own queries, an entry each in every database, crowd out those of the applications."""
    most, ours = _number(answers, "pg_stat_statements.max"), queries * len(answers.extensions)
    if most and ours > most / 2:
        databases = len(answers.extensions)
        what = f"pg_stat_statements.max is {most}, and what pgvigil asks in {databases} databases takes {ours} of it"
        wanted = math.ceil((2 * ours + DEFAULT_MOST) / 1000) * 1000
        sql = f"ALTER SYSTEM SET pg_stat_statements.max = {literal(str(wanted))};  -- takes a restart"
        yield Finding("warning", what, (sql,))


def _preload(answers: Answers) -> Finding:
    """Add the library to those that are loaded already."""
    what = "pg_stat_statements is not preloaded: nothing is known about statements"
    name = "shared_preload_libraries"
    found = answers.settings.get(name)
    if found is None:
        advice = f"Grant {MONITOR} and check again: {name} has to keep what it holds, which this role cannot see yet."
        return Finding("missing", what, advice=advice)
    if found.pending_restart:
        advice = f"A change of {name} waits for a restart: restart PostgreSQL and check again."
        return Finding("missing", what, advice=advice)
    if found.source == "command line":
        advice = f"{_on_command_line(name)}, add pg_stat_statements to it, and restart PostgreSQL."
        return Finding("missing", what, advice=advice)
    wanted = ", ".join(literal(library) for library in (*libraries(found.value), STATEMENTS))
    sql = f"ALTER SYSTEM SET {name} = {wanted};  -- takes a restart"
    return Finding("missing", what, (sql,), f"Add it to {name} and restart PostgreSQL. {_MANAGED}")


_MANAGED = "A managed service has a parameter group for this instead of ALTER SYSTEM."


def _on_command_line(name: str) -> str:
    return f"{name} is given on the server's command line, which wins over ALTER SYSTEM: change it there"


def libraries(value: str) -> list[str]:
    """Split a list such as shared_preload_libraries into its names."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^",\s](?:[^,]*[^,\s])?)', value)
    return [quoted_name.replace('""', '"') or plain for quoted_name, plain in found]


def _extension(answers: Answers, name: str) -> Iterator[Finding]:
    offers = {database: found[name] for database, found in answers.extensions.items() if name in found}
    installed = {database: offer for database, offer in offers.items() if offer.installed is not None}
    if not offers:
        advice = "Install it on the server: most are in its contrib package, such as postgresql-contrib."
        yield Finding("missing", f"the server has no extension {name}", advice=advice)
    elif not installed:
        sql = f"CREATE EXTENSION {_extension_name(name)};"
        yield Finding("missing", f"extension {name} is in no database", (sql,), database=answers.database)
    for database, offer in installed.items():
        yield from _installed(answers, name, database, offer)


def _installed(answers: Answers, name: str, database: str, offer: Offer) -> Iterator[Finding]:
    what = f"extension {name} {offer.installed} is in database {database}"
    if not offer.usable:
        sql = f"GRANT USAGE ON SCHEMA {quoted(offer.schema)} TO {quoted(answers.role)};"
        what = f"{what}, in schema {offer.schema}, which role {answers.role} may not use"
        yield Finding("missing", what, (sql,), database=database)
    elif _numbers(offer.installed or "") < _numbers(offer.default):
        sql = f"ALTER EXTENSION {_extension_name(name)} UPDATE;"
        yield Finding(
            "warning", f"{what}; the server has {offer.default}, which may count more", (sql,), database=database
        )
    else:
        yield Finding("ok", what)


def _extension_name(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else quoted(name)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


_SWITCHES: tuple[tuple[Level, str, str], ...] = (
    ("missing", "track_activities", "nobody can see what sessions do"),
    ("missing", "track_counts", "tables have no statistics, and autovacuum does not run"),
    ("warning", "track_io_timing", "all times of reading and writing stay 0"),
    ("warning", "autovacuum", "dead rows pile up, and transaction ids run out"),
)


def _switches(answers: Answers) -> Iterator[Finding]:
    for level, name, result in _SWITCHES:
        found = answers.settings.get(name)
        if found and found.value == "off":
            yield _switched(answers, level, name, "on", result)
        elif found:
            yield Finding("ok", f"{name} is on")


def _switched(answers: Answers, level: Level, name: str, value: str, result: str) -> Finding:
    """Say what a setting that is off costs, and how to set it."""
    what = f"{name} is {answers.settings[name].value}: {result}"
    if answers.settings[name].source == "command line":
        return Finding(level, what, advice=f"{_on_command_line(name)}.")
    return Finding(level, what, (f"ALTER SYSTEM SET {name} = {literal(value)};", "SELECT pg_reload_conf();"))


def _number(answers: Answers, name: str) -> int:
    return int(answers.settings[name].value) if name in answers.settings else 0
