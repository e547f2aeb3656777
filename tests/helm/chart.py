"""Renders the chart as helm does, and checks what comes of it as Kubernetes and the Prometheus Operator do."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml
from kubernetes_validate import utils

CHART = Path(__file__).parents[2] / "helm" / "pgvigil"

RELEASE = "release"
NAMESPACE = "watch"

Object = dict[str, Any]

utils.schema_contents = cache(utils.schema_contents)  # it reads megabytes for each object


def lint(values: Mapping[str, Any]) -> list[str]:
    """What helm finds wrong with the chart and these values."""
    report = helm_python.lint(CHART, dict(values), strict=True, namespace=NAMESPACE)
    errors: list[str] = report["errors"]
    return errors


def render(values: Mapping[str, Any], chart: Path = CHART, name: str = RELEASE) -> Mapping[str, str]:
    """The text that each template becomes, by its path within the chart."""
    return _rendered(json.dumps(values), chart, name)


@cache
def _rendered(values: str, chart: Path, name: str) -> Mapping[str, str]:
    with helm_python.Chart.load(chart) as loaded:
        texts = loaded.render(values=json.loads(values), name=name, namespace=NAMESPACE)
        return {path.partition("/templates/")[2]: text for path, text in texts.items()}


def objects(values: Mapping[str, Any], chart: Path = CHART, name: str = RELEASE) -> list[Object]:
    """The objects that helm would install."""
    texts = render(values, chart, name)
    manifests = (text for path, text in texts.items() if path != "NOTES.txt")
    return [found for text in manifests for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def of_kind(kind: str, values: Mapping[str, Any]) -> list[Object]:
    """The objects of one kind."""
    return [each for each in objects(values) if each["kind"] == kind]


def one(kind: str, values: Mapping[str, Any]) -> Object:
    """The only object of its kind."""
    [found] = of_kind(kind, values)
    return found


def pod(values: Mapping[str, Any]) -> Object:
    """The template of the exporter's pods."""
    [found] = [each for each in objects(values) if each["kind"] in ("Deployment", "StatefulSet")]
    template: Object = found["spec"]["template"]
    return template


def versions() -> tuple[str, ...]:
    """The versions of Kubernetes that are tried: the oldest that Chart.yaml takes, to the newest that has a schema."""
    return "1.27", "1.30", "1.33", kubernetes_validate.latest_version()


@cache
def models() -> Mapping[tuple[str, str], Any]:
    """The Prometheus Operator's objects; their 100 000 lines are imported by those who need them."""
    from cloudcoil.models.prometheus_operator import v1, v1alpha1

    return {
        ("monitoring.coreos.com/v1", "PodMonitor"): v1.PodMonitor,
        ("monitoring.coreos.com/v1", "Probe"): v1.Probe,
        ("monitoring.coreos.com/v1", "PrometheusRule"): v1.PrometheusRule,
        ("monitoring.coreos.com/v1", "ServiceMonitor"): v1.ServiceMonitor,
        ("monitoring.coreos.com/v1alpha1", "AlertmanagerConfig"): v1alpha1.AlertmanagerConfig,
        ("monitoring.coreos.com/v1alpha1", "ScrapeConfig"): v1alpha1.ScrapeConfig,
    }


GRAFANA_DASHBOARD = {
    "allowCrossNamespaceImport": bool,
    "configMapRef": dict,
    "folder": str,
    "instanceSelector": dict,
    "resyncPeriod": str,
}
"""What the chart writes of the Grafana Operator's GrafanaDashboard (v1beta1), whose definition no package has."""


def problems(found: Object) -> Iterator[str]:
    """What Kubernetes or an operator would say against an object."""
    where = f"{found['kind']} {found['metadata']['name']}"
    if model := models().get((found["apiVersion"], found["kind"])):
        known = model.model_validate(found).model_dump(mode="json", by_alias=True, exclude_unset=True)
        if known != found:
            yield f"{where}: has fields that its definition has not: {_unknown(found, known)}"
    elif found["kind"] == "GrafanaDashboard":
        assert found["apiVersion"] == "grafana.integreatly.org/v1beta1"
        yield from (
            f"{where}: {name}"
            for name, value in found["spec"].items()
            if name not in GRAFANA_DASHBOARD or not isinstance(value, GRAFANA_DASHBOARD[name])
        )
    else:
        for version in versions():
            try:
                kubernetes_validate.validate(found, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{where}: Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def _unknown(found: Any, known: Any, place: str = "") -> list[str]:
    """The places where one has what the other has not."""
    if isinstance(found, dict) and isinstance(known, dict):
        return [wrong for key, each in found.items() for wrong in _unknown(each, known.get(key), f"{place}.{key}")]
    if isinstance(found, list) and isinstance(known, list) and len(found) == len(known):
        return [wrong for i, each in enumerate(found) for wrong in _unknown(each, known[i], f"{place}[{i}]")]
    return [] if found == known else [place]
