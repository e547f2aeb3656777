"""What may be set for our role, or the whole server, by mistake or in bad faith."""

HOSTILE = {
    "statement_timeout": "'200ms'",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "'1ms'",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "default_transaction_read_only": "off",
    "search_path": "hostile, public, pg_catalog",
    "work_mem": "'100GB'",
    "jit": "on",
    "jit_above_cost": "0",
    "log_statement": "'all'",
    "log_min_duration_statement": "0",
    "client_min_messages": "debug5",
    "client_encoding": "latin1",
    "bytea_output": "escape",
    "DateStyle": "'German'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Pacific/Kiritimati'",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "row_security": "off",
    "quote_all_identifiers": "on",
    "escape_string_warning": "on",
    "xmloption": "document",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "geqo_threshold": "2",
    "plan_cache_mode": "force_generic_plan",
    "default_text_search_config": "'pg_catalog.german'",
    "from_collapse_limit": "1",
    "enable_hashjoin": "off",
    "temp_file_limit": "0",
    "application_name": "'somebody else'",
}
"""Settings by name, as SQL."""

HOSTILE_SINCE = {
    14: {"idle_session_timeout": "'200ms'", "client_connection_check_interval": "0"},
    17: {"transaction_timeout": "'200ms'"},
}
"""Those that a major version brought."""


def hostile_to(role: str, major: int) -> str:
    """Make the statements that set all of them for a role."""
    settings = HOSTILE | {k: v for since, more in HOSTILE_SINCE.items() if major >= since for k, v in more.items()}
    return "".join(f"ALTER ROLE {role} SET {name} = {value};" for name, value in settings.items())
