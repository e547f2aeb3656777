"""Writes SQL as text: quotes names and values, tags a statement with its collector's name. Pure."""

import re
from sys import intern

_TOKEN = re.compile(
    r"""
    (?P<blank> [\s;]+ | --[^\r\n]* )
    | (?P<block> /\* )
    | [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | (?P<tag> \$(?:[^\W\d]\w*)?\$ ) .*? (?P=tag)
    | [\w$]+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)

_BLOCK = re.compile(r"/\*|\*/")


def quoted(identifier: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def signed(sql: str, name: str) -> str:
    """Say in a comment who asks, for operators of the server, and to know our own statements and their cost there.

    It stands at the end, since PostgreSQL 18 tells pg_stat_statements nothing of what stands before a statement. All
    targets share the text.
    """
    return intern(tagged(without_end(sql), name))


def tagged(sql: str, name: str) -> str:
    """Say in a comment who asks, as `signed` does, in a text that is not kept: one of many, as with a number in it."""
    return f"{sql}\n/* pgvigil:{name} */"


def without_end(sql: str) -> str:
    """Take semicolons, comments and blanks off the end of a statement, so that it can stand within another."""
    text = sql.rstrip()
    if not text.endswith((";", "*/")) and "--" not in text[text.rfind("\n") + 1 :]:
        return text
    at = end = 0
    while found := _TOKEN.match(sql, at):
        at = _block_end(sql, at) if found["block"] else found.end()
        end = end if found["blank"] or found["block"] else at
    return sql[:end]


def _block_end(sql: str, at: int) -> int:
    """Find where a comment ends that begins here; comments nest."""
    level = 0
    for found in _BLOCK.finditer(sql, at):
        level += 1 if found[0] == "/*" else -1
        if level == 0:
            return found.end()
    return len(sql)


def literal(value: str) -> str:
    """Quote a value for SQL, whatever standard_conforming_strings is set to."""
    is_escaped = "\\" in value
    return ("E'" if is_escaped else "'") + value.replace("\\", "\\\\").replace("'", "''") + "'"
