"""Variables of postgres_exporter that are left over: they have no effect here, and say what to set instead."""

import os
from collections.abc import Mapping

_FOREIGN = {
    "DATA_SOURCE_NAME": "Set PGVIGIL_DSN; for several servers, PGVIGIL_TARGETS",
    "DATA_SOURCE_URI": "Set PGVIGIL_DSN",
    "DATA_SOURCE_URI_FILE": "Set PGVIGIL_DSN_FILE",
    "DATA_SOURCE_USER": "Name the user in PGVIGIL_DSN or PGUSER",
    "DATA_SOURCE_USER_FILE": "Name the user in PGVIGIL_DSN_FILE",
    "DATA_SOURCE_PASS": "Set PGVIGIL_PASSWORD_FILE or PGPASSWORD",
    "DATA_SOURCE_PASS_FILE": "Set PGVIGIL_PASSWORD_FILE",
    "PG_EXPORTER_AUTO_DISCOVER_DATABASES": "Every database is looked into",
    "PG_EXPORTER_COLLECTION_TIMEOUT": "Set PGVIGIL_SCRAPE_TIMEOUT",
    "PG_EXPORTER_CONSTANT_LABELS": "Give the target labels in Prometheus",
    "PG_EXPORTER_DISABLE_DEFAULT_METRICS": "Name the collectors in PGVIGIL_DISABLE",
    "PG_EXPORTER_DISABLE_SETTINGS_METRICS": "Set PGVIGIL_DISABLE=settings",
    "PG_EXPORTER_EXCLUDE_DATABASES": "Set PGVIGIL_EXCLUDE_DATABASES",
    "PG_EXPORTER_EXTEND_QUERY_PATH": "Set PGVIGIL_COLLECTORS_DIR to the folder of the file",
    "PG_EXPORTER_INCLUDE_DATABASES": "Set PGVIGIL_INCLUDE_DATABASES",
    "PG_EXPORTER_METRIC_PREFIX": "Rename with metric_relabel_configs in Prometheus",
    "PG_EXPORTER_WEB_TELEMETRY_PATH": "The path is /metrics",
}
"""Variables of postgres_exporter, and what to do instead."""


def leftovers(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Say which variables of postgres_exporter are set, which have no effect here. No value is repeated."""
    return [
        f"{name} is a variable of postgres_exporter and has no effect. {remedy}."
        for name, remedy in _FOREIGN.items()
        if name in environment
    ]
