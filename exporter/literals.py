"""Takes literals, which may be secrets or personal data, out of query texts. Pure."""

import re

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


def without_literals(text: str) -> str:
    """Replace every literal by `?`: pg_stat_statements leaves them in utility statements, passwords among them."""
    return _LITERAL.sub(lambda found: found[0] if found["name"] else "" if found["comment"] else "?", text).strip()
