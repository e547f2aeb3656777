"""The settings of every session of ours: they protect the server from us, and our queries from the role's settings."""

from exporter.connections.session import APPLICATION_NAME

PINNED = "pg_catalog"
"""The search_path of all but queries that ask for the role's own, so that they cannot be redirected."""

GUARD_RAILS = {
    "default_transaction_isolation": "'read committed'",
    "default_transaction_deferrable": "off",
    "application_name": f"'{APPLICATION_NAME}'",
    "default_transaction_read_only": "on",
    "lock_timeout": "'100ms'",
    "idle_in_transaction_session_timeout": "'10s'",
    "jit": "off",
    "search_path": PINNED,
    "max_parallel_workers_per_gather": "0",
    "work_mem": "'4MB'",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "extra_float_digits": "1",
    "DateStyle": "'ISO, MDY'",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "xmloption": "content",
}
"""Set with SET in every session, since a connection pooler refuses them as start-up parameters.

The last ten decide what a query means and how its text is written, and may have been set for our role. TimeZone stays:
no value depends on it, and own queries that ask for today mean the server's day.
"""

LIMITS_SINCE = {0: "statement_timeout", 14: "idle_session_timeout", 17: "transaction_timeout"}
"""Time limits that may be set for our role, by the major version that brought them: off, as each query gets its own.

They go first, in a message of their own, since parsing a longer one may already take longer than they allow.
"""

FAREWELL = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "'1s'",
}
"""So that a backend of ours ends soon after we are gone, also in the middle of a query; PostgreSQL 14 on Linux."""
