"""Writes dashboards/*.json, and where alerts land: `uv run python dashboards/source/generate.py [--check]`."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # before this folder, whose modules have names that others have too

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.source.landing import landed, landings
from dashboards.source.layout import Dashboard
from exporter.demo import provisioning

ROOT = Path(__file__).parents[2]
COMMAND = "uv run python dashboards/source/generate.py"
PROMETHEUS, MOUNTED = "http://localhost:9090", "/var/lib/grafana/dashboards/pgvigil"
"""What the files for provisioning expect: where Prometheus answers, and where Grafana sees our dashboards."""


def dashboards() -> list[Dashboard]:
    """Give the dashboards of all modules in this folder that make one."""
    names = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "generate")
    modules = [importlib.import_module(f"dashboards.source.{name}") for name in names]
    return [module.dashboard() for module in modules if hasattr(module, "dashboard")]


def written(dashboard: Dashboard) -> str:
    """Give the dashboard's JSON, the same each time."""
    return json.dumps(dashboard.built(), cls=JSONEncoder, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def files() -> dict[Path, str]:
    """Give every file that follows from the dashboards, with its text."""
    made = dashboards()
    where = landings(made)
    rules = {file: landed(file.read_text("utf-8"), where) for file in sorted((ROOT / "alerts" / "rules").glob("*.yml"))}
    return {ROOT / "dashboards" / f"{one.uid}.json": written(one) for one in made} | rules | _provisioning()


def _provisioning() -> dict[Path, str]:
    """The same as `pgvigil demo` writes, for a Grafana that sees this folder and a Prometheus beside it."""
    folder, says = ROOT / "dashboards" / "provisioning", f"Written by {COMMAND}."
    return {
        folder / "datasources" / "pgvigil.yaml": provisioning.written(provisioning.datasource(PROMETHEUS), says),
        folder / "dashboards" / "pgvigil.yaml": provisioning.written(provisioning.provider(MOUNTED), says),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is out of date")
    check = parser.parse_args(arguments).check
    wanted = files()
    old = [file for file, text in wanted.items() if not file.is_file() or file.read_text("utf-8") != text]
    stale = [file for file in sorted((ROOT / "dashboards").glob("*.json")) if file not in wanted]
    if check:
        sys.stderr.writelines(f"{file.relative_to(ROOT)}: out of date; run: {COMMAND}\n" for file in (*old, *stale))
        return 1 if old or stale else 0
    for file in old:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(wanted[file], "utf-8")
    for file in stale:
        file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
