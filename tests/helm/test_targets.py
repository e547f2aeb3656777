"""Each target is watched by one pod, which knows how to reach it, and Prometheus asks that pod for it."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml
from helm.cases import EVERYTHING, FLEET, MATRIX, SHOP, Values
from helm.chart import NAMESPACE, RELEASE, Object, of_kind, one, pod
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import MONITOR, read
from patience import wait_until
from programs import running
from prom import PROMETHEUS
from serving import run, serving

from exporter.catalog.load import load
from exporter.configuration import load_settings
from exporter.connections.dsn import parameters
from exporter.demo.cluster import Cluster, free_port
from exporter.settings import Settings


def configurations(values: Values) -> dict[str, Settings]:
    """What the exporter reads in each pod: the file it is told of, by the pod's name."""
    files = {name: text for each in of_kind("ConfigMap", values) for name, text in each["data"].items()}
    return {
        name.removesuffix(".yml"): Settings(**yaml.safe_load(text))
        for name, text in files.items()
        if name.endswith(".yml")
    }


def owners(values: Values) -> dict[str, str]:
    """The pod that has each target."""
    found = [(name, pod) for pod, settings in configurations(values).items() for name, _ in settings.servers]
    assert len(dict(found)) == len(found)
    return dict(found)


def expected_owner(name: str, shards: int) -> str:
    return f"{RELEASE}-pgvigil-{max(range(shards), key=lambda n: hashlib.sha256(f'{name}/{n}'.encode()).hexdigest())}"


@settings(max_examples=15, deadline=None)
@given(
    names=st.sets(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True), min_size=1, max_size=40),
    shards=st.integers(2, 12),
)
def test_one_shard_more_takes_targets_and_moves_no_others(names: set[str], shards: int) -> None:
    targets = [{"name": name, "host": "db"} for name in sorted(names)]
    before = owners({"targets": targets, "shards": shards})
    after = owners({"targets": targets, "shards": shards + 1})
    assert before == {name: expected_owner(name, shards) for name in names}
    assert {after[name] for name in names if after[name] != before[name]} <= {f"{RELEASE}-pgvigil-{shards}"}


def test_a_fleet_is_spread_evenly() -> None:
    fleet = [{"name": f"db-{i}.example.com", "host": "db"} for i in range(400)]
    found = list(owners({"targets": fleet, "shards": 4}).values())
    assert all(75 <= found.count(pod) <= 125 for pod in set(found))


def test_a_pod_is_told_of_the_file_with_its_own_targets() -> None:
    values = {"targets": FLEET, "shards": 3}
    variables = {each["name"]: each for each in pod(values)["spec"]["containers"][0]["env"]}
    assert variables["POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert variables["PGVIGIL_CONFIG"]["value"] == "/etc/pgvigil/config/$(POD_NAME).yml"
    stateful = one("StatefulSet", values)
    assert set(configurations(values)) == {f"{stateful['metadata']['name']}-{i}" for i in range(3)}
    assert stateful["spec"]["serviceName"] == one("Service", values)["metadata"]["name"]


def asked(values: Values) -> set[tuple[str, str, str]]:
    """What Prometheus asks: (pod, path, instance)."""
    kind = values["monitor"]["kind"]
    if kind == "Probe":
        return {
            (found["spec"]["prober"]["url"].partition(".")[0], f"{found['spec']['prober']['path']}?target={name}", name)
            for found in of_kind("Probe", values)
            for name in found["spec"]["targets"]["staticConfig"]["static"]
        }
    spec = one(kind, values)["spec"]
    return {_asked_of(endpoint) for endpoint in spec.get("endpoints", spec.get("podMetricsEndpoints"))}


def _asked_of(endpoint: Object) -> tuple[str, str, str]:
    [pod] = [r["regex"] for r in endpoint["relabelings"] if r.get("action") == "keep"] or [f"{RELEASE}-pgvigil"]
    [instance] = [r["replacement"] for r in endpoint["relabelings"] if r.get("targetLabel") == "instance"]
    [target] = endpoint.get("params", {}).get("target", [""])
    return pod, endpoint["path"] + (f"?target={target}" if target else ""), instance


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor", "Probe"])
@pytest.mark.parametrize("shards", [1, 4])
def test_prometheus_asks_each_pod_for_its_own_targets_by_their_names(kind: str, shards: int) -> None:
    values = {"targets": FLEET, "shards": shards, "monitor": {"kind": kind}}
    placed = owners(values)
    if shards == 1:
        placed = dict.fromkeys(placed, f"{RELEASE}-pgvigil")
    pages = {(pod, f"/probe?target={name}", name) for name, pod in placed.items()}
    pods = {f"{RELEASE}-pgvigil-{i}" for i in range(4)} if shards == 4 else {f"{RELEASE}-pgvigil"}
    own = {(pod, "/metrics", pod) for pod in pods} if kind != "Probe" else set()
    assert asked(values) == pages | own


@pytest.mark.parametrize("shards", [1, 3])
def test_prometheus_asks_each_pod_for_its_targets(shards: int) -> None:
    found = one("ScrapeConfig", {"targets": FLEET, "shards": shards, "monitor": {"kind": "ScrapeConfig"}})["spec"]
    name = f"{RELEASE}-pgvigil"
    shard = [f"{name}-{i}.{name}-shards" for i in range(shards)]
    asked = [f"http://{host}.{NAMESPACE}.svc:9187/sd" for host in (shard if shards > 1 else [name])]
    assert [each["url"] for each in found["httpSDConfigs"]] == asked
    assert found["relabelings"] == [{"action": "labeldrop", "regex": "role|version"}]


def test_one_target_keeps_its_name_and_several_their_labels() -> None:
    kind = {"monitor": {"kind": "ScrapeConfig"}}
    alone = one("ScrapeConfig", {"targets": [{"name": "shop", "host": "db"}], **kind})["spec"]
    assert {"targetLabel": "instance", "replacement": "shop"} in alone["relabelings"]
    two = [{"name": "shop", "host": "db", "labels": {"team": "web"}}, {"name": "blog", "host": "db"}]
    [config] = configurations({"targets": two, **kind}).values()
    assert [each.labels for each in config.targets or ()] == [{"team": "web"}, {}]


def test_one_target_has_its_name_where_others_may_be_found() -> None:
    found = [{"source": "dns", "srv": "_postgresql._tcp.db.example", "dsn": "user=pgvigil"}]
    values = {"targets": [{"name": "shop", "host": "db"}], "settings": {"discovery": found}}
    [config] = configurations(values).values()
    assert ([each.name for each in config.targets or ()], len(config.discovery)) == (["shop"], 1)


def scrape_config(number: int, endpoint: Object, pods: Collection[str]) -> Object:
    """An endpoint as the Operator writes it for Prometheus, with the labels that it gives each pod first."""
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return {
        "job_name": str(number),
        "metrics_path": endpoint["path"],
        "params": endpoint.get("params", {}),
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["scrapeTimeout"],
        "relabel_configs": [{names.get(key, key): r[key] for key in r} for r in endpoint["relabelings"]],
        "static_configs": [
            {
                "targets": ["127.0.0.1:9"],
                "labels": {
                    "__meta_kubernetes_pod_name": pod,
                    **dict.fromkeys(("container", "endpoint", "pod", "service"), pod),
                    "namespace": NAMESPACE,
                },
            }
            for pod in pods
        ],
    }


def active_targets(url: str) -> list[Any]:
    """What a Prometheus scrapes."""
    found: list[Any] = httpx.get(f"{url}/api/v1/targets?state=active", timeout=10).json()["data"]["activeTargets"]
    return found


def test_prometheus_itself_comes_to_targets_that_outlive_their_pods(tool: Callable[..., Path], tmp_path: Path) -> None:
    """Each target once, though every pod is found for every endpoint, with labels that no new pod changes."""
    values = {"targets": FLEET, "shards": 3, "monitor": {"kind": "ServiceMonitor"}}
    placed = owners(values)
    pods = set(placed.values())
    endpoints = one("ServiceMonitor", values)["spec"]["endpoints"]
    config = {"scrape_configs": [scrape_config(i, each, pods) for i, each in enumerate(endpoints)]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        str(tool(*PROMETHEUS)),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with running(command, tmp_path / "log", f"{url}/-/ready"):
        wait_until(lambda: len(active_targets(url)) == len(endpoints) == len(FLEET) + 3)
        found = active_targets(url)
    targets = {each["labels"]["instance"]: each for each in found}
    assert targets.keys() == {each["name"] for each in FLEET} | pods
    for name, each in targets.items():
        assert each["labels"] == {"instance": name, "job": "postgresql", "namespace": NAMESPACE}
        assert each["discoveredLabels"]["__meta_kubernetes_pod_name"] == placed.get(name, name)
        path = "/metrics" if name in pods else f"/probe?target={name}"
        assert each["scrapeUrl"] == f"http://127.0.0.1:9{path}"


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_one_target_is_one_page_with_its_name(kind: str) -> None:
    assert asked({"targets": [SHOP], "monitor": {"kind": kind}}) == {(f"{RELEASE}-pgvigil", "/metrics", "shop")}


def test_labels_of_pods_that_come_and_go_are_not_on_series() -> None:
    [endpoint] = one("ServiceMonitor", {"targets": [SHOP], "monitor": {"kind": "ServiceMonitor"}})["spec"]["endpoints"]
    assert {"action": "labeldrop", "regex": "pod|container|endpoint|service"} in endpoint["relabelings"]
    assert {"targetLabel": "job", "replacement": "postgresql"} in endpoint["relabelings"]
    assert "instance" not in json.dumps(endpoint.get("metricRelabelings", []))


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_exporter_takes_its_configuration(values: Values) -> None:
    if values.get("deploy") is False:
        return
    for found in configurations(values).values():
        for _, server in found.servers:
            if not server.dsn_file:
                assert "host" in parameters(server.dsn.get_secret_value())


def test_a_target_is_reached_as_it_says() -> None:
    [found] = configurations(EVERYTHING).values()
    shop, blog, full, pool = (server for _, server in found.servers)
    assert shop.dsn.get_secret_value() == (
        "host='shop-db' port=5432 dbname='postgres' user='monitor' sslmode=verify-full"
        " sslrootcert=/etc/pgvigil/secrets/shop/ca.crt"
    )
    assert (str(shop.password_file), shop.dsn_file) == ("/etc/pgvigil/secrets/shop/password", None)
    assert blog.exclude_databases == ("old_*", "test")
    assert (blog.include_tables, blog.exclude_tables) == (("blog.*",), ("tmp_*",))
    assert (blog.statements_exclude_users, blog.statements_exclude_databases) == (("batch_*",), ("queue",))
    assert str(blog.dsn_file) == "/etc/pgvigil/secrets/blog/dsn"
    assert full.dsn.get_secret_value() == (
        r"host='10.0.0.1' port=6432 dbname='it\'s' user='o\\neil' sslmode=verify-ca"
        " sslrootcert=/etc/pgvigil/secrets/Full.1/ca.crt"
        " sslcert=/etc/pgvigil/secrets/Full.1/tls.crt sslkey=/etc/pgvigil/secrets/Full.1/tls.key"
        " target_session_attrs='primary'"
    )
    assert (pool.kind, shop.kind) == ("pgbouncer", "postgresql")
    assert pool.dsn.get_secret_value().startswith("host='pool' port=6432 dbname='pgbouncer' user='monitor' ")
    assert (found.max_samples, found.collectors["table_sizes"].limit) == (1000000, 20)


def test_every_secret_that_is_named_is_mounted_where_the_exporter_looks() -> None:
    volumes = {each["name"]: each for each in pod(EVERYTHING)["spec"]["volumes"]}
    mounted = {
        item["path"]: (source.get("secret") or source.get("configMap"))["name"] + "/" + item["key"]
        for source in volumes["secrets"]["projected"]["sources"]
        for item in (source.get("secret") or source.get("configMap"))["items"]
    }
    assert mounted == {
        "pool/password": "pool/password",
        "pool/ca.crt": "authority/ca.crt",
        "shop/password": "shop/password",
        "shop/ca.crt": "authority/ca.crt",
        "blog/dsn": "blog/dsn",
        "Full.1/password": "full/word",
        "Full.1/tls.crt": "client/cert",
        "Full.1/tls.key": "client/key",
        "Full.1/ca.crt": "authority/root.pem",
    }


def test_own_collectors_load(tmp_path: Path) -> None:
    """The names end as the exporter's folder wants them, and versions stay versions."""
    [found] = [each for each in of_kind("ConfigMap", EVERYTHING) if each["metadata"]["name"].endswith("-collectors")]
    assert found["data"].keys() == {"own.yaml", "text.yaml"}
    (tmp_path / "own.yaml").write_text(found["data"]["own.yaml"])
    [collector] = load(tmp_path)
    assert list(collector.sql) == [(13,)]


def test_rendered_values_make_a_working_exporter(server18: Cluster, tmp_path: Path) -> None:
    """With the chart's files and no others it has all that Prometheus asks for, and the chart's own test works."""
    there = {
        "name": "there",
        "host": "127.0.0.1",
        "port": server18.port,
        "user": MONITOR,
        "sslmode": "disable",
    }
    gone = {"name": "gone", "host": "127.0.0.1", "port": 1, "sslmode": "disable"}
    own = MATRIX["everything"]["ownCollectors"]
    values = {"targets": [there, gone], "ownCollectors": own, "monitor": {"kind": "ServiceMonitor"}}
    config = tmp_path / "pgvigil.yml"
    maps = {name: text for each in of_kind("ConfigMap", values) for name, text in each["data"].items()}
    (tmp_path / "collectors").mkdir()
    (tmp_path / "collectors" / "own.yaml").write_text(maps["own.yaml"])
    config.write_text(maps["pgvigil.yml"].replace("/etc/pgvigil/collectors", str(tmp_path / "collectors")))
    with serving("--config", str(config)) as process:
        for _, path, instance in asked(values):
            page = read(process.get(path).text)
            if instance == "there":
                assert page.value("pg_up") == 1
                assert page.value("pg_own_tables") > 100
        done = run_test(values, process.url)
    assert done.returncode == 1
    assert 'pg_up{target="there"} 1' in done.stdout
    assert 'pg_up_reason{target="gone",reason="refused"} 1' in done.stdout


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("pg_up 1\npg_up_reason 0\n", 0),
        ("pg_up 0\n", 1),
        ('pg_up{target="a"} 1\npg_up{target="b"} 0\n', 1),
        ("pgbouncer_up 1\n", 0),
        ('pg_up{target="a"} 1\npgbouncer_up{target="b"} 0\n', 1),
        ("# no target\n", 0),
    ],
)
def test_the_charts_own_test_fails_when_a_target_is_down(page: str, expected: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stub:
        Thread(target=stub.serve_forever, daemon=True).start()
        done = run_test({"targets": [SHOP]}, f"http://127.0.0.1:{stub.server_port}")
        stub.shutdown()
    assert done.returncode == expected, done.stderr


def run_test(values: Values, url: str) -> subprocess.CompletedProcess[str]:
    """Run what `helm test` runs in the cluster, but ask this address."""
    container = one("Pod", values)["spec"]["containers"][0]
    assert container["command"] == ["python3", "-c"]
    script, *pages = container["args"]
    assert pages == [f"http://{RELEASE}-pgvigil:9187/metrics"]
    return subprocess.run(
        [sys.executable, "-I", "-c", script, f"{url}/metrics"], capture_output=True, text=True, check=False, timeout=60
    )


def test_an_exporter_without_targets_is_what_default_values_make(tmp_path: Path) -> None:
    (tmp_path / "pgvigil.yml").write_text(one("ConfigMap", {})["data"]["pgvigil.yml"])
    assert load_settings(tmp_path / "pgvigil.yml").servers == ()
    assert run("--config", str(tmp_path / "pgvigil.yml"), "check").returncode == 0
