"""The list of targets for Prometheus (https://prometheus.io/docs/prometheus/latest/http_sd/)."""

from collections.abc import Mapping
from typing import TypedDict
from weakref import WeakKeyDictionary

from exporter.diagnosis.readings import Readings
from exporter.scrape.target import Target


class TargetGroup(TypedDict):
    """One entry of the list."""

    targets: list[str]
    labels: dict[str, str]


class ServiceDiscovery:
    """Lists the targets with what is known of them, which a server that is down keeps: else it had other series."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets
        self._clusters = WeakKeyDictionary[Target, str]()
        """The latest cluster_name of each."""

    def groups(self, place: str, scheme: str) -> list[TargetGroup]:
        """List the targets, and the exporter itself where its own metrics are on a page of their own.

        Args:
            place: host and port by which Prometheus reaches this exporter.
            scheme: `http` or `https`, likewise.

        """
        own = [] if "" in self._targets else [{"__metrics_path__": "/metrics"}]
        found = [*own, *(self._labels(name, target) for name, target in self._targets.items())]
        return [{"targets": [place], "labels": {"__scheme__": scheme, **labels}} for labels in found]

    def _labels(self, name: str, target: Target) -> dict[str, str]:
        """Describe one target. What the operator says of it wins, but for the page that is scraped."""
        path = {"__metrics_path__": "/probe", "__param_target": name} if name else {"__metrics_path__": "/metrics"}
        labels = {"instance": name, **self._facts(target), **target.labels, **path}
        return {key: value for key, value in labels.items() if value}

    def _facts(self, target: Target) -> dict[str, str]:
        """Say what is known of a server since its first answer."""
        server = target.server
        if server is None or target.kind != "postgresql":
            return {}
        if found := Readings.of_samples(target.latest("server")).series("pg_server_info"):
            self._clusters[target] = found[0].labels.get("cluster_name", "")
        return {
            "role": "standby" if server.in_recovery else "primary",
            "version": ".".join(map(str, server.version)),
            "cluster": self._clusters.get(target, ""),
        }
