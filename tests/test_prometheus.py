"""A real Prometheus scrapes the exporter: no error, no gap, no warning."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pages import MONITOR, read
from patience import wait_until
from prom import PROMETHEUS, prometheus
from serving import serving

from exporter.demo.cluster import Cluster

SECONDS = float(os.environ.get("PROMETHEUS_SECONDS", "15"))
"""How long it scrapes, every three seconds. Ten minutes: PROMETHEUS_SECONDS=600."""

pytestmark = pytest.mark.timeout(SECONDS + 100)


def test_it_is_scraped_without_an_error_or_a_gap(
    servers: Callable[[int], Cluster], each_tool: Callable[..., Path], tmp_path: Path
) -> None:
    program = each_tool(*PROMETHEUS)
    with serving(dsn=servers(18).dsn(user=MONITOR)) as exporter:
        exporter.get()
        with prometheus(program, tmp_path, every="3s") as prom:
            query = prom.query
            prom.scrape(exporter.url.removeprefix("http://"))
            wait_until(lambda: query("up"))
            time.sleep(SECONDS)
            [up] = query(f"up[{int(SECONDS)}s]")
            [ours] = query(f"pg_up[{int(SECONDS)}s]")
            [samples] = query("scrape_samples_scraped")
            [kept] = query("scrape_samples_post_metric_relabeling")
            failed = query(f"min_over_time(pgvigil_collector_success[{int(SECONDS)}s]) == 0")
            own = read(httpx.get(f"{prom.url}/metrics", timeout=30).text)
    values = [value for _, value in up["values"]]
    assert len(values) >= SECONDS / 3 - 2, "a gap between scrapes"
    assert set(values) == {"1"}
    assert {value for _, value in ours["values"]} == {"1"}
    assert float(samples["value"][1]) > 1000
    assert samples["value"][1] == kept["value"][1]
    assert failed == []
    for problem in ("duplicate_timestamp", "out_of_bounds", "out_of_order"):
        assert own.value(f"prometheus_target_scrapes_sample_{problem}_total") == 0
    warnings = [line for line in prom.log.read_text().splitlines() if "level=info" not in line.lower()]
    assert [line for line in warnings if "exiting gracefully" not in line] == []
