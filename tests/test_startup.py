"""What a command imports: only what it needs, since each library costs start-up time, and memory for months."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from exporter.__main__ import cli
try:
    cli({arguments!r}, standalone_mode=False)
except SystemExit:
    pass
finally:
    with open({file!r}, "w") as file:
        print(*sys.modules, file=file)
"""

SERVER = {"starlette", "uvicorn", "uvloop", "h11"}
EXTRAS = {"fastapi", "psycopg", "sqlite3", "rich", "jinja2", "pythonjsonlogger", "exporter.demo"}
"""What few need: other kinds of target, `pgvigil now`, the demo, the pages for users, the log as JSON."""
COMMANDS = {"exporter.commands.check", "exporter.commands.rules", "exporter.commands.grants"}


def imported(arguments: list[str], folder: Path) -> set[str]:
    """The modules that a run of the command line has imported at its end. Its log goes on meanwhile, by a thread."""
    file = folder / "modules"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PGVIGIL"))}
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments, file=str(file))],
        env=environment | {"PGVIGIL_DSN": "host=127.0.0.1 port=1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(file.read_text().split())


@pytest.mark.parametrize(
    ("arguments", "needed", "absent"),
    [
        (["grants", "--help"], {"click"}, SERVER | EXTRAS | COMMANDS | {"pydantic", "yaml", "asyncpg"}),
        (["grants"], {"pydantic_settings"}, SERVER | EXTRAS | {"asyncpg", "prometheus_client"}),
        (["rules", "{folder}"], {"yaml"}, SERVER | EXTRAS | {"asyncpg", "prometheus_client", "pydantic_settings"}),
        (["scrape"], {"asyncpg", "yaml"}, SERVER | EXTRAS | COMMANDS),
    ],
    ids=["help", "grants", "rules", "scrape"],
)
def test_a_command_imports_what_it_needs(
    arguments: list[str], needed: set[str], absent: set[str], tmp_path: Path
) -> None:
    found = imported([each.format(folder=tmp_path / "rules") for each in arguments], tmp_path)
    assert found & absent == set()
    assert needed <= found


def test_a_server_imports_nothing_of_other_commands_or_extras() -> None:
    program = "import sys, exporter.__main__, exporter.web.server, exporter.logs; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert found & (EXTRAS | COMMANDS) == set()
    assert {"starlette", "uvicorn", "asyncpg"} <= found
