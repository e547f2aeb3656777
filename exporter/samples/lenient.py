"""Reads columns of users' own queries as whatever number they stand for, as postgres_exporter does. Pure."""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from exporter.planning.plan import Job
from exporter.samples.model import PLAIN_NUMBERS, Columns, Number


def leniently(job: Job, table: Columns, rows: int) -> Columns:
    """Read the columns as whatever number they stand for; one that is missing gives no sample, a label no text."""
    values = {m.column: _any_numbers(table.get(m.column, [None] * rows)) for m in job.metrics}
    labels = {label: table.get(label, [None] * rows) for label in job.collector.all_labels}
    return {**table, **values, **labels}


def _any_numbers(values: Sequence[Any]) -> Sequence[Number | None]:
    return values if set(map(type, values)) <= PLAIN_NUMBERS else [_any_number(value) for value in values]


def _any_number(value: Any) -> Number | None:
    """Read text as a number, a time as whole Unix seconds, an interval as seconds; None for anything else."""
    if isinstance(value, date):
        return _seconds(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


_INFINITY = {datetime.max.replace(tzinfo=UTC): math.inf, datetime.min.replace(tzinfo=UTC): -math.inf}
"""By what the driver writes for it."""


def _seconds(value: date) -> Number:
    """Turn a date or a time, which is UTC unless it says otherwise, into whole Unix seconds."""
    moment = value if isinstance(value, datetime) else datetime.combine(value, time())
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return _INFINITY[moment] if moment in _INFINITY else math.floor(moment.timestamp())
