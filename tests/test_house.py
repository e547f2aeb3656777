"""How the package is cut: import-linter keeps the direction of the arrows, this the rooms themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter

PACKAGE = Path(exporter.__file__).parent
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for(room: Path) -> None:
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8")))


def test_every_folder_of_modules_is_a_package() -> None:
    """One without __init__.py would be seen neither by import-linter nor by the tests here."""
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


LONGEST = {"module": 350, "class": 200, "function": 40}
"""Lines that one of each may have: past that it does more than one thing."""


def _lengths(file: Path) -> Iterator[tuple[str, str, int]]:
    """Measure a module, its classes and its functions, docstrings and decorators included."""
    text = file.read_text("utf-8")
    yield "module", "", len(text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield kind, node.name, (node.end_lineno or first) - first + 1


def test_nothing_is_too_long() -> None:
    found = [
        f"{file.relative_to(PACKAGE)} {name}: {lines} lines, {LONGEST[kind]} at most in a {kind}"
        for file in PACKAGE.rglob("*.py")
        for kind, name, lines in _lengths(file)
        if lines > LONGEST[kind]
    ]
    assert found == []
