"""A real Patroni fails over while its servers are at work: roles, targets, alerts and `/sd` follow."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import asyncpg
import pytest
import yaml
from alerting import ALERTS
from discovery.patroni_cluster import ETCD, SCOPE, Node, PatroniCluster, installed, patroni_cluster
from pages import read
from patience import wait_until
from prom import PROMETHEUS, Prometheus, prometheus
from servers import MissingError, do_without
from serving import Exporter, serving

FOLLOW_SECONDS = 30.0
"""Upper bound from the new primary to all that follows."""


LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a client sees of a primary that is killed."""


def at_work(cluster: PatroniCluster, over: Event) -> None:
    """Write to whoever is the primary, until it is over."""

    async def work() -> None:
        while not over.is_set():
            leader = await asyncio.to_thread(cluster.leader)
            with suppress(*LOST):
                connection = await asyncpg.connect(
                    host="127.0.0.1", port=leader.port if leader else 1, user="postgres", database="postgres", timeout=2
                )
                try:
                    await connection.execute("CREATE TABLE IF NOT EXISTS orders (id bigserial, at timestamptz)")
                    for _ in range(100):
                        await connection.execute("INSERT INTO orders (at) VALUES (now())", timeout=2)
                        await asyncio.sleep(0.01)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.2)

    asyncio.run(work())


@contextmanager
def load(cluster: PatroniCluster) -> Iterator[None]:
    """Clients at work, in a thread."""
    over = Event()
    thread = Thread(target=at_work, args=(cluster, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def roles(exporter: Exporter) -> dict[str, str]:
    """Role of each target, as Prometheus is told."""
    answer = exporter.get("/sd")
    found = answer.json() if answer.is_success else []
    return {
        each["labels"]["instance"]: each["labels"].get("role", "") for each in found if "instance" in each["labels"]
    }


def firing(prom: Prometheus) -> set[tuple[str, str, str]]:
    """Alerts that fire: name, severity and server."""
    found = prom.query('ALERTS{alertstate="firing"}')
    return {
        (each["metric"]["alertname"], each["metric"]["severity"], each["metric"].get("instance", "")) for each in found
    }


def is_primary(exporter: Exporter, node: Node) -> bool:
    """Whether its page says so, and that it is up."""
    found = read(exporter.get(f"/probe?target={node.name}").text)
    return found.series("pg_up") == [({}, 1)] and found.series("pg_replication_is_replica") == [({}, 0)]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_roles_targets_and_alerts_follow_a_failover(tmp_path: Path, tool: Callable[..., Path]) -> None:
    try:
        installed()
    except MissingError as missing:
        do_without(missing)
    etcd, program = tool(*ETCD), tool(*PROMETHEUS)
    with patroni_cluster(etcd, 18) as cluster, load(cluster):
        found = {
            "source": "patroni",
            "urls": [node.url for node in cluster.nodes],
            "dsn": "user=postgres dbname=postgres",
        }
        (tmp_path / "pgvigil.yml").write_text(yaml.safe_dump({"discovery": [found]}))
        with serving("--config", str(tmp_path / "pgvigil.yml")) as exporter:
            sd = {"url": f"{exporter.url}/sd", "refresh_interval": "5s"}
            job = {"http_sd_configs": [sd], "relabel_configs": [{"action": "labeldrop", "regex": "role|version"}]}
            rules = [ALERTS / "rules" / "*.yml"]
            with prometheus(program, tmp_path, every="5s", rules=rules, job=job) as prom:
                _fails_over(cluster, exporter, prom)


def _fails_over(cluster: PatroniCluster, exporter: Exporter, prom: Prometheus) -> None:
    first = wait_until(cluster.leader)
    names = {node.name for node in cluster.nodes}
    wait_until(lambda: sorted(roles(exporter).values()) == ["primary", "standby", "standby"], every=0.5)
    assert roles(exporter)[first.name] == "primary"
    wait_until(lambda: _scraped(prom) >= names, every=0.5)
    time.sleep(20)
    before = firing(prom)
    assert [each for each in before if each[1] == "critical"] == []
    first.kill()
    second = wait_until(lambda: (node := cluster.leader()) and node is not first and node, every=0.2)
    began = time.monotonic()
    wait_until(lambda: is_primary(exporter, second), every=0.5)
    wait_until(lambda: roles(exporter).get(second.name) == "primary", every=0.5)
    told = time.monotonic() - began
    wait_until(lambda: first.name not in roles(exporter), every=0.5)  # its key in etcd has expired
    left = time.monotonic() - began
    seen = set[tuple[str, str, str]]()
    while time.monotonic() - began < FOLLOW_SECONDS:
        seen |= firing(prom)
        time.sleep(1)
    first.start(cluster.python, cluster.etcd, cluster.major)
    wait_until(cluster.is_whole, every=0.5)
    back = time.monotonic()
    wait_until(lambda: roles(exporter).get(first.name) == "standby", every=0.5)
    rejoined = time.monotonic() - back
    pages = {each for each in seen - before if each[1] == "critical"}
    print(f"primary told after {told:.1f} s, member left after {left:.1f} s, back {rejoined:.1f} s after it streams")
    print(f"alerts: {sorted(seen - before)}")
    assert max(told, left, rejoined) <= FOLLOW_SECONDS
    assert {(name, instance) for name, _, instance in pages} <= {("PostgreSQLDown", first.name)}
    assert {each["labels"]["cluster"] for each in exporter.get("/sd").json() if "cluster" in each["labels"]} <= {SCOPE}


def _scraped(prom: Prometheus) -> set[Any]:
    return {each["metric"]["instance"] for each in prom.query("pg_up == 1")}
