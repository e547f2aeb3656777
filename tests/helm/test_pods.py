"""The pods run with as few rights as can be, and a person is told what is left to do."""

import json
import re

import pytest
from helm.cases import EVERYTHING, FLEET, MATRIX, SHOP, Values
from helm.chart import NAMESPACE, objects, of_kind, one, pod, render
from serving import run

from exporter.demo.cluster import Cluster


@pytest.mark.parametrize("values", [{}, {"targets": FLEET, "shards": 3}], ids=["one", "shards"])
def test_pods_meet_the_restricted_pod_security_standard_and_have_no_rights(values: Values) -> None:
    for spec in (pod(values)["spec"], one("Pod", values)["spec"]):
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all({"configMap", "projected", "emptyDir"} & volume.keys() for volume in spec.get("volumes", ()))
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
            assert "hostPort" not in json.dumps(container)
    assert one("ServiceAccount", values)["automountServiceAccountToken"] is False
    assert not [each for each in objects(values) if "Role" in each["kind"]]


POSTGRES_PODS: Values = {"source": "kubernetes", "selector": "cnpg.io/cluster=shop", "dsn": "user=pgvigil"}


def test_pods_that_are_found_may_be_listed_and_nothing_else() -> None:
    sources = [POSTGRES_PODS, POSTGRES_PODS | {"namespace": "blog"}]
    values = {"settings": {"discovery": sources}}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    roles = {each["metadata"]["namespace"]: each for each in of_kind("Role", values)}
    assert {namespace: role["rules"] for namespace, role in roles.items()} == {NAMESPACE: rules, "blog": rules}
    account = {"kind": "ServiceAccount", "name": pod(values)["spec"]["serviceAccountName"], "namespace": NAMESPACE}
    for binding in of_kind("RoleBinding", values):
        assert binding["subjects"] == [account]
        assert binding["roleRef"]["name"] == roles[binding["metadata"]["namespace"]]["metadata"]["name"]
    assert len(of_kind("RoleBinding", values)) == 2
    assert pod(values)["spec"]["automountServiceAccountToken"] is True
    assert of_kind("Role", values | {"rbac": {"create": False}}) == []


OPEN = {"name": "open", "host": "open-db"}
"""A target without a Secret."""


@pytest.mark.parametrize(
    ("changed", "is_new"),
    [
        ({"targets": [OPEN]}, False),
        ({"ownCollectors": {"a.yaml": "# new"}}, False),
        ({"settings": {"disable": ["table_bloat"]}}, False),
        ({"settings": {"discovery": [{"source": "dns", "srv": "a"}]}}, False),
        ({"service": {"port": 80}}, False),
        ({"settings": {"log_format": "json"}}, True),
        ({"targets": [OPEN, SHOP]}, True),
    ],
)
def test_only_settings_of_the_start_and_secrets_make_new_pods(changed: Values, *, is_new: bool) -> None:
    before = {"targets": [OPEN, OPEN | {"name": "other"}], "ownCollectors": {"a.yaml": "# old"}}
    assert (pod(before) != pod(before | changed)) is is_new


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


def test_the_network_policy_lets_sources_of_servers_be_asked() -> None:
    patroni = {"source": "patroni", "urls": ["http://db1:8008", "https://db2/"], "dsn": "user=u"}
    values = {"networkPolicy": {"enabled": True}, "settings": {"discovery": [POSTGRES_PODS | {"port": 5433}, patroni]}}
    found = one("NetworkPolicy", values)["spec"]
    assert [port["port"] for port in found["egress"][1]["ports"]] == [5433, 443, 6443, 5432, 8008]


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
