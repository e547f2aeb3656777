"""A server sends more than it should: its connection is dropped, with a reason, and the target beside it goes on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hostile_server
import psutil
import pytest
from attackers import WITHOUT_LIMIT
from pages import MONITOR, Page, read_whole
from patience import wait_until
from serving import Exporter, serving

from exporter.demo.cluster import Cluster

GROWTH = 200e6
"""Bytes that the exporter may grow by: an answer of 64 MiB, what the driver makes of it, garbage of the last one."""

SCRAPES = 6

BEHAVIOURS = [
    (hostile_server.scram_without_end, "authentication"),
    (hostile_server.scram_again_and_again, "authentication"),
    (hostile_server.a_login_of_a_gigabyte, "other"),
    (hostile_server.a_login_without_end, "other"),
    (hostile_server.rows_without_end, "other"),
    (hostile_server.a_row_of_a_gigabyte, "other"),
    (hostile_server.notices_without_end, "other"),
    (hostile_server.ready_without_end, "other"),
    (hostile_server.lengths_of_nothing, "other"),
    (hostile_server.one_row_a_second, "timeout other"),
]
"""What the server does, and the reasons of which its page names one."""


@contextmanager
def beside(dsn: str, healthy: Cluster, tmp_path: Path) -> Iterator[Exporter]:
    """An exporter of a server that is hostile, and of one that is not."""
    config = tmp_path / "pgvigil.yaml"
    config.write_text(
        f"targets:\n- {{name: healthy, dsn: '{healthy.dsn(user=MONITOR)}'}}\n- {{name: hostile, dsn: '{dsn}'}}\n"
    )
    with serving("--config", str(config)) as exporter:
        wait_until(lambda: healthy_page(exporter).value("pg_up"))
        whole_page(exporter)
        yield exporter


def healthy_page(exporter: Exporter) -> Page:
    """The page of the healthy server."""
    return read_whole(exporter.get("/probe?target=healthy", {"X-Prometheus-Scrape-Timeout-Seconds": "3"}).text)


def whole_page(exporter: Exporter) -> Page:
    """The page of the healthy server, on which the vital collectors have their newest results."""
    page = healthy_page(exporter)
    assert page.value("pg_up") == 1
    assert page.value("pgvigil_collector_success", collector="sessions") == 1
    return page


@pytest.mark.parametrize(("behaviour", "why"), BEHAVIOURS, ids=lambda each: getattr(each, "__name__", each))
def test_a_hostile_server_costs_itself(
    server18: Cluster, tmp_path: Path, behaviour: hostile_server.Behaviour, why: str
) -> None:
    with hostile_server.running(behaviour) as dsn, beside(dsn, server18, tmp_path) as exporter:
        process = psutil.Process(exporter.process.pid)
        before = process.memory_info().rss
        most = before
        hostile = None
        for number in range(SCRAPES):
            began = time.monotonic()
            whole_page(exporter)
            if number % 5 == 0:
                hostile = read_whole(
                    exporter.get("/probe?target=hostile", {"X-Prometheus-Scrape-Timeout-Seconds": "3"}).text
                )
            most = max(most, process.memory_info().rss)
            time.sleep(max(1 - (time.monotonic() - began), 0))
    assert hostile
    reasons = {labels["reason"] for labels, value in hostile.series("pg_up_reason") if value}
    assert reasons <= set(why.split())
    assert hostile.value("pg_up") == 0
    assert most - before < GROWTH


def test_an_honest_query_without_an_end_costs_what_a_page_may_hold(server18: Cluster, tmp_path: Path) -> None:
    """Of 20 million rows so many are read as fit on a page; the collector says that there are more."""
    (tmp_path / "own.yaml").write_text(WITHOUT_LIMIT)
    with serving(dsn=server18.dsn(user=MONITOR), collectors_dir=str(tmp_path), max_samples="100000") as exporter:
        process = psutil.Process(exporter.process.pid)
        before = process.memory_info().rss
        pages = []
        for _ in range(3):
            pages.append(read_whole(exporter.get().text))
            began = time.monotonic()
            exporter.get("/healthz")
            assert time.monotonic() - began < 1
        most = process.memory_info().rss
    assert most - before < GROWTH
    assert pages[-1].value("pgvigil_collector_dropped_samples", collector="own") >= 1
    assert 90_000 < len(pages[-1].series("pg_own")) < 100_000
