"""Rows -> samples, column by column: NULL, label text, numbers. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from exporter.catalog.model import COMPUTED, Metric
from exporter.catalog.transforms import TRANSFORMS, Transform, TransformName
from exporter.planning.oid_names import Names
from exporter.planning.plan import ROWS_IN_ALL, Job, sum_column
from exporter.samples.label_values import label_text, label_texts
from exporter.samples.lenient import leniently
from exporter.samples.model import PLAIN_NUMBERS, Columns, Family, Number, Rest, Samples
from exporter.samples.wait_graph import wait_roots


def columns(rows: Sequence[Any]) -> Columns:
    """Turn the driver's records into columns by name."""
    return dict(zip(rows[0].keys(), zip(*rows, strict=True), strict=True)) if rows else {}


def transformed(job: Job, table: Columns) -> Columns:
    """Turn the columns of a query into those of the metrics, and cut the rows that a limit does not keep."""
    if not table or job.collector.transform is None:
        return table
    return _limited(job, _TRANSFORMS[job.collector.transform](table))


_TRANSFORMS: Mapping[TransformName, Callable[[Columns], Columns]] = {"wait_roots": wait_roots}


def _limited(job: Job, table: Columns) -> Columns:
    """Keep the rows that the limit allows, beside the number and the sums of all, as `limited` has the server do."""
    limit, rows = job.collector.limit, len(next(iter(table.values()), ()))
    if limit is None or rows <= limit:
        return table
    whole: dict[str, Sequence[Any]] = {ROWS_IN_ALL: [rows] * limit}
    for metric in job.metrics:
        if column := metric.rest_column:
            whole[sum_column(column)] = [_sum(table[column])] * limit
    return {name: values[:limit] for name, values in table.items()} | whole


def missing_columns(job: Job, present: Sequence[str]) -> list[str]:
    """List the columns that the collector declares and its query lacks."""
    own = [metric.column.removeprefix(COMPUTED) for metric in job.metrics]
    extra = [label for metric in job.metrics for label in metric.labels]
    ledger, batches = job.collector.ledger, job.collector.batches
    key = [*ledger.key, ledger.rank] if ledger else [batches.by, batches.rank] if batches else job.collector.remember
    transform = TRANSFORMS[job.collector.transform] if job.collector.transform else Transform((), ())
    wanted = dict.fromkeys([*job.collector.labels, *extra, *own, *key, *transform.needs])
    return [column for column in wanted if column not in (*present, *transform.adds)]


def samples(job: Job, table: Columns, names: Names) -> Samples:
    """Turn the columns of one job into families; a bad row costs that row, counted."""
    if table and job.limit and job.collector.batches:
        table = _first(table, job.collector.batches.rank, job.limit)
    if not table:
        return Samples(tuple(Family(metric, (), ()) for metric in job.metrics))
    rows = len(next(iter(table.values())))
    if job.collector.lenient:
        table = leniently(job, table, rows)
    texts = label_texts(job.collector, table, names)
    values, malformed = numbers(job.metrics, table)
    rejected = Counter({"malformed": len(malformed)} if malformed else {})
    families: list[Family] = []
    for group in _groups(job.metrics).values():
        labels = _joined(job, group[0], texts, rows)
        keep, duplicates = _unique(labels, malformed, [values[metric.column] for metric in group])
        rejected["duplicate"] += duplicates
        if keep is not None:
            labels = [labels[i] for i in keep]
        families += [
            Family(m, labels, values[m.column] if keep is None else _pick(values[m.column], keep)) for m in group
        ]
    in_order = {family.metric: family for family in families}
    return Samples(
        tuple(in_order[metric] for metric in job.metrics),
        rows,
        *_cut(job, table, rows),
        {reason: count for reason, count in rejected.items() if count},
    )


def _first(table: Columns, rank: str, limit: int) -> Columns:
    """Keep the rows of highest rank, and count all that have one."""
    ranked = [i for i, value in enumerate(table[rank]) if value is not None]
    kept = sorted(ranked, key=lambda i: table[rank][i], reverse=True)[:limit]
    if not kept:
        return {}
    return {column: [values[i] for i in kept] for column, values in table.items()} | {ROWS_IN_ALL: [len(ranked)]}


def _groups(metrics: Sequence[Metric]) -> dict[tuple[str, ...], list[Metric]]:
    """Group the metrics by the labels they add, since each group shares its label texts."""
    groups: dict[tuple[str, ...], list[Metric]] = {}
    for metric in metrics:
        groups.setdefault(metric.labels, []).append(metric)
    return groups


def _joined(job: Job, metric: Metric, texts: Mapping[str, list[str]], rows: int) -> list[str]:
    """Join the label columns of a metric to one text a row."""
    parts = [[f'{label}="{text}"' for text in texts[label]] for label in job.collector.labels + metric.labels]
    if job.datname:
        parts.insert(0, [label_text({"datname": job.datname})] * rows)
    return [",".join(row) for row in zip(*parts, strict=True)] if parts else [""] * rows


def _unique(
    labels: Sequence[str], malformed: set[int], values: Sequence[Sequence[Number | None]]
) -> tuple[list[int] | None, int]:
    """Select the rows to keep, the first of each label set, None for all of them; and count the others.

    A row without any value here gives no sample, so it is no duplicate of one that does.
    """
    if not malformed and len(set(labels)) == len(labels):
        return None, 0
    telling = [
        i for i, row in enumerate(zip(*values, strict=True)) if i not in malformed and any(v is not None for v in row)
    ]
    first: dict[str, int] = {}
    for i in telling:
        first.setdefault(labels[i], i)
    return list(first.values()), len(telling) - len(first)


def _pick(values: Sequence[Number | None], keep: Sequence[int]) -> list[Number | None]:
    return [values[i] for i in keep]


_CONVERT: Mapping[type, Callable[[Any], Number]] = {bool: int, Decimal: float}


def numbers(metrics: Sequence[Metric], table: Columns) -> tuple[dict[str, Sequence[Number | None]], set[int]]:
    """Take the value columns as numbers, and find the rows that hold something else."""
    values: dict[str, Sequence[Number | None]] = {}
    malformed: set[int] = set()
    for column in dict.fromkeys(metric.column for metric in metrics):
        found = table[column]
        kinds = set(map(type, found))
        if not kinds <= PLAIN_NUMBERS:
            malformed |= {i for i, value in enumerate(found) if type(value) not in PLAIN_NUMBERS | _CONVERT.keys()}
            found = [_converted(value) for value in found]
        values[column] = found
    return values, malformed


def _converted(value: Any) -> Number | None:
    convert = _CONVERT.get(type(value))
    return convert(value) if convert else value


def _cut(job: Job, table: Columns, rows: int) -> tuple[int, tuple[Rest, ...]]:
    """Say what a limit cut: rows, and what they carried of each additive metric."""
    if ROWS_IN_ALL not in table:
        return 0, ()
    rest = []
    for metric in job.metrics:
        if column := metric.rest_column:
            total = table[sum_column(column)][0] or 0.0
            rest.append(Rest(metric.name, max(total - _sum(table[column]), 0.0), total))
    return table[ROWS_IN_ALL][0] - rows, tuple(rest)


def _sum(column: Sequence[Any]) -> float:
    return float(sum(value for value in column if value is not None))
