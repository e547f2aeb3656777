"""What we ask of a server besides its collectors: what it is, and what is in it. Pure."""

from exporter.sql import signed

VITALS = signed(
    """
SELECT current_setting('server_version_num')::int AS version,
       pg_is_in_recovery() AS in_recovery,
       current_database()::text AS database,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started,
       (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid())) AS role
""",
    "vitals",
)
"""Reads no catalog that could be locked."""

_BYTES = (
    "CASE getdatabaseencoding() WHEN 'LATIN1' THEN convert_to({0}::text, 'LATIN1') ELSE textsend({0}::text) END"
    " AS bytes"
)
"""Column with the bytes of a name, which of all encodings the server would convert from LATIN1 only."""

DIRECTORY = signed(
    f"""
SELECT oid, datname::text AS name, {_BYTES.format("datname")}, true AS is_database,
       datallowconn AND NOT datistemplate AND datconnlimit NOT IN (-2, 0) AS is_open,
       has_database_privilege(oid, 'CONNECT') AS may_connect
  FROM pg_catalog.pg_database
 UNION ALL
SELECT oid, rolname::text, {_BYTES.format("rolname")}, false, false, false
  FROM pg_catalog.pg_roles
 ORDER BY is_database DESC, bytes
""",  # noqa: S608  # both columns are our own
    "directory",
)
"""The databases, which of them are looked into, and the roles. One that lets nobody in is not."""

CONTENTS = signed(
    """
SELECT e.extname::text AS name,
       e.extversion::text AS version,
       n.nspname::text AS schema,
       EXISTS (SELECT
                 FROM pg_catalog.pg_class
                WHERE oid >= 16384 AND relkind IN ('r', 'p', 'm', 'S') AND relpersistence <> 't') AS has_tables
  FROM (VALUES (1)) AS one
  LEFT JOIN (pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace) ON true
""",
    "contents",
)
"""The extensions of a database, and whether it has tables; one row at least."""

RELATIONS = signed(
    """
SELECT c.oid,
       n.nspname || '.' || c.relname AS name
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1::oid[])
""",
    "relations",
)
"""The names of some relations of this database."""

END_ABANDONED = signed(
    """
SELECT pid,
       pg_terminate_backend(pid)
  FROM pg_stat_get_activity(NULL)
 WHERE pid::oid = ANY ($1::oid[])
   AND application_name = $2
""",
    "end_abandoned",
)
"""Ends those of our own backends that we no longer talk to."""
