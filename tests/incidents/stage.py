"""What incidents are played on: shops and exporters, a Prometheus with our rules, an Alertmanager with our routing."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

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
)
from prom import PROMETHEUS, PROMTOOL, Prometheus, prometheus
from servers import NEWEST, build, program
from serving import serving

from exporter.demo.cluster import FAST, Cluster
from exporter.demo.shop import MONITOR, SETTINGS, Shop

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


@contextmanager
def watching(folder: Path, alertmanager_address: str, *flags: str, evaluated: str = "") -> Iterator[Prometheus]:
    """A Prometheus with our rules."""
    rules = [ALERTS / "rules" / "*.yml"]
    found = program(*PROMETHEUS)
    with prometheus(
        found, folder, *flags, every=EVERY, evaluated=evaluated, rules=rules, alertmanager=alertmanager_address
    ) as prom:
        yield prom


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
        asked = f'count_over_time({{__name__=~"pg_up|pgbouncer_up",instance="{instance}"}}[10m]) >= {times}'
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


class YieldingCluster(Cluster):
    """A server whose processes yield to what watches it, which would be on another machine."""

    def start(self) -> None:
        """Start it; every backend has the priority of the postmaster that forks it."""
        super().start()
        os.setpriority(os.PRIO_PROCESS, self.pid, _PRIORITY)


_PRIORITY = 10
"""Nice value of the servers: a tenth of the weight of exporter, Prometheus and Alertmanager, which share the cores."""


def new_server(folder: Path, settings: Mapping[str, str]) -> Cluster:
    """A server of its own, not started yet."""
    return YieldingCluster(build(NEWEST), folder, settings=settings, auth="scram-sha-256", password=PASSWORD)


@contextmanager
def stage(folder: Path, *flags: str) -> Iterator[Stage]:
    """Alertmanager with our routing (only keys and addresses changed), Prometheus with our rules, and the stand-in."""
    folder.chmod(0o755)  # the servers run as another user
    with pagerduty() as stub:
        config = on_loopback(routing(), folder, stub)
        with (
            alertmanager(program(*ALERTMANAGER), config, folder) as manager,
            watching(folder, manager.address, *flags) as prom,
        ):
            yield Stage(folder, prom, manager, stub)


def promtool() -> Path:
    """The tool that writes blocks."""
    return program(*PROMTOOL)


def clear(folder: Path) -> None:
    """Leave nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)
