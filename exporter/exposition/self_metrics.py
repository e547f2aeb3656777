"""The exporter's own metrics, declared with the same `Metric` as everybody's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.registry import CollectorRegistry

from exporter import __version__
from exporter.catalog.model import Kind, Metric
from exporter.errors import CONNECT_REASONS
from exporter.planning.plan import FULL_LIMITS
from exporter.report import JobStatus, Report, ServerCost
from exporter.samples.model import Family, Number, Rest, Samples, label_text


@cache
def _metric(name: str, kind: str, text: str, *labels: str, also: str | None = None) -> Metric:
    return Metric.model_validate({"name": name, "type": kind, "help": text, "labels": labels, "also": also})


_JOB = ("collector", "datname")

UP = _metric("pg_up", "gauge", "1 when PostgreSQL answered during this scrape, else 0; pg_up_reason says why.")
UP_REASON = _metric("pg_up_reason", "gauge", "Why pg_up is 0: 1 for the reason that holds, 0 for the others.", "reason")
BOUNCER_UP = _metric(
    "pgbouncer_up", "gauge", "1 when PgBouncer answered during this scrape, else 0; pgbouncer_up_reason says why."
)
BOUNCER_UP_REASON = _metric(
    "pgbouncer_up_reason", "gauge", "Why pgbouncer_up is 0: 1 for the reason that holds, 0 for the others.", "reason"
)
SUCCESS = _metric(
    "pgvigil_collector_success",
    "gauge",
    "1 when the collector's newest result is on this page, 0 when it failed or is late and the page has"
    " its last good result or nothing. The exporter's start page (/) and its log say why.",
    *_JOB,
)
DURATION = _metric(
    "pgvigil_collector_duration_seconds",
    "gauge",
    "Time the collector took when it last ended well, in seconds, query and rows together. A rise means that the server"
    " is slow or has more to tell; at its time limit the collector fails.",
    *_JOB,
)
AGE = _metric(
    "pgvigil_collector_age_seconds",
    "gauge",
    "Age in seconds of the collector's result on this page. Beyond its cache time and"
    " pgvigil_collector_interval_seconds it means that newer ones failed or are late.",
    *_JOB,
)
ERRORS = _metric(
    "pgvigil_collector_errors_total",
    "counter",
    "Failed attempts of the collector by reason: timeout, lock_timeout (somebody holds a lock that it needs),"
    " permission (pgvigil check prints the grant), connection or query; of wait_sampler also the"
    " reasons of pg_up_reason.",
    *_JOB,
    "reason",
)
ROWS = _metric(
    "pgvigil_collector_rows",
    "gauge",
    "Rows of the collector's last result, after its limit. Means nothing by itself.",
    *_JOB,
)
TRUNCATED = _metric(
    "pgvigil_collector_truncated_rows",
    "gauge",
    "Rows that the collector's limit cut off; raise the limit when they matter.",
    *_JOB,
)
TRUNCATED_VALUE = _metric(
    "pgvigil_collector_truncated_value",
    "gauge",
    "What the rows that the limit cut off add up to, for each additive metric.",
    *_JOB,
    "metric",
)
TRUNCATED_RATIO = _metric(
    "pgvigil_collector_truncated_ratio",
    "gauge",
    "Share, from 0 to 1, of the metric's total that the rows cut off by the limit carried. Near 1 the page shows little"
    " of it: raise the limit.",
    *_JOB,
    "metric",
)
REJECTED = _metric(
    "pgvigil_collector_rejected_rows_total",
    "counter",
    "Rows left off the page because their labels stood there already (duplicate), or because a value was no number or"
    " an id could not be read (malformed). A rise is a fault in the collector's file; in that of statements, a missing"
    " right (pgvigil check).",
    *_JOB,
    "reason",
)
DROPPED = _metric(
    "pgvigil_collector_dropped_samples",
    "gauge",
    "Samples of the collector left off this page because it would have had more than max_samples. Above 0 raise that,"
    " or lower the collector's limit.",
    *_JOB,
)
SECONDS = _metric(
    "pgvigil_collector_seconds_total",
    "counter",
    "Seconds that the collector's queries have taken, less the time of the way there and back. An upper bound of what"
    " they cost the server; the budget of cost goes by it.",
    *_JOB,
)
RETURNED = _metric(
    "pgvigil_collector_returned_rows_total",
    "counter",
    "Rows that the collector's queries have returned. Means nothing by itself.",
    *_JOB,
)
INTERVAL = _metric(
    "pgvigil_collector_interval_seconds",
    "gauge",
    "Seconds that lie between two runs of the collector because it would cost more than the cost_budget allows; 0 for"
    " one that is not held back. Above 0 what it shows is older; raise the budget if that matters.",
    *_JOB,
)
SERVER_SECONDS = _metric(
    "pgvigil_collector_server_seconds_total",
    "counter",
    "Seconds that the server spent on the collector's statements, by pg_stat_statements; no series without it. Its rate"
    " is the share of a core that the collector costs; when it is too much, lower its limit or switch it off.",
    *_JOB,
)
SERVER_BLOCKS = _metric(
    "pgvigil_collector_server_blocks_total",
    "counter",
    "Blocks (8 kB) that the collector's statements read from shared buffers or disk, by pg_stat_statements.",
    *_JOB,
)
SERVER_ROWS = _metric(
    "pgvigil_collector_server_rows_total",
    "counter",
    "Rows that the collector's statements returned, by pg_stat_statements.",
    *_JOB,
)
INCIDENTS = _metric(
    "pgvigil_incidents_total",
    "counter",
    "Incidents recorded so far by kind: lock_wait, connections, down or late. A rise means that one has begun;"
    " /incidents shows what sessions did then.",
    "kind",
)
SCRAPE_SECONDS = _metric(
    "pgvigil_scrape_duration_seconds",
    "gauge",
    "Time this scrape took, in seconds, until the page was put together. Near the scraper's time limit, collectors are"
    " late (pgvigil_collector_success).",
    also="pg_exporter_last_scrape_duration_seconds",
)
SCRAPES = _metric(
    "pgvigil_scrapes_total",
    "counter",
    "Scrapes answered so far. Faster than the scrape interval, there is more than one scraper.",
    also="pg_exporter_scrapes_total",
)
SESSIONS = _metric(
    "pgvigil_connections",
    "gauge",
    "Connections to the server that the exporter has, those of hung backends included that it no longer talks to. At"
    " max_connections_per_target for long, databases wait for their turn and their results grow old.",
)
VISITS = _metric("pgvigil_database_visits_total", "counter", "Logins to databases other than the DSN's so far.")
LOGIN_SECONDS = _metric(
    "pgvigil_database_login_seconds_total",
    "counter",
    "Seconds that these logins took, less the time of the way there and back. The budget of cost goes by it as well.",
)
VISIT_INTERVAL = _metric(
    "pgvigil_database_visit_interval_seconds",
    "gauge",
    "Seconds between two visits to the same database: its tables are looked at this often. With many databases the"
    " cost_budget puts them apart, up to 240 s.",
)
BUILD = _metric("pgvigil_build_info", "gauge", "1, labelled with the exporter's version.", "version")

OWN = (
    UP,
    UP_REASON,
    BOUNCER_UP,
    BOUNCER_UP_REASON,
    SUCCESS,
    DURATION,
    AGE,
    ERRORS,
    ROWS,
    TRUNCATED,
    TRUNCATED_VALUE,
    TRUNCATED_RATIO,
    REJECTED,
    DROPPED,
    SECONDS,
    RETURNED,
    INTERVAL,
    SERVER_SECONDS,
    SERVER_BLOCKS,
    SERVER_ROWS,
    INCIDENTS,
    SCRAPE_SECONDS,
    SCRAPES,
    SESSIONS,
    VISITS,
    LOGIN_SECONDS,
    VISIT_INTERVAL,
    BUILD,
)

LAST_ERROR = _metric(
    "pg_exporter_last_scrape_error",
    "gauge",
    "1 when PostgreSQL did not answer during this scrape or a collector's newest result is not on this page, else 0.",
)
THEIR_SUCCESS = _metric(
    "pg_scrape_collector_success", "gauge", "The least pgvigil_collector_success of the collector.", "collector"
)
THEIR_DURATION = _metric(
    "pg_scrape_collector_duration_seconds",
    "gauge",
    "Sum of pgvigil_collector_duration_seconds over the collector's databases.",
    "collector",
)

COMPATIBLE = (LAST_ERROR, THEIR_SUCCESS, THEIR_DURATION)
"""What postgres_exporter says of itself under names that fit none of ours; only with compatibility_names."""


_UP: Mapping[Kind, tuple[Metric, Metric]] = {
    "postgresql": (UP, UP_REASON),
    "pgbouncer": (BOUNCER_UP, BOUNCER_UP_REASON),
}


def own_families(report: Report) -> list[Family]:
    """Say how the scrape went."""
    labels = _labels(report.jobs)
    shown = _in_brief(report.jobs)
    briefly = labels if shown is report.jobs else _labels(shown)
    served = [job.samples or Samples() for job in shown]
    return [
        *up_families(report, {}),
        Family(SUCCESS, labels, [int(job.success) for job in report.jobs]),
        Family(DURATION, briefly, [job.duration for job in shown]),
        Family(AGE, labels, [job.age for job in report.jobs]),
        _by_reason(ERRORS, labels, [job.errors for job in report.jobs]),
        Family(ROWS, briefly, [job.samples.rows if job.samples else None for job in shown]),
        Family(TRUNCATED, briefly, [job.samples.truncated_rows if job.samples else None for job in shown]),
        _rest(TRUNCATED_VALUE, briefly, [{rest.metric: rest.sum for rest in samples.rest} for samples in served]),
        _rest(TRUNCATED_RATIO, briefly, [{rest.metric: rest.ratio for rest in samples.rest} for samples in served]),
        _by_reason(REJECTED, labels, [job.rejected for job in report.jobs]),
        Family(DROPPED, briefly, [job.dropped for job in shown]),
        Family(SECONDS, labels, [job.seconds for job in report.jobs]),
        Family(RETURNED, labels, [job.returned_rows for job in report.jobs]),
        Family(INTERVAL, briefly, [job.interval for job in shown]),
        *_server_costs(report.costs if shown is report.jobs else _of_all_databases(report.costs)),
        Family(INCIDENTS, [label_text({"kind": kind}) for kind in report.incidents], [*report.incidents.values()]),
        Family(SCRAPE_SECONDS, [""], [report.seconds]),
        Family(SCRAPES, [""], [report.scrapes]),
        Family(SESSIONS, [""], [report.sessions]),
        Family(VISITS, [""], [report.rounds.visits]),
        Family(LOGIN_SECONDS, [""], [report.rounds.login_seconds]),
        Family(VISIT_INTERVAL, [""], [report.rounds.interval]),
    ]


def _labels(jobs: Sequence[JobStatus]) -> list[str]:
    return [label_text({"collector": job.collector, "datname": job.datname}) for job in jobs]


def _in_brief(jobs: Sequence[JobStatus]) -> Sequence[JobStatus]:
    """Join the databases of each collector where there are many, so that a page is not mostly about the exporter.

    How each fares in each database, and what it has cost, is said all the same: counters whose parts come and go do not
    add up.
    """
    if len({job.datname for job in jobs}) <= FULL_LIMITS:
        return jobs
    by_collector: dict[str, list[JobStatus]] = {}
    for job in jobs:
        by_collector.setdefault(job.collector, []).append(job)
    return [_joined(group) for group in by_collector.values()]


def _joined(jobs: Sequence[JobStatus]) -> JobStatus:
    """Say of all databases together what was cut, and of the slowest one how long it took."""
    served = [job.samples for job in jobs if job.samples]
    return replace(
        jobs[0],
        datname="",
        duration=max((job.duration for job in jobs if job.duration is not None), default=None),
        dropped=sum(job.dropped for job in jobs),
        interval=max(job.interval for job in jobs),
        samples=_added_up(served) if served else None,
    )


def _added_up(served: Sequence[Samples]) -> Samples:
    sums: dict[str, Rest] = {}
    for rest in (rest for samples in served for rest in samples.rest):
        known = sums.get(rest.metric, Rest(rest.metric, 0.0, 0.0))
        sums[rest.metric] = Rest(rest.metric, known.sum + rest.sum, known.total + rest.total)
    rows, truncated = (sum(counts) for counts in zip(*((s.rows, s.truncated_rows) for s in served), strict=True))
    return Samples((), rows, truncated, tuple(sums.values()))


def _of_all_databases(costs: Mapping[tuple[str, str], ServerCost]) -> dict[tuple[str, str], ServerCost]:
    sums: dict[tuple[str, str], ServerCost] = {}
    for (collector, _), cost in costs.items():
        known = sums.get((collector, ""), ServerCost(0.0, 0, 0))
        together = ServerCost(known.seconds + cost.seconds, known.blocks + cost.blocks, known.rows + cost.rows)
        sums[collector, ""] = together
    return sums


def compatibility_families(report: Report) -> list[Family]:
    """Say how the scrape went as postgres_exporter does, which knows no databases in it."""
    success: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for job in report.jobs:
        success[job.collector] = min(success.get(job.collector, 1), int(job.success))
        seconds[job.collector] = seconds.get(job.collector, 0.0) + (job.duration or 0.0)
    labels = [label_text({"collector": collector}) for collector in success]
    return [
        Family(LAST_ERROR, [""], [int(not report.up or not all(success.values()))]),
        Family(THEIR_SUCCESS, labels, [*success.values()]),
        Family(THEIR_DURATION, labels, [*seconds.values()]),
    ]


def _server_costs(costs: Mapping[tuple[str, str], ServerCost]) -> list[Family]:
    labels = [label_text({"collector": collector, "datname": datname}) for collector, datname in costs]
    return [
        Family(SERVER_SECONDS, labels, [cost.seconds for cost in costs.values()]),
        Family(SERVER_BLOCKS, labels, [cost.blocks for cost in costs.values()]),
        Family(SERVER_ROWS, labels, [cost.rows for cost in costs.values()]),
    ]


def up_families(report: Report, labels: Mapping[str, str]) -> list[Family]:
    """Say whether the server is up, and if not, why."""
    reasons = [label_text({**labels, "reason": reason}) for reason in CONNECT_REASONS]
    states = [int(not report.up and reason == report.down_reason) for reason in CONNECT_REASONS]
    up, reason = _UP[report.kind]
    return [Family(up, [label_text(labels)], [int(report.up)]), Family(reason, reasons, states)]


def _labelled(metric: Metric, label: str, labels: Sequence[str], by_row: Sequence[Mapping[str, Number]]) -> Family:
    pairs = [(text, key, value) for text, row in zip(labels, by_row, strict=True) for key, value in row.items()]
    return Family(
        metric, [f"{text},{label_text({label: key})}" for text, key, _ in pairs], [value for *_, value in pairs]
    )


def _by_reason(metric: Metric, labels: Sequence[str], counts: Sequence[Mapping[str, int]]) -> Family:
    return _labelled(metric, "reason", labels, counts)


def _rest(metric: Metric, labels: Sequence[str], values: Sequence[Mapping[str, float]]) -> Family:
    return _labelled(metric, "metric", labels, values)


def process_families() -> list[Family]:
    """Describe this process as every Prometheus client in Python does: CPU, memory, files, garbage collection."""
    registry = CollectorRegistry()
    collectors: Iterable[PrometheusCollector] = (
        ProcessCollector(registry=None),
        PlatformCollector(registry),
        GCCollector(registry),
    )
    return [_build_family(), *(family for collector in collectors for family in _families(collector))]


def _families(collector: PrometheusCollector) -> Iterable[Family]:
    for family in collector.collect():
        if family.samples:
            metric = _metric(family.samples[0].name, family.type, family.documentation)
            yield Family(metric, [label_text(s.labels) for s in family.samples], [s.value for s in family.samples])


def _build_family() -> Family:
    return Family(BUILD, [label_text({"version": __version__})], [1])
