"""Writes SQL as text: quotes, takes literals out, tags a statement with its collector's name. Pure."""

import re


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


_LITERAL = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*(?:(?!/\*).)*?\*/)
    | (?P<nested>/\*.*)  # a comment within a comment, or one without an end: hide the rest
    | (?P<string>
          [eE]'(?:[^'\\]|''|\\.)*(?:'|$)
        | [bBxXnN]?'(?:[^'\\]|''|\\[^'])*(?:\\'.*|'|$)  # \' ends it or not, by a setting: hide the rest
        | (?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|$)
      )
    | (?P<name>"(?:[^"]|"")*(?:"|$) | \$\d+ | [^\W\d]\w*)
    | (?P<number>\d[\w.]*)
    """,
    re.VERBOSE | re.DOTALL,
)


def normalised(text: str) -> str:
    """Replace every literal by `?`: pg_stat_statements leaves them in utility statements, passwords among them."""
    return _LITERAL.sub(lambda found: found[0] if found["name"] else "" if found["comment"] else "?", text).strip()
