"""Writes configuration for the user's own Grafana and Prometheus, which then show the demo's exporter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from exporter.alert_rules import shipped
from exporter.commands import dashboards, rules
from exporter.commands.owned_files import strangers, write_owned
from exporter.errors import ProvisioningError

SOURCE = "pgvigil"
"""The uid of the data source; the dashboards do not know it, and let one choose."""
FOLDER = "PostgreSQL"
SCRAPED_EVERY = "15s"
COMMAND = "demo"

Document = Mapping[str, Any]


def datasource(prometheus: str) -> Document:
    """Give the Prometheus to ask, which is not made the default of a Grafana that has one."""
    source = {
        "name": "Prometheus (pgvigil)",
        "uid": SOURCE,
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus,
        "jsonData": {"httpMethod": "POST", "timeInterval": SCRAPED_EVERY},
    }
    return {"apiVersion": 1, "datasources": [source]}


def provider(folder: str) -> Document:
    """Give the folder from which Grafana reads the dashboards."""
    found = {
        "name": "pgvigil",
        "folder": FOLDER,
        "type": "file",
        "allowUiUpdates": False,
        "updateIntervalSeconds": 30,
        "options": {"path": folder},
    }
    return {"apiVersion": 1, "providers": [found]}


def scraping(address: str, rule_files: str) -> Document:
    """Give a configuration for Prometheus: the exporter, and the rules that dashboards and alerts live on."""
    return {
        "global": {"scrape_interval": SCRAPED_EVERY, "evaluation_interval": SCRAPED_EVERY},
        "rule_files": [rule_files],
        "scrape_configs": [{"job_name": "postgresql", "static_configs": [{"targets": [address]}]}],
    }


def written(document: Document, says: str) -> str:
    """Give the text of a file."""
    return f"# {says}\n{yaml.safe_dump(dict(document), sort_keys=False)}"


def provision(folder: Path, prometheus: str, address: str) -> list[Path]:
    """Write it all to a folder, and return the files that a user may want to read."""
    folder = folder.resolve()
    boards = folder / "dashboards" / "pgvigil"
    made = {
        folder / "datasources" / "pgvigil.yaml": written(datasource(prometheus), "The Prometheus that Grafana asks."),
        folder / "dashboards" / "pgvigil.yaml": written(provider(str(boards)), "Where Grafana reads our dashboards."),
        folder / "prometheus.yml": written(
            scraping(address, str(folder / "rules" / "*.yml")), "For Prometheus: --config.file of this file."
        ),
    }
    for file in made:
        if strangers(COMMAND, [file.name], file.parent):
            raise ProvisioningError(f"{file}: is there already, and not ours; move it, or name another folder")
    write_owned("dashboards", dashboards.dashboard_files(rules.Values(), dashboards.built_in()), boards)
    write_owned("rules", rules.rule_files(rules.Values(), shipped("rules")), folder / "rules")
    for file, text in made.items():
        write_owned(COMMAND, {file.name: text}, file.parent)
    return list(made)
