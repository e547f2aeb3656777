"""The exporter's own metrics: each is declared, and its value read off a report, in one place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from exporter.catalog.model import Metric
from exporter.errors import CONNECT_REASONS
from exporter.exposition.process_metrics import BUILD
from exporter.exposition.subjects import Rows, Scrape
from exporter.report import JobStatus, Report, ServerCost
from exporter.samples.model import Family, Number, Rest

T = TypeVar("T")


@dataclass(frozen=True)
class SelfMetric(Generic[T]):
    """An own metric: its declaration, and how to read the value of one subject; None is no sample."""

    metric: Metric
    rows_of: Callable[[Scrape], Rows[T]]
    value_of: Callable[[T], Number | None]

    def family(self, scrape: Scrape) -> Family:
        """Read all samples of a scrape."""
        rows = self.rows_of(scrape)
        return Family(self.metric, rows.labels, [*map(self.value_of, rows.subjects)])


@dataclass(frozen=True)
class _Per(Generic[T]):
    """Declares the metrics that have one series per subject, or several."""

    labels: tuple[str, ...]
    rows_of: Callable[[Scrape], Rows[T]]

    def one(
        self, name: str, text: str, value_of: Callable[[T], Number | None], also: str | None = None
    ) -> SelfMetric[T]:
        """Declare a metric with one series per subject."""
        return SelfMetric(_metric(name, text, self.labels, also), self.rows_of, value_of)

    def each(
        self, label: str, name: str, text: str, values_of: Callable[[T], Mapping[str, Number]]
    ) -> SelfMetric[Number]:
        """Declare a metric with one series per subject and key of `values_of`; the key is the last label."""
        metric = _metric(name, text, (*self.labels, label), None)
        return SelfMetric(metric, lambda scrape: self.rows_of(scrape).split(label, values_of), lambda value: value)


def _metric(name: str, text: str, labels: tuple[str, ...], also: str | None) -> Metric:
    kind = "counter" if name.endswith("_total") else "gauge"
    return Metric.model_validate({"name": name, "type": kind, "help": text, "labels": labels, "also": also})


_OF_JOB = ("collector", "datname")

_POSTGRESQL = _Per[Report]((), lambda scrape: scrape.whole("postgresql"))
_PGBOUNCER = _Per[Report]((), lambda scrape: scrape.whole("pgbouncer"))
_TARGET = _Per[Report]((), lambda scrape: scrape.whole())
_JOB = _Per[JobStatus](_OF_JOB, lambda scrape: scrape.jobs)
_JOINED_JOB = _Per[JobStatus](_OF_JOB, lambda scrape: scrape.joined_jobs)
_JOINED_COST = _Per[ServerCost](_OF_JOB, lambda scrape: scrape.joined_costs)
_COLLECTOR = _Per[Sequence[JobStatus]](("collector",), lambda scrape: scrape.collectors)


def _down_reasons(report: Report) -> Mapping[str, int]:
    return {reason: int(not report.up and reason == report.down_reason) for reason in CONNECT_REASONS}


def _rest(job: JobStatus) -> tuple[Rest, ...]:
    return job.samples.rest if job.samples else ()


_UP: tuple[SelfMetric[Any], ...] = (
    _POSTGRESQL.one(
        "pg_up",
        "1 when PostgreSQL answered during this scrape, else 0; pg_up_reason says why.",
        lambda report: int(report.up),
    ),
    _POSTGRESQL.each(
        "reason", "pg_up_reason", "Why pg_up is 0: 1 for the reason that holds, 0 for the others.", _down_reasons
    ),
    _PGBOUNCER.one(
        "pgbouncer_up",
        "1 when PgBouncer answered during this scrape, else 0; pgbouncer_up_reason says why.",
        lambda report: int(report.up),
    ),
    _PGBOUNCER.each(
        "reason",
        "pgbouncer_up_reason",
        "Why pgbouncer_up is 0: 1 for the reason that holds, 0 for the others.",
        _down_reasons,
    ),
)

_OWN: tuple[SelfMetric[Any], ...] = (
    *_UP,
    _JOB.one(
        "pgvigil_collector_success",
        "1 when the collector's newest result is on this page, 0 when it failed or is late and the page has"
        " its last good result or nothing. The exporter's start page (/) and its log say why.",
        lambda job: int(job.success),
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_duration_seconds",
        "Time the collector took when it last ended well, in seconds, query and rows together. A rise means that the"
        " server is slow or has more to tell; at its time limit the collector fails.",
        lambda job: job.duration,
    ),
    _JOB.one(
        "pgvigil_collector_age_seconds",
        "Age in seconds of the collector's result on this page. Beyond its cache time and"
        " pgvigil_collector_interval_seconds it means that newer ones failed or are late.",
        lambda job: job.age,
    ),
    _JOB.each(
        "reason",
        "pgvigil_collector_errors_total",
        "Failed attempts of the collector by reason: timeout, lock_timeout (somebody holds a lock that it needs),"
        " permission (pgvigil check prints the grant), connection or query; of wait_sampler also the"
        " reasons of pg_up_reason.",
        lambda job: job.errors,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_rows",
        "Rows of the collector's last result, after its limit. Means nothing by itself.",
        lambda job: job.samples.rows if job.samples else None,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_truncated_rows",
        "Rows that the collector's limit cut off; raise the limit when they matter.",
        lambda job: job.samples.truncated_rows if job.samples else None,
    ),
    _JOINED_JOB.each(
        "metric",
        "pgvigil_collector_truncated_value",
        "What the rows that the limit cut off add up to, for each additive metric.",
        lambda job: {rest.metric: rest.sum for rest in _rest(job)},
    ),
    _JOINED_JOB.each(
        "metric",
        "pgvigil_collector_truncated_ratio",
        "Share, from 0 to 1, of the metric's total that the rows cut off by the limit carried. Near 1 the page shows"
        " little of it: raise the limit.",
        lambda job: {rest.metric: rest.ratio for rest in _rest(job)},
    ),
    _JOB.each(
        "reason",
        "pgvigil_collector_rejected_rows_total",
        "Rows left off the page because their labels stood there already (duplicate), or because a value was no number"
        " or an id could not be read (malformed). A rise is a fault in the collector's file; in that of statements, a"
        " missing right (pgvigil check).",
        lambda job: job.rejected,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_dropped_samples",
        "Samples of the collector left off this page because it would have had more than max_samples. Above 0 raise"
        " that, or lower the collector's limit.",
        lambda job: job.dropped,
    ),
    _JOB.one(
        "pgvigil_collector_seconds_total",
        "Seconds that the collector's queries have taken, less the time of the way there and back. An upper bound of"
        " what they cost the server; the budget of cost goes by it.",
        lambda job: job.seconds,
    ),
    _JOB.one(
        "pgvigil_collector_returned_rows_total",
        "Rows that the collector's queries have returned. Means nothing by itself.",
        lambda job: job.returned_rows,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_interval_seconds",
        "Seconds that lie between two runs of the collector because it would cost more than the cost_budget allows; 0"
        " for one that is not held back. Above 0 what it shows is older; raise the budget if that matters.",
        lambda job: job.interval,
    ),
    _JOINED_COST.one(
        "pgvigil_collector_server_seconds_total",
        "Seconds that the server spent on the collector's statements, by pg_stat_statements; no series without it. Its"
        " rate is the share of a core that the collector costs; when it is too much, lower its limit or switch it off.",
        lambda cost: cost.seconds,
    ),
    _JOINED_COST.one(
        "pgvigil_collector_server_blocks_total",
        "Blocks (8 kB) that the collector's statements read from shared buffers or disk, by pg_stat_statements.",
        lambda cost: cost.blocks,
    ),
    _JOINED_COST.one(
        "pgvigil_collector_server_rows_total",
        "Rows that the collector's statements returned, by pg_stat_statements.",
        lambda cost: cost.rows,
    ),
    _TARGET.each(
        "kind",
        "pgvigil_incidents_total",
        "Incidents recorded so far by kind: lock_wait, connections, down or late. A rise means that one has begun;"
        " /incidents shows what sessions did then.",
        lambda report: report.incidents,
    ),
    _TARGET.one(
        "pgvigil_scrape_duration_seconds",
        "Time this scrape took, in seconds, until the page was put together. Near the scraper's time limit, collectors"
        " are late (pgvigil_collector_success).",
        lambda report: report.seconds,
        also="pg_exporter_last_scrape_duration_seconds",
    ),
    _TARGET.one(
        "pgvigil_scrapes_total",
        "Scrapes answered so far. Faster than the scrape interval, there is more than one scraper.",
        lambda report: report.scrapes,
        also="pg_exporter_scrapes_total",
    ),
    _TARGET.one(
        "pgvigil_connections",
        "Connections to the server that the exporter has, those of hung backends included that it no longer talks to."
        " At max_connections_per_target for long, databases wait for their turn and their results grow old.",
        lambda report: report.sessions,
    ),
    _TARGET.one(
        "pgvigil_database_visits_total",
        "Logins to databases other than the DSN's so far.",
        lambda report: report.rounds.visits,
    ),
    _TARGET.one(
        "pgvigil_database_login_seconds_total",
        "Seconds that these logins took, less the time of the way there and back. The budget of cost goes by it as"
        " well.",
        lambda report: report.rounds.login_seconds,
    ),
    _TARGET.one(
        "pgvigil_database_visit_interval_seconds",
        "Seconds between two visits to the same database: its tables are looked at this often. With many databases the"
        " cost_budget puts them apart, up to 240 s.",
        lambda report: report.rounds.interval,
    ),
)

_COMPATIBLE: tuple[SelfMetric[Any], ...] = (
    _TARGET.one(
        "pg_exporter_last_scrape_error",
        "1 when PostgreSQL did not answer during this scrape or a collector's newest result is not on this page,"
        " else 0.",
        lambda report: int(not report.up or not all(job.success for job in report.jobs)),
    ),
    _COLLECTOR.one(
        "pg_scrape_collector_success",
        "The least pgvigil_collector_success of the collector.",
        lambda jobs: int(all(job.success for job in jobs)),
    ),
    _COLLECTOR.one(
        "pg_scrape_collector_duration_seconds",
        "Sum of pgvigil_collector_duration_seconds over the collector's databases.",
        lambda jobs: sum((job.duration or 0.0 for job in jobs), 0.0),
    ),
)

OWN = (*(each.metric for each in _OWN), BUILD)
"""Every metric of the exporter itself, but those that any Python process has."""

COMPATIBLE = tuple(each.metric for each in _COMPATIBLE)
"""What postgres_exporter says of itself under names that fit none of ours; only with `compatibility_names`."""


def own_families(report: Report) -> list[Family]:
    """Describe a scrape."""
    scrape = Scrape(report, {})
    return [each.family(scrape) for each in _OWN]


def up_families(report: Report, labels: Mapping[str, str]) -> list[Family]:
    """Describe only whether the server is up, with labels that name it."""
    scrape = Scrape(report, labels)
    return [each.family(scrape) for each in _UP]


def compatibility_families(report: Report) -> list[Family]:
    """Describe a scrape as postgres_exporter does, which knows no databases in it."""
    scrape = Scrape(report, {})
    return [each.family(scrape) for each in _COMPATIBLE]
