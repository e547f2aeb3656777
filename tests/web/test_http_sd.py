"""A real Prometheus asks /sd over TLS with certificates on both sides, while targets come, go and are renamed.

`SECONDS=300 uv run pytest --full tests/web/test_http_sd.py` goes on for five minutes.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml
from pages import MONITOR
from patience import wait_until
from prom import PROMETHEUS, Prometheus, prometheus
from serving import serving
from web.authorities import Authorities

from exporter.demo.cluster import Cluster

SECONDS = float(os.environ.get("SECONDS", "60"))
CHANGE_SECONDS = 5
REFRESH_SECONDS = 15
"""Interval at which Prometheus asks for the targets, as documented. It takes up to ten seconds more to act on them."""

MOST_INTERVALS = 2
"""Intervals after which no target is scraped that has gone."""

CHANGES = 6
"""Changes for which a target is there: long enough for Prometheus to see it."""

STAY = ("shop", "blog", "news")


@dataclass
class Fleet:
    """Targets in a file, of which some stay."""

    file: Path
    dsn: str
    gone: dict[str, float] = field(default_factory=dict)
    """When each of the others left."""
    there: tuple[str, ...] = ()

    def become(self, *others: str) -> None:
        """Name these beside those that stay."""
        self.gone |= {name: time.time() for name in set(self.there) - set(others)}
        self.there = others
        written = self.file.with_suffix(".new")
        written.write_text(yaml.safe_dump([{"name": name, "dsn": self.dsn} for name in (*STAY, *others)]))
        written.replace(self.file)


def scraped(prom: Prometheus) -> set[str]:
    """The targets that Prometheus scrapes now."""
    found = httpx.get(f"{prom.url}/api/v1/targets?state=active", timeout=30).json()["data"]["activeTargets"]
    return {each["labels"]["instance"] for each in found}


def samples(prom: Prometheus, instance: str) -> list[tuple[float, str]]:
    """When it was scraped, and whether it answered."""
    [series] = prom.query(f'up{{instance="{instance}"}}[1h]') or [{"values": []}]
    return [(float(at), value) for at, value in series["values"]]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_what_stays_has_no_gap_and_what_goes_is_not_scraped_on(
    server18: Cluster, tmp_path: Path, tool: Callable[..., Path]
) -> None:
    tmp_path.chmod(0o755)
    authorities = Authorities(tmp_path)
    client = authorities.issued("prometheus", "prometheus.example.com")
    (tmp_path / "web.yml").write_text(
        yaml.safe_dump(
            {
                "tls_server_config": {
                    **authorities.config,
                    "client_auth_type": "RequireAndVerifyClientCert",
                    "client_ca_file": authorities.ca.name,
                }
            }
        )
    )
    fleet = Fleet(tmp_path / "targets.yml", server18.dsn(user=MONITOR))
    fleet.become("first")
    tls = {"ca_file": str(authorities.ca), "cert_file": str(client.cert), "key_file": str(client.key)}
    files = {"targets_files": str(fleet.file), "web_config_file": str(tmp_path / "web.yml")}
    with serving(**files) as exporter:
        place = exporter.url.replace("http://", "https://")
        sd = {"url": f"{place}/sd", "refresh_interval": f"{REFRESH_SECONDS}s", "tls_config": tls}
        drop = {"action": "labeldrop", "regex": "role|version"}  # as documented
        job = {"http_sd_configs": [sd], "tls_config": tls, "scrape_timeout": "1s", "relabel_configs": [drop]}
        with prometheus(tool(*PROMETHEUS), tmp_path, every="1s", job=job) as prom:
            wait_until(lambda: scraped(prom) >= {*STAY, "first"})
            began = time.time()
            for number in itertools.count():
                if time.time() - began > SECONDS:
                    break
                fleet.become(*_others(number))
                time.sleep(CHANGE_SECONDS)
            own = place.removeprefix("https://")
            wait_until(lambda: scraped(prom) == {*STAY, *fleet.there, own})
            ended = time.time()
            for name in STAY:
                _is_whole([each for each in samples(prom, name) if each[0] >= began], ended - began)
            late = {name: samples(prom, name)[-1][0] - at for name, at in fleet.gone.items() if samples(prom, name)}
            slowness = max(longest_gap(samples(prom, name)) for name in STAY)
    print(
        f"longest scraped on: {max(late.values()):.1f} s after it left; {len(fleet.gone)} left,"
        f" {len(late)} had been scraped; longest between two scrapes {slowness:.2f} s"
    )
    assert len(late) >= len(fleet.gone) / 3, "those that left before the first list were never seen"
    assert max(late.values()) <= MOST_INTERVALS * REFRESH_SECONDS * slowness


def longest_gap(found: list[tuple[float, str]]) -> float:
    """The longest time between two scrapes in seconds: 1 on a machine that has time, more on a busy one."""
    times = [at for at, _ in found]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def _others(number: int) -> tuple[str, ...]:
    """With each change one comes, one goes, and one is renamed."""
    there = range(number, number + CHANGES)
    return *(f"passing{each}" for each in there), *(f"renamed{each}" for each in there)


def _is_whole(found: list[tuple[float, str]], seconds: float) -> None:
    """Every scrape was answered; a busy machine leaves some of one each second out."""
    assert {value for _, value in found} == {"1"}
    assert len(found) > seconds / 4
