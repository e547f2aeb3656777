"""README.md tells the truth about what can be looked up."""

from pathlib import Path

import pytest
from click import Command

from exporter.__main__ import cli
from exporter.catalog.model import Collector
from exporter.commands.reference import settings_table
from exporter.settings import load_settings
from exporter.web.app import create_app

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_the_table_of_settings_is_up_to_date() -> None:
    assert settings_table() in README, f"put this into README.md:\n{settings_table()}"


@pytest.mark.parametrize("command", cli.commands.values(), ids=lambda command: command.name)
def test_every_command_is_described(command: Command) -> None:
    assert f"| `pgvigil {command.name}` |" in README


def test_every_route_is_described() -> None:
    routes = [getattr(route, "path", "") for route in create_app({}, load_settings()).routes]
    assert routes
    assert [path for path in routes if f"`{path}" not in README] == []


def test_every_key_of_the_collector_format_is_described() -> None:
    assert [key for key in Collector.model_fields if f"`{key}`" not in README and f"{key}: " not in README] == []
