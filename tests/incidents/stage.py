"""What incidents are played on: shops and exporters, a Prometheus with our rules, an Alertmanager with our routing."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from alerting import (
    ALERTMANAGER,
    ALERTS,
    Alertmanager,
    Event,
    PagerDuty,
    alertmanager,
    on_loopback,
    pagerduty,
    routing,
    running,
)
from servers import NEWEST, build, program
from serving import serving

from exporter.demo.cluster import FAST, Cluster, free_port
from exporter.demo.shop import MONITOR, SETTINGS, Shop

PROMETHEUS = ("prometheus", "Debian's package is called prometheus")
PROMTOOL = ("promtool", "it comes with Prometheus")

JOB = "postgresql"
EVERY = "5s"
"""How often Prometheus scrapes and evaluates."""

OTHERS_MAY_FOLLOW = 10.0
"""Seconds within which all that is found at once has been told."""

PASSWORD = "open sesame"  # of servers that live for minutes on loopback
HEALTHY: Mapping[str, str] = {
    **{name: value for name, value in SETTINGS.items() if name not in FAST},
    "max_prepared_transactions": "10",
}
"""The shop's settings, as they should be."""


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, whose targets come and go."""

    url: str
    targets: Path
    log: Path

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
    folder: Path, alertmanager_address: str, *flags: str, evaluation_interval: str = EVERY
) -> Iterator[Prometheus]:
    """A Prometheus with our rules; it scrapes nothing yet. Blocks of the past may lie in folder/data."""
    address, targets, log = f"127.0.0.1:{free_port()}", folder / "targets.json", folder / "prometheus.log"
    if not targets.exists():
        targets.write_text("[]")
    config = {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": evaluation_interval},
        "rule_files": [str(ALERTS / "rules" / "*.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager_address]}]}]},
        "scrape_configs": [
            {"job_name": JOB, "file_sd_configs": [{"files": [str(targets)], "refresh_interval": EVERY}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        str(program(*PROMETHEUS)),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--storage.tsdb.retention.time=1y",
        *flags,
    ]
    with running(command, log, f"http://{address}/-/ready"):
        yield Prometheus(f"http://{address}", targets, log)


@dataclass
class Played:
    """A shop on which an incident is played, and where its exporter serves."""

    shop: Shop
    address: str


@dataclass
class Stage:
    """All that is between the cause of an incident and the person who is paged."""

    folder: Path
    prometheus: Prometheus
    alertmanager: Alertmanager
    pagerduty: PagerDuty
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1000)))

    @asynccontextmanager
    async def shop(self, settings: Mapping[str, str] | None = None) -> AsyncIterator[Played]:
        """A new shop in good order that has been scraped for a while."""
        cluster = new_server(self.folder / f"server{next(self.numbers)}", {**HEALTHY, **(settings or {})})
        try:
            await asyncio.to_thread(cluster.__enter__)
            shop = Shop(cluster, PASSWORD)
            await asyncio.to_thread(shop.furnish)
            async with self.watched(shop.dsn(MONITOR)) as address:
                yield Played(shop, address)
        finally:
            await asyncio.to_thread(cluster.remove)

    @asynccontextmanager
    async def watched(self, dsn: str, **settings: str) -> AsyncIterator[str]:
        """An exporter for a server, which Prometheus scrapes; gives its address, which is the label instance."""
        exporter = serving(dsn=dsn, **settings)
        running = await asyncio.to_thread(exporter.__enter__)
        address = running.url.removeprefix("http://")
        try:
            self.prometheus.scrape(address)
            await self.scraped(address)
            yield address
        finally:
            self.prometheus.leave(address)
            await asyncio.to_thread(exporter.__exit__, None, None, None)

    async def scraped(self, instance: str, times: int = 3) -> None:
        """Wait until an instance has been scraped so many times."""
        seconds = 60.0 + 5 * times
        give_up = time.monotonic() + seconds
        asked = f'count_over_time(pg_up{{instance="{instance}"}}[10m]) >= {times}'
        while not await asyncio.to_thread(self.prometheus.query, asked):
            assert time.monotonic() < give_up, f"{instance} was not scraped {times} times within {seconds:g} s"
            await asyncio.sleep(0.5)

    async def event(
        self, alertname: str, instance: str, says: Collection[str] = (), *, since: float, seconds: float
    ) -> Event | None:
        """The first event about an alert of an instance that says all that; failing that, the first; None for none."""
        give_up = time.time() + seconds
        while True:
            found = [e for e in self.pagerduty.about(alertname, since=since) if e.source == instance]
            if telling := [event for event in found if all(each in event.text for each in says)]:
                return telling[0]
            if found and time.time() > found[0].at + OTHERS_MAY_FOLLOW:
                return found[0]
            if time.time() > give_up:
                return None
            await asyncio.sleep(0.1)


def new_server(folder: Path, settings: Mapping[str, str]) -> Cluster:
    """A server of its own, not started yet."""
    return Cluster(build(NEWEST), folder, settings=settings, auth="scram-sha-256", password=PASSWORD)


@contextmanager
def stage(folder: Path, *flags: str) -> Iterator[Stage]:
    """Alertmanager with our routing (only keys and addresses changed), Prometheus with our rules, and the stand-in."""
    folder.chmod(0o755)  # the servers run as another user
    with pagerduty() as stub:
        config = on_loopback(routing(), folder, stub)
        with (
            alertmanager(program(*ALERTMANAGER), config, folder) as manager,
            prometheus(folder, manager.address, *flags) as prom,
        ):
            yield Stage(folder, prom, manager, stub)


def promtool() -> Path:
    """The tool that writes blocks."""
    return program(*PROMTOOL)


def clear(folder: Path) -> None:
    """Leave nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)
