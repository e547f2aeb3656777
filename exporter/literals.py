"""Takes literals, which may be secrets or personal data, out of query texts. Pure."""

import re

_LITERAL = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*(?:(?!/\*).)*?\*/)
    | (?P<nested>/\*.*)  # a comment within a comment, or one without an end: hide the rest
    | (?P<string>
          [eE]'(?:[^'\\]|''|\\.)*(?:'|\\?$)
        | [bBxXnN]?'(?:[^'\\]|''|\\[^'])*(?:\\'.*|'|\\?$)  # \' ends it or not, by a setting: hide the rest
        | (?P<tag>\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$).*?(?:(?P=tag)|$)
      )
    | (?P<name>"(?:[^"]|"")*(?:"|$) | \$\d+ | [A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)
    | (?P<number>\d[\w.]*)
    """,
    re.VERBOSE | re.DOTALL,
)


_STATEMENT = re.compile(r"""(?: "(?:[^"]|"")*(?:"|$) | [^;"]++ )+""", re.VERBOSE)

_QUERIES = frozenset(
    ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE", "EXPLAIN", "PREPARE", "DECLARE")
)
"""First words of statements whose bare words are names. In all others a bare word may be a value."""

NAME = r'(?:"(?:[^"]|"")*"|[^\x00-#%-/:->@[-^`{-\x7f]+)'
"""A name: between quotes, or of `[\\w$?\\x80-\\U0010ffff]`, which takes 5 ms to compile where case is ignored."""

_BARE_VALUES = re.compile(
    rf"""
    (?P<setting> \b SET \s+ (?:(?:SESSION|LOCAL)\s+(?!=|TO\b))?+ {NAME} (?:\s*\.\s*{NAME})* \s* (?:=|TO\b) ) \s* \S.*
    | (?P<malformed>
          ^ \s* SET \s+ (?:(?:SESSION|LOCAL)\s+(?!=|TO\b))?+ (?!(?:ROLE|SESSION|TRANSACTION|CONSTRAINTS)\b)
          {NAME} (?:\s*\.\s*{NAME})*
      ) \s+ (?!=|TO\b) \S.*
    | (?P<program> \b PROGRAM ) \s+ \S.*
    | (?P<password> \b (?:\w*PASSW(?:OR)?D|IDENTIFIED\s+BY)\b \s* (?:=|TO\b)? ) \s* [^\s,;)]+
    | (?P<options> \b OPTIONS \s* \( ) [^)]*
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
"""Values without quotes in a utility statement, even in one that is not well formed.

pg_stat_activity shows a statement that failed to parse like any other.
"""

_OPTION = re.compile(rf"\s*(?:(?:ADD|SET|DROP)\s+)?{NAME}", re.IGNORECASE)


def without_literals(text: str) -> str:
    """Replace every literal by `?`: pg_stat_statements leaves them in utility statements, passwords among them."""
    bare = _LITERAL.sub(lambda found: found[0] if found["name"] else "" if found["comment"] else "?", text).strip()
    return _STATEMENT.sub(lambda found: _without_bare_values(found[0]), bare)


def _without_bare_values(statement: str) -> str:
    """Replace the values of a utility statement that stand there without quotes."""
    first = re.search(r"\w+", statement)
    if first and first[0].upper() in _QUERIES:
        return statement
    return _BARE_VALUES.sub(_masked, statement)


def _masked(found: re.Match[str]) -> str:
    if found["options"]:
        inner = found[0][len(found["options"]) :]
        return found["options"] + ",".join(_masked_option(option) for option in inner.split(","))
    return f"{found[found.lastgroup or 0].rstrip()} ?"


def _masked_option(option: str) -> str:
    name = _OPTION.match(option)
    return f"{name[0]} ?" if name and option[name.end() :].strip() else name[0] if name else "?"
