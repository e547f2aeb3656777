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
    | (?P<name>"(?:[^"']|"")*" | \$\d{1,4}(?!\d) | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    | (?P<odd>"(?:[^"]|"")*"|".*)  # not closed, or with an apostrophe in it: a text that is not well formed
    | (?P<number>(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][+-]?\d+|\d[\w.]*|\.\d\w*)
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

_EXECUTE = rf"\b EXECUTE\s+(?:(?:FUNCTION|PROCEDURE)\s+)?+{NAME}(?:\s*\.\s*{NAME})* \s* \("
"""Arguments of a prepared statement or a trigger's function are no columns, so they may all go."""

_NAMES = rf"(?:U&)?+(?>{NAME}(?:\s*\.\s*{NAME})*)(?:\s+UESCAPE\s*\?)?+"

_SET = r"""\b SET (?:\s+|(?=")) (?:(?:SESSION|LOCAL)\s+(?!=|TO\b))?+"""
"""Up to the name of a setting. No blank has to stand before one in quotes."""

_BARE_VALUES = re.compile(
    rf"""
    (?P<malformed>
          ^ \s* (?:ALTER\s+(?:SYSTEM|ROLE|USER|DATABASE|FUNCTION|PROCEDURE|ROUTINE)\b .*?)? {_SET}
          (?!(?:ROLE|SESSION|TRANSACTION|CONSTRAINTS|SCHEMA|TABLESPACE)\b) {_NAMES}
      ) (?!\s*(?:=|TO\b)) \s* \S.*
    | (?P<setting> {_SET} {_NAMES} \s* (?:=|TO\b) ) \s* \S.*
    | (?P<program> \b PROGRAM \b ) \s* \S.*
    | (?P<role>
          ^ \s* (?:CREATE|ALTER)\s+(?:ROLE|USER(?!\s+MAPPING\b)|GROUP)\b .*? \b (?:PASSW(?:OR)?D|IDENTIFIED\s+BY)\b
          \s*+ (?:(?:=|TO\b)\s*+)?+
      ) (?!\?(?:[\s;]|$)) \S.*
    | (?P<password> \b (?:\w*PASSW(?:OR)?D|IDENTIFIED\s+BY)\b \s* (?:=|TO\b)? ) \s* (?:"(?:[^"]|"")*(?:"|$)|[^\s,;)"])+
    | (?P<subscription> ^ \s* (?:CREATE|ALTER)\s+SUBSCRIPTION\b .*? \b CONNECTION\b \s*+ ) (?!\?(?:\s|$)) \S.*
    | (?P<reloptions> ^ \s* ALTER\s+SUBSCRIPTION\b .*? \b SET\s*\( ) (?!\s*\)) .*
    | (?P<label> ^ \s* (?:COMMENT\s+ON|SECURITY\s+LABEL)\b .*? \b IS\b ) \s* \S.*
    | (?P<payload> ^ \s* NOTIFY\s+{NAME} (?:\s*,)? ) \s* \S.*
    | (?P<options> \b OPTIONS \s* \( ) (?P<inside> .* )
    | (?P<call> ^ \s* CALL\s+{_NAMES} \s* \( | {_EXECUTE} ) (?P<arguments> .* )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
"""Values without quotes in a utility statement, even in one that is not well formed.

pg_stat_activity shows a statement that failed to parse like any other.
"""

_EXPLAINED = re.compile(rf"(?P<call> {_EXECUTE} ) (?P<arguments> .* )", re.VERBOSE | re.DOTALL | re.IGNORECASE)

_OPTION = re.compile(
    rf"\s*(?:(?:ADD|SET)\s+)?{NAME}\s*\?\s*(?:,|\)|$) | \s*DROP\s+{NAME}\s*(?:,|\)|$)", re.VERBOSE | re.IGNORECASE
)
"""One option that is well formed, with what ends it."""

_OPTION_NAME = re.compile(rf"\s*(?:(?:ADD|SET)\s+)?{NAME}(?=\s+\S)", re.IGNORECASE)

_ALL_LITERALS = re.compile(r"(?:\s*(?:\?|\$\d+)\s*,?)*+\s*(?:\)|$)")


def without_literals(text: str) -> str:
    """Replace every literal by `?`: pg_stat_statements leaves them in utility statements, passwords among them."""
    bare = _LITERAL.sub(_without_literal, text).strip()
    had_value = False

    def masked(found: re.Match[str]) -> str:
        """Mask a statement; a semicolon without a blank may be part of a value that somebody forgot to quote."""
        nonlocal had_value
        statement = re.sub(r"^\S+", "?", found[0]) if had_value else found[0]
        done = _without_bare_values(statement)
        had_value = done != found[0]
        return done

    return _STATEMENT.sub(masked, bare)


def _without_literal(found: re.Match[str]) -> str:
    """Write a blank for a comment: it may be all that stands between two words."""
    return found[0] if found["name"] else " " if found["comment"] else "?"


def _without_bare_values(statement: str) -> str:
    """Replace the values of a utility statement that stand there without quotes."""
    first = re.search(r"\w+", statement)
    word = first[0].upper() if first else ""
    if word == "EXPLAIN":
        return _EXPLAINED.sub(_masked_call, statement)
    return statement if word in _QUERIES else _BARE_VALUES.sub(_masked, statement)


def _masked(found: re.Match[str]) -> str:
    if found["options"]:
        return found["options"] + _masked_options(found["inside"])
    if found["call"]:
        return _masked_call(found)
    return f"{found[found.lastgroup or 0].rstrip()} ?"


def _masked_call(found: re.Match[str]) -> str:
    is_plain = _ALL_LITERALS.match(found["arguments"])
    return found["call"] + (is_plain[0] if is_plain else "?)")


def _masked_options(inside: str) -> str:
    """Keep the options that are well formed; from the first one that is not only its name is kept."""
    end = 0
    while option := _OPTION.match(inside, end):
        end = option.end()
        if option[0].endswith(")"):
            return inside[:end] + _BARE_VALUES.sub(_masked, inside[end:])
    if end == len(inside):
        return inside
    name = _OPTION_NAME.match(inside, end)
    return f"{inside[:end]}{name[0]} ?" if name else f"{inside[:end]}?"
