"""The tree of exceptions as errors.py draws it, and the reasons that they take."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter import errors
from exporter.errors import ConnectError, DatabaseError, PgvigilError, QueryError

if TYPE_CHECKING:  # mypy fails when it no longer finds one of these mistakes, since its ignore is unused then
    ConnectError("permission", "")  # type: ignore[arg-type]
    QueryError("refused", "")  # type: ignore[arg-type]
    DatabaseError("late", "")  # type: ignore[arg-type]


def drawing(cls: type[Exception], indent: str = "") -> Iterator[str]:
    """The classes below one, each on its branch."""
    children = cls.__subclasses__()
    for child in children:
        is_last = child is children[-1]
        yield f"{indent}{'└' if is_last else '├'}── {child.__name__}"
        yield from drawing(child, indent + ("    " if is_last else "│   "))


def test_the_drawing_is_the_tree_of_classes() -> None:
    _, _, tree = (errors.__doc__ or "").partition("\n\n")
    drawn = [re.sub(r"(?<=\w) {2,}.*", "", line) for line in tree.splitlines()]
    assert drawn == [PgvigilError.__name__, *drawing(PgvigilError)]
