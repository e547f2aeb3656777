"""Runs a Prometheus on loopback, whose targets come and go, and asks it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from programs import running

from exporter.demo.cluster import free_port

PROMETHEUS = ("prometheus", "Debian's package is called prometheus")
PROMTOOL = ("promtool", "it comes with Prometheus")

JOB = "postgresql"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, whose targets come and go."""

    url: str
    targets: Path
    """The file that lists them."""
    log: Path
    """What it says of itself."""

    def scrape(self, *addresses: str, **labels: str) -> None:
        """Scrape these from now on, too."""
        self._write([*self._read(), {"targets": list(addresses), "labels": labels}])

    def leave(self, address: str) -> None:
        """Scrape it no longer."""
        self._write([group for group in self._read() if group["targets"] != [address]])

    def query(self, expression: str) -> list[Any]:
        """Ask for an instant vector, or a matrix."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", answer
        result: list[Any] = answer["data"]["result"]
        return result

    def rules(self) -> list[Any]:
        """The alerting rules, as Prometheus sees them."""
        groups = httpx.get(f"{self.url}/api/v1/rules", params={"type": "alert"}, timeout=30).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self, alertname: str, instance: str) -> list[Any]:
        """The alerts of an instance that fire."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        wanted = {"alertname": alertname, "instance": instance}
        return [a for a in alerts if a["state"] == "firing" and wanted.items() <= a["labels"].items()]

    def _read(self) -> list[Any]:
        groups: list[Any] = json.loads(self.targets.read_text())
        return groups

    def _write(self, groups: list[Any]) -> None:
        new = self.targets.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.rename(self.targets)


@contextmanager
def prometheus(
    program: Path,
    folder: Path,
    *flags: str,
    every: str,
    evaluated: str = "",
    rules: Sequence[Path] = (),
    alertmanager: str = "",
    job: Mapping[str, Any] | None = None,
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes and evaluates so often, no target yet; blocks of the past may lie in folder/data.

    A job of the caller's stands in for the one whose targets are in a file.
    """
    address, targets, log = f"127.0.0.1:{free_port()}", folder / "targets.json", folder / "prometheus.log"
    if not targets.exists():
        targets.write_text("[]")
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": evaluated or every},
        "rule_files": [str(rule) for rule in rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []},
        "scrape_configs": [
            {"job_name": JOB, **(job or {"file_sd_configs": [{"files": [str(targets)], "refresh_interval": every}]})}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        str(program),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--storage.tsdb.retention.time=1y",
        *flags,
    ]
    with running(command, log, f"http://{address}/-/ready"):
        yield Prometheus(f"http://{address}", targets, log)
