"""Writes SQL as text: quotes names and values, tags a statement with its collector's name. Pure."""


def quoted(identifier: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def signed(sql: str, name: str) -> str:
    """Say in a comment who asks, for people who look at the server, and to know our own costs there.

    It stands at the end, since PostgreSQL 18 tells pg_stat_statements nothing of what stands before a statement.
    """
    return f"{without_end(sql)}\n/* pgvigil:{name} */"


def without_end(sql: str) -> str:
    """Take the end off a statement, so that it can stand within another."""
    return sql.rstrip().rstrip(";")


def literal(value: str) -> str:
    """Quote a value for SQL."""
    return "'" + value.replace("'", "''") + "'"
