"""The metrics of the exporter's own process, as every Prometheus client in Python has them, and its version."""

from collections.abc import Iterable
from functools import cache
from typing import Literal

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.registry import CollectorRegistry

from exporter import __version__
from exporter.catalog.model import Metric
from exporter.samples.label_values import label_text
from exporter.samples.model import Family


@cache
def _metric(name: str, kind: str, text: str, *labels: str) -> Metric:
    return Metric.model_validate({"name": name, "type": kind, "help": text, "labels": labels})


BUILD = _metric("pgvigil_build_info", "gauge", "1, labelled with the exporter's version.", "version")
HISTORY_SUCCESS = _metric(
    "pgvigil_history_success",
    "gauge",
    "1 when the history of every target was written the last time, else 0; the log says why not. While it is 0, a"
    " restart of the exporter forgets incidents and active sessions.",
)
Refusal = Literal["credentials", "rate", "pages", "tls"]
"""Reason for refusing a client: the label `reason`."""

HTTP_REFUSED = _metric(
    "pgvigil_http_refused_total",
    "counter",
    "Requests and connections of clients that were refused, by reason: credentials (missing or wrong), rate (rate_limit"
    " or too many passwords to check), pages (a page for users, asked for from elsewhere), tls (the handshake failed).",
    "reason",
)
Drop = Literal["asks_slowly", "reads_slowly", "room", "bytes", "no_http"]
"""Reason for closing a client's connection: the label `reason`."""

HTTP_CONNECTIONS = _metric("pgvigil_http_connections", "gauge", "Connections of HTTP clients that are open.")
HTTP_CONNECTIONS_MAX = _metric(
    "pgvigil_http_connections_max",
    "gauge",
    "Connections of HTTP clients that there may be: beyond it the one that waits longest for its client is closed.",
)
HTTP_UNREAD_BYTES = _metric(
    "pgvigil_http_unread_bytes",
    "gauge",
    "Bytes of answers that clients have not read yet; bounded, by closing the connections that have waited longest.",
)
HTTP_DROPPED = _metric(
    "pgvigil_http_dropped_total",
    "counter",
    "Connections of HTTP clients that were closed, by reason: asks_slowly (no whole request in time), reads_slowly (an"
    " answer not read in time), room (more connections than there may be), bytes (more unread bytes than there may be),"
    " no_http (what was sent is no request, or its head is too long). A rise is a client that hangs, or an attack.",
    "reason",
)
WEB_CONFIG_SUCCESS = _metric(
    "pgvigil_web_config_success",
    "gauge",
    "1 when web_config_file, the files that it names and bearer_token_file could be read the last time, else 0: the"
    " earlier configuration stays, and a certificate may end. The log has the reason.",
)
CONFIG_SUCCESS = _metric(
    "pgvigil_config_success",
    "gauge",
    "1 when configuration, files of targets and collectors could be used the last time that they were read, else 0: the"
    " earlier ones stay, and new servers are not scraped. The log has the reason.",
)
CONFIG_SUCCESS_TIMESTAMP = _metric(
    "pgvigil_config_last_success_timestamp_seconds",
    "gauge",
    "Unix time at which configuration, files of targets and collectors were last read and used, in seconds.",
)
DISCOVERY_SUCCESS = _metric(
    "pgvigil_discovery_success",
    "gauge",
    "1 when a source of servers answered the last time, else 0: its servers stay as they were, and new ones are not"
    " scraped. The log has the reason.",
    "source",
)
DISCOVERY_TARGETS = _metric("pgvigil_discovery_targets", "gauge", "Servers that a source names.", "source")
HISTORY_BYTES = _metric(
    "pgvigil_history_bytes",
    "gauge",
    "Size of the history files of all targets, in bytes; bounded at 50 MB for each target.",
)

OF_PROCESS = (
    BUILD,
    HISTORY_SUCCESS,
    HISTORY_BYTES,
    HTTP_REFUSED,
    HTTP_CONNECTIONS,
    HTTP_CONNECTIONS_MAX,
    HTTP_UNREAD_BYTES,
    HTTP_DROPPED,
    WEB_CONFIG_SUCCESS,
    CONFIG_SUCCESS,
    CONFIG_SUCCESS_TIMESTAMP,
    DISCOVERY_SUCCESS,
    DISCOVERY_TARGETS,
)
"""Metrics of this process, whatever it scrapes."""


def process_families() -> list[Family]:
    """Read CPU, memory, files and garbage collection of this process."""
    registry = CollectorRegistry()
    collectors: Iterable[PrometheusCollector] = (
        ProcessCollector(registry=None),
        PlatformCollector(registry),
        GCCollector(registry),
    )
    build = Family(BUILD, [label_text({"version": __version__})], [1])
    return [build, *(family for collector in collectors for family in _families(collector))]


def _families(collector: PrometheusCollector) -> Iterable[Family]:
    for family in collector.collect():
        if family.samples:
            metric = _metric(family.samples[0].name, family.type, family.documentation)
            yield Family(metric, [label_text(s.labels) for s in family.samples], [s.value for s in family.samples])
