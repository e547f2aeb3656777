"""Reads `.pgpass` as libpq does: https://www.postgresql.org/docs/18/libpq-pgpass.html.

The driver's own reader fails at a line that is none of libpq's, and takes no backslash out of a password.
"""

import re
import stat
from pathlib import Path

from exporter.small_file import OddFileError, read_small

_FIELD = re.compile(r"((?:\\.|[^:\\])*)(:|\\?$)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_FIELDS = 5
"""Host, port, database, user, password; libpq leaves a line with fewer out, and reads nothing behind them."""


def is_open(file: Path) -> bool:
    """Return whether others may use the file, for which libpq ignores it."""
    return bool(stat.S_IMODE(file.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO))


def password_in(file: Path, server: tuple[str, str], database: str, user: str) -> str | None:
    """Return the password of the first line for a server, host and port; None without one.

    Like libpq, go without a file that cannot be read.
    """
    try:
        if not file.is_file() or is_open(file):
            return None
        lines = read_small(file).decode("utf-8", "replace").split("\n")
    except (OSError, OddFileError):
        return None
    wanted = (*server, database, user)
    for fields in map(_fields, lines):
        if len(fields) == _FIELDS and all(map(_matches, fields, wanted)):
            return _unescaped(fields[-1])
    return None


def _fields(line: str) -> list[str]:
    fields: list[str] = []
    for found in _FIELD.finditer("" if line.startswith("#") else line.removesuffix("\r")):
        fields.append(found[1])
        if found[2] != ":" or len(fields) == _FIELDS:
            break
    return fields


def _matches(field: str, value: str) -> bool:
    return field == "*" or _unescaped(field) == value


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(r"\1", field)
