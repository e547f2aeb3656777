"""What the chart makes of values: valid objects, or a refusal that says what is wrong."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from helm.cases import BLOG, MATRIX, SHOP, Values
from helm.chart import CHART, lint, objects, problems, render
from helm.generate import files
from helm_python import HelmError

SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))


def test_generated_files_are_up_to_date() -> None:
    wrong = [file.name for file, text in files().items() if file.read_text("utf-8") != text]
    assert wrong == [], "run: uv run python tests/helm/generate.py"


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_helm_lints_it_and_kubernetes_takes_it(values: Values) -> None:
    assert lint(values) == []
    found = objects(values)
    assert found
    assert [problem for each in found for problem in problems(each)] == []
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)


def test_a_field_that_does_not_exist_would_be_noticed() -> None:
    """The checks of the test above can fail: for what Kubernetes knows, and for what the operators do."""
    monitor = {"targets": [SHOP], "monitor": {"kind": "ServiceMonitor"}}
    by_kind = {each["kind"]: each for each in objects(monitor | {"dashboards": MATRIX["dashboards"]["dashboards"]})}
    by_kind["Service"]["spec"]["prots"] = []
    by_kind["ServiceMonitor"]["spec"]["endpoints"][0]["intervall"] = "1s"
    assert len(list(problems(by_kind["Service"]))) == 4
    [problem] = problems(by_kind["ServiceMonitor"])
    assert problem.endswith("['.spec.endpoints[0].intervall']")


def test_the_example_of_the_readme_is_taken() -> None:
    [example] = re.findall(r"^```yaml\n(.*?)^```", (CHART / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    values = yaml.safe_load(example)
    assert lint(values) == []
    assert {each["kind"] for each in objects(values)} > {"Deployment", "ServiceMonitor", "PrometheusRule"}


@pytest.mark.parametrize("place", ["targets", "targetDefaults", "settings", "ownCollectors"])
def test_the_examples_of_the_values_are_taken(place: str) -> None:
    [example] = SCHEMA["properties"][place]["examples"]
    assert objects({place: example})


REFUSED: list[tuple[Values, str]] = [
    # By the schema: keys that there are not, at every depth.
    ({"shard": 2}, "'shard' not allowed"),
    ({"targets": [SHOP | {"hots": "x"}]}, "'hots' not allowed"),
    ({"targets": [SHOP | {"passwordSecret": {"name": "a", "field": "b"}}]}, "'field' not allowed"),
    ({"targets": [BLOG | {"dsnSecret": {"name": "a", "field": "b"}}]}, "'field' not allowed"),
    ({"targets": [SHOP | {"certificateSecret": {"name": "a", "cert": "b"}}]}, "'cert' not allowed"),
    ({"targets": [SHOP | {"ca": {"secretName": "a", "file": "b"}}]}, "'file' not allowed"),
    ({"targetDefaults": {"host": "x"}}, "'host' not allowed"),
    ({"settings": {"cost_buget": 1}}, "'cost_buget' not allowed"),
    ({"settings": {"listen": "0.0.0.0:1"}}, "'listen' not allowed"),
    ({"settings": {"collectors": {"table_vacuum": {"limt": 1}}}}, "'limt' not allowed"),
    ({"monitor": {"type": "Probe"}}, "'type' not allowed"),
    ({"prometheusRule": {"enable": True}}, "'enable' not allowed"),
    ({"prometheusRule": {"values": {"override": {}}}}, "'override' not allowed"),
    ({"alertmanagerConfig": {"enable": True}}, "'enable' not allowed"),
    ({"alertmanagerConfig": {"pagerdutySecret": {"key": "x"}}}, "'key' not allowed"),
    ({"alertmanagerConfig": {"deadMansSwitchSecret": {"url": "x"}}}, "'url' not allowed"),
    ({"dashboards": {"enable": True}}, "'enable' not allowed"),
    ({"dashboards": {"grafanaOperator": {"enable": True}}}, "'enable' not allowed"),
    ({"dashboards": {"grafanaOperator": {"instanceSelector": {"labels": {}}}}}, "'labels' not allowed"),
    ({"networkPolicy": {"enable": True}}, "'enable' not allowed"),
    ({"podDisruptionBudget": {"minAvailable": 1}}, "'minAvailable' not allowed"),
    ({"image": {"name": "x"}}, "'name' not allowed"),
    ({"image": {"pullSecrets": [{"name": "a", "b": "c"}]}}, "'b' not allowed"),
    ({"resources": {"request": {}}}, "'request' not allowed"),
    ({"probes": {"live": {}}}, "'live' not allowed"),
    ({"probes": {"liveness": {"period": 1}}}, "'period' not allowed"),
    ({"service": {"kind": "x"}}, "'kind' not allowed"),
    ({"serviceAccount": {"token": True}}, "'token' not allowed"),
    ({"tolerations": [{"keys": "x"}]}, "'keys' not allowed"),
    ({"extraEnv": [{"name": "A", "vale": "b"}]}, "'vale' not allowed"),
    # By the schema: values that cannot be.
    ({"shards": 0}, "minimum"),
    ({"shards": "two"}, "want integer"),
    ({"targets": {"shop": {}}}, "want array"),
    ({"targets": [{"host": "x"}]}, "missing property 'name'"),
    ({"targets": [SHOP | {"name": "a/b"}]}, "does not match pattern"),
    ({"targets": [SHOP | {"name": "-"}]}, "does not match pattern"),
    ({"targets": [SHOP | {"name": "a" * 64}]}, "maxLength"),
    ({"targets": [SHOP | {"host": ""}]}, "minLength"),
    ({"targets": [SHOP | {"port": 65536}]}, "maximum"),
    ({"targets": [SHOP | {"kind": "pgcat"}]}, "must be one of 'postgresql'"),
    ({"targets": [SHOP | {"includeDatabases": "shop"}]}, "want array"),
    ({"targets": [SHOP | {"excludeDatabases": [""]}]}, "minLength"),
    ({"targets": [SHOP | {"statementsExcludeUsers": [""]}]}, "minLength"),
    ({"targets": [SHOP | {"sslmode": "verify"}]}, "must be one of 'disable'"),
    ({"targets": [SHOP | {"ca": {}}]}, "oneOf"),
    ({"targets": [SHOP | {"ca": {"secretName": "a", "configMapName": "b"}}]}, "oneOf"),
    ({"targets": [SHOP | {"caFile": "ca.crt"}]}, "does not match pattern"),
    ({"targets": [SHOP | {"passwordSecret": {"key": "a"}}]}, "missing property 'name'"),
    ({"targets": [SHOP | {"passwordSecret": "a"}]}, "want object"),
    ({"targets": [SHOP | {"passwordSecret": {"name": "A"}}]}, "does not match pattern"),
    ({"targets": [SHOP | {"passwordSecret": {"name": "a", "key": "a/b"}}]}, "does not match pattern"),
    ({"targets": [SHOP | {"certificateSecret": {}}]}, "missing property 'name'"),
    ({"targets": [SHOP | {"parameters": {"password": "x"}}]}, "invalid propertyName 'password'"),
    ({"targets": [SHOP | {"parameters": {"sslmode": "x"}}]}, "invalid propertyName 'sslmode'"),
    ({"targets": [{"name": "a", "dsnSecret": {}}]}, "missing property 'name'"),
    ({"settings": {"cost_budget": 2}}, "maximum"),
    ({"settings": {"log_format": "xml"}}, "must be one of 'console', 'json'"),
    ({"settings": {"disable": "table_vacuum"}}, "want array"),
    ({"ownCollectors": {"own.json": {}}}, "invalid propertyName 'own.json'"),
    ({"ownCollectors": {"own.yaml": []}}, "want string or object"),
    ({"monitor": {"kind": "Scrape"}}, "must be one of 'none'"),
    ({"monitor": {"interval": "15"}}, "does not match pattern"),
    ({"monitor": {"labels": {"a": 1}}}, "want string"),
    ({"monitor": {"job": ""}}, "minLength"),
    ({"prometheusRule": {"values": {"labels": {"severity": "x"}}}}, "invalid propertyName 'severity'"),
    ({"prometheusRule": {"values": {"labels": {"__x": "x"}}}}, "invalid propertyName '__x'"),
    ({"prometheusRule": {"values": {"labels": {"te-am": "x"}}}}, "invalid propertyName 'te-am'"),
    ({"prometheusRule": {"values": {"labels": {"team": "{{ $value }}"}}}}, "not"),
    ({"prometheusRule": {"values": {"overrides": {"A": {"severity": "page"}}}}}, "must be one of 'critical'"),
    ({"prometheusRule": {"values": {"overrides": {"A": {"for": "soon"}}}}}, "does not match pattern"),
    ({"prometheusRule": {"values": {"overrides": {"A": {"for": ""}}}}}, "minLength"),
    ({"prometheusRule": {"values": {"overrides": {"A": {"ratio": 90}}}}}, "maximum"),
    ({"prometheusRule": {"values": {"overrides": {"A": {"seconds": -1}}}}}, "minimum"),
    ({"prometheusRule": {"values": {"overrides": {"A": {"seconds": "9"}}}}}, "want number"),
    ({"dashboards": {"grafanaOperator": {"resyncPeriod": "often"}}}, "does not match pattern"),
    ({"networkPolicy": {"ports": [0]}}, "minimum"),
    ({"networkPolicy": {"from": {}}}, "want array"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "minimum"),
    ({"podDisruptionBudget": {"maxUnavailable": "all"}}, "does not match pattern"),
    ({"image": {"digest": "sha256:0"}}, "does not match pattern"),
    ({"image": {"repository": ""}}, "minLength"),
    ({"image": {"pullPolicy": "Sometimes"}}, "must be one of 'Always'"),
    ({"image": {"pullSecrets": ["a"]}}, "want object"),
    ({"resources": {"limits": {"memory": "1 GB"}}}, "does not match pattern"),
    ({"probes": {"startup": {"periodSeconds": 0}}}, "minimum"),
    ({"service": {"type": "ExternalName"}}, "must be one of 'ClusterIP'"),
    ({"service": {"ipFamilies": ["IPv5"]}}, "must be one of 'IPv4'"),
    ({"service": {"ipFamilyPolicy": "Dual"}}, "must be one of ''"),
    ({"listenHost": "localhost"}, "does not match pattern"),
    ({"serviceAccount": {"create": "yes"}}, "want boolean"),
    ({"tolerations": [{"operator": "Is"}]}, "must be one of 'Exists'"),
    ({"terminationGracePeriodSeconds": 5}, "minimum"),
    ({"revisionHistoryLimit": -1}, "minimum"),
    ({"dnsPolicy": "Any"}, "must be one of ''"),
    ({"extraEnv": [{"value": "a"}]}, "missing property 'name'"),
    ({"fullnameOverride": "A B"}, "does not match pattern"),
    ({"affinity": []}, "want object"),
    ({"extraObjects": {}}, "want array"),
    # By the templates, with a remedy.
    (
        {"targets": [SHOP | {"password": "s3cret"}]},
        "targets: shop: password: a secret does not belong into values, which Helm keeps in the release; put it",
    ),
    (
        {"targets": [SHOP | {"password": "s3cret"}]},
        "into a Secret and name that in passwordSecret: {name: ...}",
    ),
    ({"targets": [{"name": "a", "dsn": "postgresql://u:p@h/"}]}, "targets: a: dsn: a secret does not belong into"),
    ({"targetDefaults": {"password": "s3cret"}}, "targetDefaults: password: a secret does not belong into values"),
    ({"extraEnv": [{"name": "PGPASSWORD", "value": "x"}]}, "extraEnv: PGPASSWORD: a secret does not belong into"),
    ({"extraEnv": [{"name": "PGVIGIL_DSN", "value": "x"}]}, "extraEnv: PGVIGIL_DSN: a secret does not belong into"),
    ({"alertmanagerConfig": {"incidentsUrl": "exporter"}}, "does not match pattern"),
    ({"targets": [SHOP, SHOP]}, "targets: two are called shop"),
    ({"shards": 2, "settings": {"targets_files": ["/a"]}}, "settings.targets_files: with shards each pod would watch"),
    (
        {"monitor": {"kind": "PodMonitor"}, "settings": {"targets_files": ["/a"]}},
        "monitor.kind: PodMonitor asks for the servers in targets only, and none of settings.targets_files: use Scrape",
    ),
    (
        {"shards": 2, "settings": {"discovery": [{"source": "dns", "srv": "a"}]}},
        "settings.discovery: with shards each pod would watch every server",
    ),
    ({"targets": [{"name": "a"}]}, "targets: a: give a host or a dsnSecret, one of them"),
    ({"targets": [SHOP | BLOG]}, "targets: blog: give a host or a dsnSecret, one of them"),
    (
        {"targets": [BLOG | {"user": "u", "port": 1}]},
        "blog: a dsnSecret says all there is to say; take away port, user",
    ),
    (
        {"targets": [SHOP | {"ca": {"secretName": "a"}}], "targetDefaults": {"caFile": "/a"}},
        "targets: shop: give ca or caFile, one of them",
    ),
    (
        {"targets": [SHOP], "targetDefaults": {"sslmode": "verify-full"}},
        "targets: shop: sslmode verify-full needs a ca or a caFile",
    ),
    ({"targets": [SHOP, BLOG], "monitor": {"kind": "annotations"}}, "monitor.kind: annotations lead Prometheus to one"),
    ({"targets": [SHOP], "shards": 2, "monitor": {"kind": "annotations"}}, "monitor.kind: annotations lead Prometheus"),
    ({"alertmanagerConfig": {"enabled": True}}, "alertmanagerConfig.pagerdutySecret.name: name the Secret that has"),
    (
        {"prometheusRule": {"enabled": True, "values": {"disable": ["Nothing"]}}},
        "prometheusRule.values.disable.Nothing: no such alert; there are: P",
    ),
    (
        {"prometheusRule": {"enabled": True, "values": {"overrides": {"Nothing": {}}}}},
        "prometheusRule.values.overrides.Nothing: no such alert; there are: P",
    ),
    (
        {
            "prometheusRule": {
                "enabled": True,
                "values": {"overrides": {"PostgreSQLConnectionsNearlyUsed": {"ration": 1}}},
            }
        },
        "NearlyUsed.ration: no such threshold; there are: always_ratio, for, margin, new_ratio, ratio, severity",
    ),
]


def test_what_is_wrong_is_refused_with_its_reason(subtests: pytest.Subtests) -> None:
    for values, reason in REFUSED:
        with subtests.test(json.dumps(values)):
            with pytest.raises(HelmError) as raised:
                render(values)
            assert reason in str(raised.value)
            assert "s3cret" not in str(raised.value)


def _objects(schema: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every part of the schema that describes an object, with where it is."""
    if isinstance(schema, list):
        for i, each in enumerate(schema):
            yield from _objects(each, f"{place}[{i}]")
    if isinstance(schema, dict):
        if schema.get("type") == "object" or "properties" in schema:
            yield place, schema
        for key, each in schema.items():
            if key not in ("default", "examples", "enum"):
                yield from _objects(each, f"{place}.{key}")


def test_every_object_is_closed_but_those_of_kubernetes_and_of_parent_charts() -> None:
    open_ones = [place for place, each in _objects(SCHEMA, "") if each.get("additionalProperties", True) is True]
    assert open_ones == [".definitions.kubernetes", ".properties.global"]


def test_every_value_is_described() -> None:
    values = [
        (f"{place}.{name}", value)
        for place, each in _objects(SCHEMA, "")
        for name, value in each.get("properties", {}).items()
        if "settings" not in place and place != ".definitions.probe" and "overrides" not in place
    ]
    bare = [
        place
        for place, value in values
        if "description" not in value and "description" not in SCHEMA["definitions"].get(value["$ref"][14:], {})
    ]
    assert len(values) > 100
    assert bare == []


def test_defaults_are_what_the_schema_says() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert values.keys() == SCHEMA["properties"].keys()


def test_a_chart_that_has_it_as_a_dependency_may_switch_it_off_and_hand_down_globals(tmp_path: Any) -> None:
    """Helm gives such values to the chart as well, whose schema is closed."""
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "pgvigil").symlink_to(CHART)
    (tmp_path / "Chart.yaml").write_text(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\n"
        "dependencies: [{name: pgvigil, version: '>=0', condition: pgvigil.enabled}]\n"
    )
    handed = {"global": {"team": "databases"}, "pgvigil": {"enabled": True, "targets": [SHOP]}}
    assert len(objects(handed, tmp_path)) > 3
    assert objects(handed | {"pgvigil": {"enabled": False}}, tmp_path) == []
    assert render({}, tmp_path)
