"""The tree of exceptions as errors.py draws it, and the reasons that they take."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from serving import run

from exporter import errors
from exporter.errors import ConnectError, DatabaseError, PgvigilError, QueryError, SettingsError

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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'postgresql://u:s3cret@h/d' is no address", "'postgresql://u:***@h/d' is no address"),
        ("postgresql:/u:s3/c@ret@h/d: no such folder", "postgresql:/u:***@h/d: no such folder"),
        ("postgresql://u@h/d?password=s3cret&sslmode=require", "postgresql://u@h/d?password=***&sslmode=require"),
        ("host=h password=s3cret user=u", "host=h password=*** user=u"),
        ("host=h password = 's3 \\' cret' user=u", "host=h password = *** user=u"),
        ("w.yml: $2b$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG: no", "w.yml: ***: no"),
        ("$argon2id$v=19$m=65536,t=3$c29tZXNhbHQ$a+b+dWRWJTmaaJObG", "***"),
        ("costs $5 or $10", "costs $5 or $10"),
        ("http://127.0.0.1:9187/metrics and a@b", "http://127.0.0.1:9187/metrics and a@b"),
    ],
)
def test_no_error_shows_a_password_that_stands_where_something_else_was_asked_for(text: str, shown: str) -> None:
    assert str(SettingsError(text)) == shown


@pytest.mark.parametrize("arguments", [["scrape"], ["scrape", "--target"], ["check", "--config"], ["rules", "folder"]])
def test_nor_does_the_command_line(arguments: list[str]) -> None:
    done = run(*arguments, "postgresql://u:s3cret@h/d", dsn="host=127.0.0.1 port=1")
    assert done.returncode != 0
    assert "postgresql:" in done.stdout + done.stderr
    assert "s3cret" not in done.stdout + done.stderr
