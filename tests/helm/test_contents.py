"""The rules, dashboards and routing of the chart are those of the repository."""

import base64
import gzip
import json
import re
import subprocess
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import helm_python
import pytest
import yaml
from helm.cases import EVERYTHING, RULES, Values
from helm.chart import CHART, RELEASE, of_kind, render

import exporter
from exporter.alert_rules import ALERT, shipped
from exporter.commands.rules import Values as RuleValues
from exporter.commands.rules import rule_files, thresholds

REPOSITORY = CHART.parents[1]
MIB = 1024 * 1024


def test_its_version_is_that_of_the_exporter() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert (about["version"], about["appVersion"]) == (exporter.__version__, exporter.__version__)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the packaged chart."""
    archive = helm_python.package(CHART, destination=tmp_path_factory.mktemp("package"))
    with tarfile.open(archive) as opened:
        members = [(member.name, opened.extractfile(member)) for member in opened.getmembers()]
        return {name.removeprefix("pgvigil/"): file.read() for name, file in members if file}


def test_rules_routing_and_dashboards_are_packaged_byte_for_byte(package: dict[str, bytes]) -> None:
    ours = {f"files/rules/{file.name}": file for file in shipped("rules").glob("*.yml")}
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


def rule_texts(values: Values) -> dict[str, str]:
    """The rule files in the PrometheusRules, as text, by the file they came from."""
    text = render(values)["prometheusrule.yaml"]
    found = {}
    for document in re.split(r"^---\n", text, flags=re.MULTILINE)[1:]:
        [name] = re.findall(rf"^  name: {RELEASE}-pgvigil-(\w+)$", document, re.MULTILINE)
        found[f"{name}.yml"] = textwrap.dedent(document.partition("\nspec:\n")[2]).rstrip("\n") + "\n"
    return found


def test_rules_are_ours_byte_for_byte() -> None:
    ours = {file.name: file.read_text("utf-8") for file in shipped("rules").glob("*.yml")}
    assert rule_texts({"prometheusRule": {"enabled": True}}) == ours
    assert all("{{ $" in text for text in ours.values())


ALL_OF_ARCHIVER = [found["name"] for found in ALERT.finditer((shipped("rules") / "archiver.yml").read_text("utf-8"))]


ALL_ALERTS = [found for file in shipped("rules").glob("*.yml") for found in ALERT.finditer(file.read_text("utf-8"))]
ALL_OVERRIDDEN = {
    found["name"]: {
        "for": "77m",
        "severity": "info",
        **{name: round(0.1234 + i / 10000, 4) for i, name in enumerate(thresholds(found[0]))},
    }
    for found in ALL_ALERTS
}


@pytest.mark.parametrize(
    "values",
    [RULES, {"runbookBaseUrl": "", "labels": {"a": "b"}}, {"disable": ALL_OF_ARCHIVER}, {"overrides": ALL_OVERRIDDEN}],
    ids=["of every kind", "no runbooks", "a file that is left without rules", "all that can be overridden"],
)
def test_values_do_what_the_command_does_with_them(values: Values) -> None:
    theirs = rule_files(RuleValues.model_validate(values), shipped("rules"))
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
