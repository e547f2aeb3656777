"""The runbooks that ship, as text and as HTML, with the values of a case filled in."""

import re
from collections.abc import Mapping
from functools import cache

from markdown_it import MarkdownIt

from exporter.alert_rules import shipped
from exporter.sql import literal, quoted

_VARIABLE = re.compile(r"""(?<![:\w]):(?:'(?P<value>\w+)'|"(?P<name>\w+)"|(?P<number>[a-z_]+)\b)""")
"""A variable of psql in the SQL of a runbook: `:'value'`, `:"identifier"`, or a number."""

_NUMBER = re.compile(r"-?[0-9]{1,20}")


@cache
def runbooks() -> frozenset[str]:
    """Name the alerts that have a runbook."""
    return frozenset(file.stem for file in shipped("runbooks").glob("*.md"))


def markdown(alert: str) -> str:
    """Read the runbook of an alert, one of `runbooks()`."""
    return (shipped("runbooks") / f"{alert}.md").read_text("utf-8")


def runbook(alert: str, values: Mapping[str, str]) -> str:
    """Render the runbook of an alert, one of `runbooks()`; HTML in it stays text.

    Args:
        alert: its name.
        values: labels of the case, which replace the variables of psql in SQL. One that is no number stays a variable
            where a number has to be.

    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown(alert))
    for token in tokens:
        if token.type == "fence":
            token.content = filled(token.content, values)
    rendered: str = parser.renderer.render(tokens, parser.options, {})
    return rendered


def filled(sql: str, values: Mapping[str, str]) -> str:
    """Replace the variables of psql whose values are known."""

    def value_of(found: re.Match[str]) -> str:
        value = values.get(found["value"] or found["name"] or found["number"])
        if value is None or (found["number"] and not _NUMBER.fullmatch(value)):
            return found[0]
        if found["name"]:
            return quoted(value)
        return value if found["number"] else literal(value)

    return _VARIABLE.sub(value_of, sql)
