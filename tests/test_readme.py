"""README.md tells the truth about what can be looked up."""

from pathlib import Path

import pytest
from alerts.ruleset import load
from click import Command

from exporter.__main__ import cli
from exporter.catalog.model import Collector
from exporter.configuration import load_settings
from exporter.connection_settings import Connection, SourceSettings
from exporter.history.historian import Historian
from exporter.settings import PREFIX, Settings
from exporter.web.scraper_routes import ScraperRoutes
from exporter.web.user_pages import create_user_app

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def settings_table() -> str:
    """Describe every setting, as README.md has it."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if not default or "Secret" in type(default).__name__ else f"`{default}`"
        shown = "`false`" if default is False else shown
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines)


def test_the_table_of_settings_is_up_to_date() -> None:
    table = f"| variable | default | meaning |\n|---|---|---|\n{settings_table()}"
    assert table in README, f"put this into README.md:\n{table}"


def sources_table() -> str:
    """Describe every key of a source that a target does not have, as README.md has it."""
    lines = []
    for name, field in SourceSettings.model_fields.items():
        if name not in Connection.model_fields:
            shown = f"`{field.default}`" if not field.is_required() and field.default else ""
            lines.append(f"| `{name}` | {shown} | {field.description} |")
    return "\n".join(lines)


def test_the_table_of_sources_is_up_to_date() -> None:
    assert sources_table() in README, f"put this into README.md:\n{sources_table()}"


@pytest.mark.parametrize("command", cli.commands.values(), ids=lambda command: command.name)
def test_every_command_is_described(command: Command) -> None:
    assert f"| `pgvigil {command.name}` |" in README


def test_every_route_is_described() -> None:
    settings = load_settings()
    app = create_user_app({}, settings, ScraperRoutes({}, settings), Historian({}, settings))
    routes = [*(getattr(route, "path", "") for route in app.routes), *app.openapi()["paths"]]
    assert "/api/v1/targets" in routes
    assert [path for path in routes if f"`{path}" not in README] == []


def test_every_key_of_the_collector_format_is_described() -> None:
    assert [key for key in Collector.model_fields if f"`{key}`" not in README and f"{key}: " not in README] == []


def test_the_number_of_alerts_is_up_to_date() -> None:
    assert f"`alerts/` has {len(load().alerts)} alert rules " in README
