"""Least privileges of the exporter's role: SQL that creates it, or lines of PgBouncer's files. Pure."""

import re

from exporter.errors import SettingsError
from exporter.planning.database_filter import PROVIDERS
from exporter.sql import literal, quoted

_LONGEST_NAME_BYTES = 63
"""PostgreSQL cuts longer names short."""

_SQL = """\
-- The role that pgvigil connects as. Run this as a superuser on the primary, with psql, in the database
-- that pgvigil connects to; it may be run again.

DO {quote}
BEGIN
    CREATE ROLE {role};
EXCEPTION WHEN duplicate_object THEN
    RAISE NOTICE 'the role is there already';
END
{quote};

-- Twice the connections that pgvigil uses (max_connections_per_target: {connections}), so that `pgvigil check`
-- or a successor can connect while it runs.
ALTER ROLE {role} LOGIN INHERIT CONNECTION LIMIT {limit};

-- Its password, unless pg_hba.conf lets it in without one. psql asks for it and sends it hashed:
--   \\password {role}
-- or in a script:
--   ALTER ROLE {role} PASSWORD 'put the password here';

-- Statistics and settings of the whole server; no right to read or write a table.
GRANT pg_monitor TO {role};

-- Databases that were closed to the public.
DO {quote}
DECLARE
    name text;
BEGIN
    FOR name IN SELECT datname
                  FROM pg_catalog.pg_database
                 WHERE datallowconn
                   AND NOT datistemplate
                   AND NOT has_database_privilege('public', oid, 'CONNECT')
                   AND datname NOT IN ({providers})
    LOOP
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO ', name) || {role_text};
    END LOOP;
END
{quote};

-- Statistics of statements. They need a library that is loaded when PostgreSQL starts; once it is, the extension
-- is created here, in the database of this session, which is enough for all databases.
DO {quote}
DECLARE
    libraries text;
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_settings WHERE name = 'pg_stat_statements.track') THEN
        CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
    ELSE
        SELECT string_agg(quote_literal(library), ', ' ORDER BY place)
          INTO libraries
          FROM (SELECT btrim(part, ' "') AS library,
                       place
                  FROM regexp_split_to_table(current_setting('shared_preload_libraries') || ',pg_stat_statements', ',')
                       WITH ORDINALITY AS split (part, place)) AS list
         WHERE library <> '';
        RAISE NOTICE 'pg_stat_statements is not preloaded. To see statements, run'
                     ' ALTER SYSTEM SET shared_preload_libraries = %; (a managed service has a parameter group for it),'
                     ' restart PostgreSQL, and run this again.', libraries;
    END IF;
END
{quote};

-- Recommended on PostgreSQL 16 and later: keep connections that applications cannot take, so that pgvigil can connect
-- when max_connections is used up. The setting takes a restart.
--   ALTER SYSTEM SET reserved_connections = {connections};
--   GRANT pg_use_reserved_connections TO {role};

-- Recommended: see how much of its numbers each sequence has given out (pg_schema_unreadable_sequences counts those
-- that cannot be read). In each database, for each schema with sequences and each role that creates some:
--   GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role};
--   ALTER DEFAULT PRIVILEGES FOR ROLE owner_of_the_schema GRANT SELECT ON SEQUENCES TO {role};

-- Recommended: measure the time that reading and writing takes.
--   ALTER SYSTEM SET track_io_timing = 'on';
--   SELECT pg_reload_conf();
"""


_CONSOLE = """\
; The user that pgvigil connects to PgBouncer's console as. In the section [pgbouncer] of pgbouncer.ini add it to those
; that may look and change nothing:
stats_users = {user}

; It needs no role in PostgreSQL, but a line of its own in the file that auth_file names. From a password, for auth_type
; scram-sha-256, md5 or plain (write a quote in it twice):
;   "{user}" "put the password here"
; then, on the console as an admin:
;   RELOAD;
;
; Each connection to the console is a client: pgvigil takes up to two of max_client_conn.
"""


def console_grants(user: str) -> str:
    """Write the lines for PgBouncer."""
    _refuse_bad_name(user)
    if not re.fullmatch(r"[\w.@-]+", user):
        raise SettingsError(f"{user!r} is no user for stats_users: write letters, digits and _ . @ - only")
    return _CONSOLE.format(user=user)


def grants(role: str, connections: int) -> str:
    """Write the SQL for a role of that name and an exporter that uses that many connections."""
    _refuse_bad_name(role)
    return _SQL.format(
        quote=_dollar_quote(role),
        role=quoted(role),
        role_text=literal(quoted(role)),
        connections=connections,
        limit=2 * connections,
        providers=", ".join(map(literal, PROVIDERS)),
    )


def _refuse_bad_name(role: str) -> None:
    """Refuse what PostgreSQL would not take as it is, and what could end a comment."""
    if not role or not role.isprintable() or "\\" in role or len(role.encode()) > _LONGEST_NAME_BYTES:
        raise SettingsError(
            f"{role!r} is no name for a role: write 1 to {_LONGEST_NAME_BYTES} printable bytes without a backslash"
        )
    if role in ("public", "none"):
        raise SettingsError(f"{role!r} is no name for a role: PostgreSQL takes it for all roles, or for none")
    if role.startswith("pg_"):
        raise SettingsError(f"{role!r} is no name for a role: PostgreSQL keeps those that begin with pg_")


def _dollar_quote(text: str) -> str:
    """Make a quote that does not occur in the text."""
    quote = "$do$"
    while quote in text:
        quote = f"{quote[:-1]}o$"
    return quote
