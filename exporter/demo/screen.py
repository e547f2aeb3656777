"""Says from the exporter's page what is going wrong just now. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from exporter.samples.shared_series import OTHER, OWN

Labels = Mapping[str, str]
WRAPAROUND = 2**31
PART_OF_CONNECTIONS = 0.8
PART_OF_TIME = 0.5
HELD_BACK_BYTES = 2**20
DAY = 86_400


@dataclass(frozen=True)
class Series:
    """One series of the page."""

    labels: Labels
    value: float


@dataclass(frozen=True)
class Page:
    """The exporter's page, and when it was read."""

    seconds: float
    metrics: Mapping[str, list[Series]]

    def series(self, name: str, **labels: str) -> list[Series]:
        """All series of a metric with these labels, the greatest first."""
        found = (series for series in self.metrics.get(name, []) if labels.items() <= series.labels.items())
        return sorted(found, key=lambda series: series.value, reverse=True)

    def value(self, name: str, labels: Labels | None = None) -> float:
        """The greatest of them; 0 for none."""
        found = self.series(name, **(labels or {}))
        return found[0].value if found else 0.0


@dataclass(frozen=True)
class Line:
    """State of one subject."""

    subject: str
    bad: bool
    text: str


def read(text: str, seconds: float) -> Page:
    """Parse a page as Prometheus would."""
    metrics: dict[str, list[Series]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metrics.setdefault(sample.name, []).append(Series(sample.labels, sample.value))
    return Page(seconds, metrics)


def lines(page: Page, before: Page | None = None) -> list[Line]:
    """Return a line for each subject; `before` is the previous page, for rates."""
    if not page.value("pg_up"):
        reasons = [series.labels["reason"] for series in page.series("pg_up_reason") if series.value]
        return [Line("PostgreSQL", True, f"is down: {', '.join(reasons)}")]
    return [subject(page, before) for subject in SUBJECTS]


def _locks(page: Page, _: Page | None) -> Line:
    waiting = page.value("pg_lock_waiters")
    roots = page.series("pg_lock_blocker_blocked_sessions")
    if not roots:
        return Line("locks", waiting > 0, f"{waiting:.0f} sessions wait" if waiting else "nobody waits")
    root, blocked = roots[0].labels, roots[0].value
    return Line(
        "locks",
        True,
        f"pid {root['pid']} ({root['usename']}, {root['application_name']}, {root['state']}) holds up {blocked:.0f} "
        f"sessions at {root['relation']}, one for {page.value('pg_lock_blocker_longest_wait_seconds', root):.0f} s",
    )


def _vacuum(page: Page, _: Page | None) -> Line:
    debts = [_debt(page, table) for table in page.series("pg_table_dead_tuples")]
    ratio, table = max(debts, key=lambda debt: debt[0], default=(0.0, None))
    if table is None or ratio < 1:
        return Line("vacuum", False, "no table is past its threshold")
    name = f"{table.labels['schemaname']}.{table.labels['relname']}"
    off = "; autovacuum is off for it" if page.value("pg_table_autovacuum_disabled", table.labels) else ""
    return Line("vacuum", True, f"{name} has {table.value:,.0f} dead rows, {ratio:.1f} times its threshold{off}")


def _debt(page: Page, table: Series) -> tuple[float, Series]:
    return table.value / (page.value("pg_table_vacuum_threshold_tuples", table.labels) + 1), table


def _slots(page: Page, _: Page | None) -> Line:
    lost = [
        slot.labels["slot_name"]
        for slot in page.series("pg_replication_slots_wal_status", wal_status="lost")
        if slot.value
    ]
    if lost:
        return Line("slots", True, f"{', '.join(lost)} has lost WAL that it needs")
    slots = page.series("pg_replication_slots_retained_bytes")
    if not slots:
        return Line("slots", False, "no slot holds back WAL")
    slot, held = slots[0].labels, slots[0].value
    reader = "" if page.value("pg_replication_slots_active", slot) else ", and nobody reads it"
    return Line(
        "slots", held > HELD_BACK_BYTES, f"{slot['slot_name']} holds back {held / 2**20:,.1f} MiB of WAL{reader}"
    )


def _statements(page: Page, _: Page | None) -> Line:
    statements = page.series("pg_statements_exec_seconds_total")
    total = sum(statement.value for statement in statements)
    if not total:
        return Line("statements", False, "none were executed yet")
    worst = next((one for one in statements if one.labels["queryid"] not in (OTHER, OWN)), statements[0])
    share, who = worst.value / total, worst.labels
    calls = page.value("pg_statements_calls_total", who)
    each = f", {1000 * worst.value / calls:.1f} ms a call" if calls else ""
    texts = page.series("pg_statement_info", **who)
    text = f": {texts[0].labels['query']}" if texts else ""
    return Line(
        "statements",
        share > PART_OF_TIME,
        f"{who['queryid']} of {who['usename']} takes {share:.0%} of all execution time{each}{text}",
    )


def _connections(page: Page, _: Page | None) -> Line:
    used, most = page.value("pg_connections_used"), page.value("pg_connections_max")
    return Line("connections", used > PART_OF_CONNECTIONS * most, f"{used:.0f} of {most:.0f} are in use")


def _wraparound(page: Page, before: Page | None) -> Line:
    oldest = page.series("pg_database_xid_age")
    if not oldest:
        return Line("wraparound", False, "no age is known yet")
    name, age = oldest[0].labels["datname"], oldest[0].value
    rate = _rate(page, before, "pg_xid_consumed")
    left = f"; {rate:,.0f} more a second, {(WRAPAROUND - age) / rate / DAY:,.0f} days to the end" if rate else ""
    freeze_at = page.value("pg_wraparound_freeze_max_age") or WRAPAROUND
    return Line("wraparound", age > freeze_at, f"{name} is {age:,.0f} transactions old{left}")


def _rate(page: Page, before: Page | None, name: str) -> float:
    if before is None or page.seconds <= before.seconds:
        return 0.0
    return max(page.value(name) - before.value(name), 0.0) / (page.seconds - before.seconds)


SUBJECTS: Sequence[Callable[[Page, Page | None], Line]] = (
    _locks,
    _wraparound,
    _vacuum,
    _slots,
    _statements,
    _connections,
)
