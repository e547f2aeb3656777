"""The exporter's own metrics: each is declared, and its value read off a report, in one place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from exporter.catalog.model import Metric
from exporter.errors import CONNECT_REASONS
from exporter.exposition.process_metrics import OF_PROCESS
from exporter.exposition.subjects import Rows, Scrape
from exporter.kinds import PREFIXES, PRODUCTS, Kind
from exporter.planning.plan import WITHOUT_TABLES_SECONDS
from exporter.report import JobStatus, Report, ServerCost
from exporter.samples.model import Family, Number, Rest
from exporter.schedule.cost_budget import LONGEST_INTERVAL_SECONDS

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


_MOST_CLOSED = 100
"""Upper bound on the databases without the privilege CONNECT that have a series: a host of many tenants has more."""

_OF_JOB = ("collector", "datname")

_POSTGRESQL = _Per[Report]((), lambda scrape: scrape.whole("postgresql"))
_TARGET = _Per[Report]((), lambda scrape: scrape.whole())
_JOB = _Per[JobStatus](_OF_JOB, lambda scrape: scrape.jobs)
_JOINED_JOB = _Per[JobStatus](_OF_JOB, lambda scrape: scrape.joined_jobs)
_JOINED_COST = _Per[ServerCost](_OF_JOB, lambda scrape: scrape.joined_costs)
_COLLECTOR = _Per[Sequence[JobStatus]](("collector",), lambda scrape: scrape.collectors)


def _down_reasons(report: Report) -> Mapping[str, int]:
    return {reason: int(not report.up and reason == report.down_reason) for reason in CONNECT_REASONS}


def _login_reasons(report: Report) -> Mapping[str, int]:
    return {reason: int(reason == report.login.reason) for reason in CONNECT_REASONS} if report.login else {}


def _closed(report: Report) -> Mapping[str, int]:
    """Count the databases without the privilege: one each, and beyond a page's worth all others under no name."""
    named, others = report.closed[:_MOST_CLOSED], report.closed[_MOST_CLOSED:]
    return dict.fromkeys(named, 1) | ({"": len(others)} if others else {})


def _rest(job: JobStatus) -> tuple[Rest, ...]:
    return job.samples.rest if job.samples and job.samples.truncated_rows else ()


def _up(kind: Kind) -> Iterator[SelfMetric[Any]]:
    whole, up = _Per[Report]((), lambda scrape: scrape.whole(kind)), f"{PREFIXES[kind]}_up"
    yield whole.one(
        up,
        f"1 when {PRODUCTS[kind]} answered during this scrape, else 0; {up}_reason says why.",
        lambda report: int(report.up),
    )
    yield whole.each(
        "reason", f"{up}_reason", f"Why {up} is 0: 1 for the reason that holds, 0 for the others.", _down_reasons
    )


_UP: tuple[SelfMetric[Any], ...] = tuple(metric for kind in PRODUCTS for metric in _up(kind))

_OWN: tuple[SelfMetric[Any], ...] = (
    *_UP,
    _POSTGRESQL.one(
        "pg_login_success",
        "1 when the latest new login of the exporter succeeded, else 0: sessions that are open go on, and nobody else"
        " gets in. Tried once a minute, every 10 s while it fails, on a connection that is closed at once.",
        lambda report: int(report.login.success) if report.login else None,
    ),
    _POSTGRESQL.each(
        "reason",
        "pg_login_reason",
        "Why pg_login_success is 0: 1 for the reason that holds, 0 for the others.",
        _login_reasons,
    ),
    _POSTGRESQL.one(
        "pg_login_seconds",
        "Seconds that the latest new login of the exporter took, or until it was given up. A rise means that the"
        " postmaster, authentication or the start of backends is slow.",
        lambda report: report.login.seconds if report.login else None,
    ),
    _POSTGRESQL.one(
        "pg_server_certificate_not_after_timestamp_seconds",
        "Unix time at which the certificate expires that the server shows to new connections; once it is past, clients"
        " that check it (sslmode verify-ca, verify-full) cannot log in. No series where the exporter itself does not"
        " check it.",
        lambda report: report.login.certificate_expires_at if report.login else None,
    ),
    _JOB.one(
        "pgvigil_collector_success",
        "1 when the page has the collector's newest result. 0 when the collector failed or is late: the page then has"
        " its last good result, or none. The page /collectors and the log say why.",
        lambda job: int(job.success),
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_duration_seconds",
        "Duration of the collector's last successful run in seconds, query and rows together. A rise means that the"
        " server is slower or returns more; at its timeout the collector fails.",
        lambda job: job.duration,
    ),
    _JOB.one(
        "pgvigil_collector_age_seconds",
        "Age of the collector's result on this page in seconds. Above its cache time and"
        " pgvigil_collector_interval_seconds, newer runs failed or are late.",
        lambda job: job.age,
    ),
    _JOB.each(
        "reason",
        "pgvigil_collector_errors_total",
        "Failed runs of the collector by reason: timeout, lock_timeout (another session holds a lock that it needs),"
        " permission (pgvigil check prints the grant), connection or query; for wait_sampler and statement_texts also"
        " the reasons of pg_up_reason. A rise means that its data on the page is stale or missing.",
        lambda job: job.errors,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_rows",
        "Rows of the collector's last result, after its limit. A rise means more series.",
        lambda job: job.samples.rows if job.samples else None,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_truncated_rows",
        "Rows that the collector's limit cut off; no series when it cut off none. Raise the limit if they matter.",
        lambda job: (job.samples and job.samples.truncated_rows) or None,
    ),
    _JOINED_JOB.each(
        "metric",
        "pgvigil_collector_truncated_value",
        "Sum over the rows that the collector's limit cut off, for each additive metric; no series when it cut off"
        " none. A rise means that the page lacks more of the total.",
        lambda job: {rest.metric: rest.sum for rest in _rest(job)},
    ),
    _JOINED_JOB.each(
        "metric",
        "pgvigil_collector_truncated_ratio",
        "Share of the metric's total in the rows that the collector's limit cut off, up to 1; no series when it cut off"
        " none. Near 1 the page shows little of the total: raise the limit.",
        lambda job: {rest.metric: rest.ratio for rest in _rest(job)},
    ),
    _JOB.each(
        "reason",
        "pgvigil_collector_rejected_rows_total",
        "Rows left off the page because another row had the same labels (duplicate), or because a value was no number"
        " or an id could not be read (malformed). A rise means a fault in the collector's file; for statements, a"
        " missing privilege (pgvigil check).",
        lambda job: job.rejected,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_dropped_samples",
        "Samples of the collector left off this page, which would exceed max_samples with them; at least so many where"
        " its query alone has more rows than that, of which no more are read. No series when all are there. Raise"
        " max_samples or lower the collector's limit.",
        lambda job: job.dropped or None,
    ),
    _JOB.one(
        "pgvigil_collector_seconds_total",
        "Time of the collector's queries in seconds, less the round trips: an upper bound on their cost to the server."
        " The cost budget limits its rate.",
        lambda job: job.seconds,
    ),
    _JOINED_JOB.one(
        "pgvigil_collector_interval_seconds",
        "Interval that the cost budget imposes between two runs of the collector, in seconds; no series when it is not"
        " throttled. Its data is that much older: raise cost_budget if that matters.",
        lambda job: job.interval or None,
    ),
    _JOINED_COST.one(
        "pgvigil_collector_server_seconds_total",
        "Server time of the collector's statements in seconds, from pg_stat_statements; no series without it. Its rate"
        " is the share of a core that the collector costs: if that is too much, lower its limit or disable it. joint is"
        " one statement for several collectors, whose parts are in pgvigil_collector_seconds_total; session sets the"
        " limits of a session.",
        lambda cost: cost.seconds,
    ),
    _JOINED_COST.one(
        "pgvigil_collector_server_blocks_total",
        "Blocks (8 kB) that the collector's statements read from shared buffers or disk, from pg_stat_statements. A"
        " faster rise means that the collector costs more.",
        lambda cost: cost.blocks,
    ),
    _TARGET.each(
        "kind",
        "pgvigil_incidents_total",
        "Incidents recorded by kind: lock_wait, connections, down or late. A rise means that an incident began;"
        " /incidents shows what sessions did then.",
        lambda report: report.incidents,
    ),
    _TARGET.one(
        "pgvigil_scrape_duration_seconds",
        "Duration of this scrape in seconds, before the page was written. Near the scrape timeout, collectors are late"
        " (pgvigil_collector_success).",
        lambda report: report.seconds,
        also="pg_exporter_last_scrape_duration_seconds",
    ),
    _TARGET.one(
        "pgvigil_scrapes_total",
        "Scrapes answered. Faster than one per scrape interval, more than one client scrapes.",
        lambda report: report.scrapes,
        also="pg_exporter_scrapes_total",
    ),
    _TARGET.one(
        "pgvigil_connections",
        "Connections of the exporter to the server, with those of hung backends that it abandoned. At"
        " max_connections_per_target for long, databases wait for a connection and their results get stale.",
        lambda report: report.sessions,
    ),
    _TARGET.one(
        "pgvigil_database_visits_total",
        "Logins to databases other than the DSN's. A faster rise means more databases, or more frequent visits.",
        lambda report: report.rounds.visits,
    ),
    _TARGET.one(
        "pgvigil_database_login_seconds_total",
        "Time of logins to databases other than the DSN's in seconds, less the round trips. Part of the cost budget.",
        lambda report: report.rounds.login_seconds,
    ),
    _POSTGRESQL.each(
        "datname",
        "pgvigil_database_closed",
        "1 for a database that is not visited because the role lacks the privilege CONNECT: its tables and indexes have"
        " no series. Grant it (pgvigil check) or exclude the database. No series for excluded databases and those that"
        f" a managed service keeps to itself. Beyond {_MOST_CLOSED} databases the others are counted under an empty"
        " datname.",
        _closed,
    ),
    _TARGET.one(
        "pgvigil_database_visit_interval_seconds",
        "Longest interval between two visits to the same database, in seconds: collectors there run no more often."
        f" With many databases the cost budget raises it, up to {LONGEST_INTERVAL_SECONDS:.0f} s; one without tables is"
        f" looked into every {WITHOUT_TABLES_SECONDS:.0f} s.",
        lambda report: report.rounds.interval,
    ),
)

_COMPATIBLE: tuple[SelfMetric[Any], ...] = (
    _TARGET.one(
        "pg_exporter_last_scrape_error",
        "1 when PostgreSQL did not answer during this scrape or the page lacks a collector's newest result, else 0.",
        lambda report: int(not report.up or not all(job.success for job in report.jobs)),
    ),
    _COLLECTOR.one(
        "pg_scrape_collector_success",
        "Minimum of pgvigil_collector_success over the collector's databases.",
        lambda jobs: int(all(job.success for job in jobs)),
    ),
    _COLLECTOR.one(
        "pg_scrape_collector_duration_seconds",
        "Sum of pgvigil_collector_duration_seconds over the collector's databases.",
        lambda jobs: sum((job.duration or 0.0 for job in jobs), 0.0),
    ),
)

OWN = (*(each.metric for each in _OWN), *OF_PROCESS)
"""Every metric of the exporter itself, but those that any Python process has."""

COMPATIBLE = tuple(each.metric for each in _COMPATIBLE)
"""Metrics of postgres_exporter itself that no metric of ours equals; only with `compatibility_names`."""


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
