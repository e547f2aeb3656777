"""The Grafana dashboards, with links to the user's own runbooks. Grafana itself asks for the data source."""

import json
from pathlib import Path
from typing import Any

from exporter.commands.rules import RUNBOOKS, Values


def built_in() -> Path:
    """Find the built-in dashboards: beside this package when installed, one folder up in a checkout."""
    here = Path(__file__).parents[1]
    installed = here / "grafana"
    return installed if installed.is_dir() else here.parent / "dashboards"


def dashboard_files(values: Values, folder: Path) -> dict[str, str]:
    """Return the dashboards with these values: file name -> text."""
    texts = {file.name: file.read_text("utf-8") for file in sorted(folder.glob("*.json"))}
    return {name: _linked(text, values.runbook_base_url.rstrip("/")) for name, text in texts.items()}


def _linked(text: str, base: str) -> str:
    """Return the text with links to these runbooks, or without links."""
    if base:
        return text.replace(RUNBOOKS, json.dumps(base)[1:-1])
    return json.dumps(_without_runbooks(json.loads(text)), indent=2, ensure_ascii=False) + "\n"


def _without_runbooks(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_runbooks(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_without_runbooks(value) for value in part if not _leads_to_runbooks(value)]
    return part


def _leads_to_runbooks(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("url", "")).startswith(RUNBOOKS)
