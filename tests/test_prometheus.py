"""A real Prometheus scrapes the exporter: no error, no gap, no warning."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from pages import MONITOR, read
from serving import serving

from exporter.demo.cluster import Cluster, free_port

SECONDS = float(os.environ.get("PROMETHEUS_SECONDS", "15"))
"""How long it scrapes, once a second. Ten minutes: PROMETHEUS_SECONDS=600."""


@contextmanager
def prometheus(program: Path, target: str, folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes one target once a second; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    job = {"job_name": "pgvigil", "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [
            program,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        while process.poll() is None and not _answers(f"http://{address}/-/ready"):
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def query(url: str, expression: str) -> list[Any]:
    """Ask Prometheus for an instant vector, or a matrix."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30).json()
    assert answer["status"] == "success", answer
    result: list[Any] = answer["data"]["result"]
    return result


def test_it_is_scraped_without_an_error_or_a_gap(
    servers: Callable[[int], Cluster], tool: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program = tool("prometheus", "Debian's package is called prometheus")
    with serving(dsn=servers(18).dsn(user=MONITOR)) as exporter:
        exporter.get()
        with prometheus(program, exporter.url.removeprefix("http://"), tmp_path) as url:
            while not query(url, "up"):
                time.sleep(0.1)
            time.sleep(1 + SECONDS)
            [up] = query(url, f"up[{int(SECONDS)}s]")
            [ours] = query(url, f"pg_up[{int(SECONDS)}s]")
            [samples] = query(url, "scrape_samples_scraped")
            [kept] = query(url, "scrape_samples_post_metric_relabeling")
            failed = query(url, f"min_over_time(pgvigil_collector_success[{int(SECONDS)}s]) == 0")
            own = read(httpx.get(f"{url}/metrics", timeout=30).text)
    values = [value for _, value in up["values"]]
    assert len(values) >= int(SECONDS) - 1, "a gap between scrapes"
    assert set(values) == {"1"}
    assert {value for _, value in ours["values"]} == {"1"}
    times = [at for at, _ in up["values"]]
    assert all(later - earlier < 1.5 for earlier, later in pairwise(times))
    assert float(samples["value"][1]) > 1000
    assert samples["value"][1] == kept["value"][1]
    assert failed == []
    for problem in ("duplicate_timestamp", "out_of_bounds", "out_of_order"):
        assert own.value(f"prometheus_target_scrapes_sample_{problem}_total") == 0
    warnings = [line for line in (tmp_path / "log").read_text().splitlines() if "level=info" not in line]
    assert [line for line in warnings if "Received SIGTERM" not in line] == []
