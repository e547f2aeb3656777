"""How the package is cut: import-linter keeps the direction of the arrows, this the rooms themselves."""

import ast
from pathlib import Path

import pytest

import exporter

ROOMS = sorted(path.parent for path in Path(exporter.__file__).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for(room: Path) -> None:
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8")))
