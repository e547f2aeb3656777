"""What is in the chart is what is in the repository, and does what it says."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import helm_python
import pytest
import yaml
from helm.cases import EVERYTHING, FLEET, MATRIX, RULES, SHOP, Values
from helm.chart import CHART, NAMESPACE, RELEASE, Object, objects, of_kind, one, pod, render
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import MONITOR, read
from serving import run, serving

import exporter
from exporter.catalog import load
from exporter.demo.cluster import Cluster
from exporter.dsn import asyncpg_dsn
from exporter.rules import ALERT, built_in, rule_files
from exporter.rules import Values as RuleValues
from exporter.settings import Settings, load_settings

REPOSITORY = CHART.parents[1]
MIB = 1024 * 1024


def test_its_version_is_that_of_the_exporter() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert (about["version"], about["appVersion"]) == (exporter.__version__, exporter.__version__)


# --- what is packaged


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the packaged chart."""
    archive = helm_python.package(CHART, destination=tmp_path_factory.mktemp("package"))
    with tarfile.open(archive) as opened:
        members = [(member.name, opened.extractfile(member)) for member in opened.getmembers()]
        return {name.removeprefix("pgvigil/"): file.read() for name, file in members if file}


def test_rules_routing_and_dashboards_are_packaged_byte_for_byte(package: dict[str, bytes]) -> None:
    ours = {f"files/rules/{file.name}": file for file in built_in().glob("*.yml")}
    ours |= {f"files/dashboards/{file.name}": file for file in (REPOSITORY / "dashboards").glob("*.json")}
    ours["files/alertmanager.yml"] = REPOSITORY / "alerts" / "alertmanager.yml"
    ours["files/pagerduty.tmpl"] = REPOSITORY / "alerts" / "templates" / "pagerduty.tmpl"
    packaged = {name: content for name, content in package.items() if name.startswith("files/")}
    assert packaged == {name: file.read_bytes() for name, file in ours.items()}


def test_a_release_fits_into_the_secret_that_helm_keeps_it_in(package: dict[str, bytes]) -> None:
    """Helm stores chart, values and manifest as JSON, gzipped, in base64, in a Secret of 1 MiB at most."""
    chart = {name: base64.b64encode(content).decode() for name, content in package.items()}
    release = json.dumps({"chart": chart, "manifest": render(EVERYTHING), "config": EVERYTHING})
    assert len(base64.b64encode(gzip.compress(release.encode()))) < 0.7 * MIB


# --- rules


def rule_texts(values: Values) -> dict[str, str]:
    """The rule files in the PrometheusRules, as text, by the file they came from."""
    text = render(values)["prometheusrule.yaml"]
    found = {}
    for document in re.split(r"^---\n", text, flags=re.MULTILINE)[1:]:
        [name] = re.findall(rf"^  name: {RELEASE}-pgvigil-(\w+)$", document, re.MULTILINE)
        found[f"{name}.yml"] = textwrap.dedent(document.partition("\nspec:\n")[2]).rstrip("\n") + "\n"
    return found


def test_rules_are_ours_byte_for_byte() -> None:
    ours = {file.name: file.read_text("utf-8") for file in built_in().glob("*.yml")}
    assert rule_texts({"prometheusRule": {"enabled": True}}) == ours
    assert all("{{ $" in text for text in ours.values())


ALL_OF_ARCHIVER = [found["name"] for found in ALERT.finditer((built_in() / "archiver.yml").read_text("utf-8"))]


@pytest.mark.parametrize(
    "values",
    [RULES, {"runbookBaseUrl": "", "labels": {"a": "b"}}, {"disable": ALL_OF_ARCHIVER}],
    ids=["of every kind", "no runbooks", "a file that is left without rules"],
)
def test_values_do_what_the_command_does_with_them(values: Values) -> None:
    theirs = rule_files(RuleValues.model_validate(values), built_in())
    ours = rule_texts({"prometheusRule": {"enabled": True, "values": values}})
    assert ours.keys() == theirs.keys()
    assert {name: yaml.safe_load(text) for name, text in ours.items()} == {
        name: yaml.safe_load(text) for name, text in theirs.items()
    }


def test_the_routing_gets_the_label_that_the_operator_looks_for() -> None:
    values = {
        "prometheusRule": {"enabled": True, "values": {"labels": {"team": "databases"}}},
        "alertmanagerConfig": {"enabled": True, "pagerdutySecret": {"name": "pagerduty"}, "namespace": "monitoring"},
    }
    labels = [
        rule["labels"]
        for found in of_kind("PrometheusRule", values)
        for group in found["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(labels) > 100
    assert all({"namespace": "monitoring", "team": "databases"}.items() <= each.items() for each in labels)


@pytest.mark.parametrize("values", [{}, RULES], ids=["ours", "with values"])
def test_promtool_takes_the_rules(values: Values, tool: Callable[..., Path], tmp_path: Path) -> None:
    rules = of_kind("PrometheusRule", {"prometheusRule": {"enabled": True, "values": values}})
    files = [tmp_path / f"{found['metadata']['name']}.yml" for found in rules]
    for file, found in zip(files, rules, strict=True):
        file.write_text(yaml.safe_dump(found["spec"]))
    promtool = tool("promtool", "it comes with Prometheus")
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- dashboards


def test_dashboards_are_ours() -> None:
    ours = {file.name: file.read_text("utf-8") for file in (REPOSITORY / "dashboards").glob("*.json")}
    found = of_kind("ConfigMap", {"deploy": False, "dashboards": {"enabled": True}})
    assert {name: text for each in found for name, text in each["data"].items()} == ours
    assert all(len(json.dumps(each)) < MIB for each in found)


def test_each_dashboard_of_the_grafana_operator_points_to_its_config_map() -> None:
    values = {"deploy": False, "dashboards": {"enabled": True, "grafanaOperator": {"enabled": True}}}
    maps = {(each["metadata"]["name"], name) for each in of_kind("ConfigMap", values) for name in each["data"]}
    references = [each["spec"]["configMapRef"] for each in of_kind("GrafanaDashboard", values)]
    assert {(each["name"], each["key"]) for each in references} == maps


# --- targets and shards


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
                assert asyncpg_dsn(server.dsn.get_secret_value()).startswith("postgresql://?host=")


def test_a_target_is_reached_as_it_says() -> None:
    [found] = configurations(EVERYTHING).values()
    shop, blog, full = (server for _, server in found.servers)
    assert shop.dsn.get_secret_value() == (
        "host='shop-db' port=5432 dbname='postgres' user='monitor' sslmode=verify-full"
        " sslrootcert=/etc/pgvigil/secrets/shop/ca.crt"
    )
    assert (str(shop.password_file), shop.dsn_file) == ("/etc/pgvigil/secrets/shop/password", None)
    assert str(blog.dsn_file) == "/etc/pgvigil/secrets/blog/dsn"
    assert full.dsn.get_secret_value() == (
        r"host='10.0.0.1' port=6432 dbname='it\'s' user='o\\neil' sslmode=verify-ca"
        " sslrootcert=/etc/pgvigil/secrets/Full.1/ca.crt"
        " sslcert=/etc/pgvigil/secrets/Full.1/tls.crt sslkey=/etc/pgvigil/secrets/Full.1/tls.key"
        " target_session_attrs='primary'"
    )
    assert (found.max_samples, found.collectors["table_sizes"].limit) == (1000000, 20)


def test_every_secret_that_is_named_is_mounted_where_the_exporter_looks() -> None:
    volumes = {each["name"]: each for each in pod(EVERYTHING)["spec"]["volumes"]}
    mounted = {
        item["path"]: (source.get("secret") or source.get("configMap"))["name"] + "/" + item["key"]
        for source in volumes["secrets"]["projected"]["sources"]
        for item in (source.get("secret") or source.get("configMap"))["items"]
    }
    assert mounted == {
        "shop/password": "shop/password",
        "shop/ca.crt": "authority/ca.crt",
        "blog/dsn": "blog/dsn",
        "Full.1/password": "full/word",
        "Full.1/tls.crt": "client/cert",
        "Full.1/tls.key": "client/key",
        "Full.1/ca.crt": "authority/root.pem",
    }


def test_a_change_of_configuration_makes_new_pods() -> None:
    def checksum(values: Values) -> str:
        found: str = pod(values)["metadata"]["annotations"]["checksum/config"]
        return found

    one_target = {"targets": [SHOP]}
    assert checksum(one_target) == checksum(one_target | {"service": {"port": 80}})
    assert checksum(one_target) != checksum(one_target | {"settings": {"log_format": "json"}})
    assert checksum(one_target) != checksum(one_target | {"ownCollectors": {"a.yaml": "# new"}})


def test_own_collectors_load(tmp_path: Path) -> None:
    """The names end as the exporter's folder wants them, and versions stay versions."""
    [found] = [each for each in of_kind("ConfigMap", EVERYTHING) if each["metadata"]["name"].endswith("-collectors")]
    assert found["data"].keys() == {"own.yaml", "text.yaml"}
    (tmp_path / "own.yaml").write_text(found["data"]["own.yaml"])
    [collector] = load(tmp_path)
    assert collector.sql[0][0] == (13,)


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
    with serving("--config", str(config)) as running:
        for _, path, instance in asked(values):
            page = read(running.get(path).text)
            if instance == "there":
                assert page.value("pg_up") == 1
                assert page.value("pg_own_tables") > 100
        tested = [run_test(values, running.url), run_test({"targets": [there]}, running.url)]
    assert [done.returncode for done in tested] == [1, 1]
    assert 'pg_up_reason{target="gone",reason="refused"} 1' in tested[0].stdout
    config.write_text(one("ConfigMap", {"targets": [there]})["data"]["pgvigil.yml"])
    with serving("--config", str(config)) as running:
        done = run_test({"targets": [there]}, running.url)
    assert (done.returncode, done.stdout) == (0, "pg_up 1\n")


def run_test(values: Values, url: str) -> subprocess.CompletedProcess[str]:
    """Run what `helm test` runs in the cluster, but ask this address."""
    container = one("Pod", values)["spec"]["containers"][0]
    assert container["command"] == ["python3", "-c"]
    script, *pages = container["args"]
    assert pages == [f"http://{RELEASE}-pgvigil:9187/metrics"]
    return subprocess.run(
        [sys.executable, "-c", script, f"{url}/metrics"], capture_output=True, text=True, check=False, timeout=60
    )


def test_an_exporter_without_targets_is_what_default_values_make(tmp_path: Path) -> None:
    (tmp_path / "pgvigil.yml").write_text(one("ConfigMap", {})["data"]["pgvigil.yml"])
    assert load_settings(tmp_path / "pgvigil.yml").servers == ()
    assert run("--config", str(tmp_path / "pgvigil.yml"), "check").returncode == 0


# --- pods


@pytest.mark.parametrize("values", [{}, {"targets": FLEET, "shards": 3}], ids=["one", "shards"])
def test_pods_meet_the_restricted_pod_security_standard_and_have_no_rights(values: Values) -> None:
    for spec in (pod(values)["spec"], one("Pod", values)["spec"]):
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all({"configMap", "projected"} & volume.keys() for volume in spec.get("volumes", ()))
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
            assert "hostPort" not in json.dumps(container)
    assert one("ServiceAccount", values)["automountServiceAccountToken"] is False
    assert not [each for each in objects(values) if "Role" in each["kind"]]


def test_a_service_called_like_our_variables_does_no_harm() -> None:
    """Kubernetes would set PGVIGIL_PORT and others for a Service called pgvigil, which the exporter does not know."""
    assert run("scrape", port="tcp://10.0.0.1:9187").stderr.startswith("pgvigil: PGVIGIL_PORT: no such setting")
    assert pod({})["spec"]["enableServiceLinks"] is False


def test_probes_ask_for_what_does_not_depend_on_postgresql() -> None:
    container = pod({})["spec"]["containers"][0]
    probes = {name: each["httpGet"] for name, each in container.items() if name.endswith("Probe")}
    assert probes == {
        "startupProbe": {"path": "/healthz", "port": "metrics"},
        "livenessProbe": {"path": "/healthz", "port": "metrics"},
        "readinessProbe": {"path": "/readyz", "port": "metrics"},
    }


def test_two_exporters_never_watch_a_server_at_once() -> None:
    found = one("Deployment", {"targets": [SHOP]})["spec"]
    assert (found["replicas"], found["strategy"]) == (1, {"type": "Recreate"})


def test_a_disruption_budget_is_there_where_it_means_something() -> None:
    assert of_kind("PodDisruptionBudget", {"targets": [SHOP]}) == []
    found = one("PodDisruptionBudget", {"targets": FLEET, "shards": 3})
    assert found["spec"]["maxUnavailable"] == 1
    assert (
        found["spec"]["selector"]["matchLabels"].items()
        <= pod({"targets": FLEET, "shards": 3})["metadata"]["labels"].items()
    )


def test_the_network_policy_names_the_ports_of_the_targets() -> None:
    found = one("NetworkPolicy", EVERYTHING)["spec"]
    assert [port["port"] for port in found["egress"][1]["ports"]] == [5432, 6432, 5433]
    assert {"port": "metrics", "protocol": "TCP"} in found["ingress"][0]["ports"]
    labels = one("Pod", EVERYTHING)["metadata"]["labels"]
    tester = found["ingress"][0]["from"][-1]["podSelector"]["matchLabels"]
    assert tester.items() <= labels.items()
    assert not found["podSelector"]["matchLabels"].items() <= labels.items()


def test_what_selects_pods_selects_ours() -> None:
    labels = pod(EVERYTHING)["metadata"]["labels"]
    service = one("Service", EVERYTHING)
    assert service["spec"]["selector"].items() <= labels.items()
    monitor = one("ServiceMonitor", EVERYTHING)["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["namespaceSelector"] == {"matchNames": ["databases"]}
    assert service["metadata"]["namespace"] == "databases"


def test_names_fit_into_labels_however_long_the_release_is_called() -> None:
    found = objects({"targets": FLEET, "shards": 3, "monitor": {"kind": "Probe"}}, name="a" * 53)
    assert all(len(each["metadata"]["name"]) <= 63 for each in found)
    [stateful] = [each for each in found if each["kind"] == "StatefulSet"]
    assert len(stateful["metadata"]["name"]) <= 52


# --- what a person is told


def test_the_notes_have_the_sql_of_the_role(server18: Cluster) -> None:
    notes = render({"targets": [SHOP | {"user": 'the "monitor"'}]})["NOTES.txt"]
    statements = re.findall(r"^   ((?:CREATE|GRANT) .*;)$", notes, re.MULTILINE)
    assert len(statements) == 3
    try:
        server18.execute("\n".join(statements))
        assert server18.value("SELECT pg_has_role('the \"monitor\"', 'pg_monitor', 'member')")
    finally:
        server18.execute('DROP ROLE IF EXISTS "the ""monitor"""')


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "watches nothing yet"),
        ({"targets": [SHOP]}, "Prometheus does not know of it: set monitor.kind."),
        ({"targets": [SHOP], "monitor": {"kind": "PodMonitor"}}, "its PodMonitor lacks the label"),
        ({"prometheusRule": {"enabled": True}}, "set prometheusRule.values.dashboardBaseUrl"),
        (MATRIX["routing"], f"only alerts of namespace {NAMESPACE}"),
        ({"deploy": False}, "No exporter is deployed"),
    ],
)
def test_the_notes_say_what_is_left_to_do(values: Values, says: str) -> None:
    assert says in render(values)["NOTES.txt"]


def test_templates_in_extra_objects_survive() -> None:
    [found] = [each for each in objects(EVERYTHING) if each["metadata"]["name"] == "more"]
    assert found["data"] == {"a": "{{ $labels.job }}"}
