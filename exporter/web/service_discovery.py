"""The list of targets for Prometheus (https://prometheus.io/docs/prometheus/latest/http_sd/)."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TypedDict
from weakref import WeakKeyDictionary

from exporter.diagnosis.readings import Readings
from exporter.report import Report
from exporter.scrape.target import Target

_LONGEST_UNKNOWN_SECONDS = 60.0
"""Seconds for which a target is not listed while its server has neither answered nor failed to."""

_FIRST_PATIENCE_SECONDS = 5.0
"""Seconds that the first list waits for servers that have not answered yet: without it Prometheus asks again later."""


class TargetGroup(TypedDict):
    """One entry of the list."""

    targets: list[str]
    labels: dict[str, str]


class ServiceDiscovery:
    """Lists the targets with what is known of their servers.

    A label that comes later, or goes, begins other series. So a target is listed once its server is known, and one that
    is down keeps what it was.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        is_complete: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._targets = targets
        self._is_complete = is_complete
        """Tells whether all targets are known."""
        self._clock = clock
        self._give_up_at = clock() + _LONGEST_UNKNOWN_SECONDS
        """Until when a process that has just begun waits for the servers it has."""
        self._has_listed = False
        self._since = WeakKeyDictionary[Target, float]()
        """When each was first to be listed."""
        self._clusters = WeakKeyDictionary[Target, str]()
        """The latest cluster_name of each."""

    async def groups(self, place: str, scheme: str, seconds: float) -> list[TargetGroup] | None:
        """List the targets, and the exporter itself where its own metrics are on a page of their own.

        None while this process has just begun and does not know its servers: Prometheus keeps the list that it has
        then, where an answer would do.

        Args:
            place: host and port by which Prometheus reaches this exporter.
            scheme: `http` or `https`, likewise.
            seconds: deadline of what has to be collected first.

        """
        targets = dict(self._targets)
        patience = {} if self._has_listed else {"patience": min(seconds, _FIRST_PATIENCE_SECONDS)}
        reports = await asyncio.gather(*(target.known(seconds, **patience) for target in targets.values()))
        paired = zip(targets.items(), reports, strict=True)
        unknown = {name for (name, target), report in paired if not self._is_known(target, report)}
        is_awaited = not self._is_complete() or (unknown and self._clock() < self._give_up_at)
        if is_awaited and not self._has_listed:
            return None
        self._has_listed = True
        own = [] if "" in targets else [{"__metrics_path__": "/metrics"}]
        found = [*own, *(self._labels(name, target) for name, target in targets.items() if name not in unknown)]
        return [{"targets": [place], "labels": {"__scheme__": scheme, **labels}} for labels in found]

    def _is_known(self, target: Target, report: Report) -> bool:
        """Note what is new of a server; return whether it may be listed."""
        info = Readings.of_report(report).series("pg_server_info")
        if info:
            self._clusters[target] = info[0].labels.get("cluster_name", "")
        is_silent = not report.up and not report.down_reason
        is_awaited = target.kind == "postgresql" and (is_silent or (report.up and target not in self._clusters))
        since = self._since.setdefault(target, self._clock())
        return not is_awaited or self._clock() - since > _LONGEST_UNKNOWN_SECONDS

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
        return {
            "role": "standby" if server.in_recovery else "primary",
            "version": ".".join(map(str, server.version)),
            "cluster": self._clusters.get(target, ""),
        }
