"""Reads runbooks: their headings and their blocks of SQL, with psql's variables filled in."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alerts.ruleset import ALERTS

RUNBOOKS = ALERTS / "runbooks"

FENCE = re.compile(r"```sql(?P<owner> owner)?(?: (?P<since>\d+))?")

# Strings, quoted names, bodies and comments are passed over: neither a variable nor a semicolon in them counts.
PIECES = re.compile(
    r"""
    (?P<over> '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | --[^\n]* | :: )
    | : (?: '(?P<literal>\w+)' | "(?P<name>\w+)" | (?P<plain>[a-z_]\w*) )
    | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """SQL to paste, and who may run it where."""

    file: str
    line: int
    sql: str
    owner: bool
    since: int

    def statements(self, values: Mapping[str, str]) -> list[str]:
        """The statements one by one, as psql sends them with these variables set; KeyError for one it lacks."""
        return [text for part in _split(self.sql, values) if (text := part.strip())]

    @property
    def variables(self) -> set[str]:
        """The variables of psql in it."""
        found = PIECES.finditer(self.sql)
        return {name for one in found if (name := one["literal"] or one["name"] or one["plain"])}

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:\n{self.sql}"


def _split(sql: str, values: Mapping[str, str]) -> Iterator[str]:
    text, at = "", 0
    for found in PIECES.finditer(sql):
        text += sql[at : found.start()] + _filled(found, values)
        at = found.end()
        if found["end"]:
            yield text
            text = ""
    yield re.sub(r"^\s*--[^\n]*$", "", text + sql[at:], flags=re.MULTILINE)


def _filled(found: "re.Match[str]", values: Mapping[str, str]) -> str:
    if found["over"]:
        return found[0]
    if found["literal"]:
        return "'" + values[found["literal"]].replace("'", "''") + "'"
    if found["name"]:
        return '"' + values[found["name"]].replace('"', '""') + '"'
    return values[found["plain"]] if found["plain"] else ""


def blocks(file: Path) -> list[Block]:
    """The blocks of SQL of a runbook; a fence that is not understood is a ValueError."""
    found: list[Block] = []
    lines = file.read_text("utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        if not lines[start].startswith("```sql"):
            continue
        fence = FENCE.fullmatch(lines[start])
        if fence is None:
            raise ValueError(f"{file.name}:{start + 1}: {lines[start]}: write ```sql, ```sql owner or ```sql owner 16")
        sql = "\n".join(lines[start + 1 : end])
        found.append(Block(file.name, start + 2, sql, bool(fence["owner"]), int(fence["since"] or 0)))
    return found


def headings(file: Path) -> list[str]:
    """The headings of a runbook, outside of its blocks."""
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ .*$", text, re.MULTILINE)
