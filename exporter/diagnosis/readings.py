"""What a page says, by metric and labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition.text_format import block
from exporter.report import Login, Report
from exporter.samples.model import Family

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """One series of a page."""

    labels: Labels
    value: float


class Readings:
    """The series of one page. Only the metrics that are asked for are read."""

    def __init__(self, read: Callable[[str], Sequence[Series]]) -> None:
        self._read = read
        self._known: dict[str, list[Series]] = {}

    @classmethod
    def of_page(cls, text: str) -> Self:
        """Read a page as Prometheus would."""
        metrics = _parsed(text)
        return cls(lambda name: metrics.get(name, ()))

    @classmethod
    def of_report(cls, report: Report) -> Self:
        """Read what a page would have of a report: of its collectors, and of the latest login."""
        families: dict[str, list[Family]] = {}
        for job in report.jobs:
            for family in job.samples.families if job.samples else ():
                families.setdefault(family.metric.name, []).append(family)
        own = _of_login(report.login) if report.login else {}

        def read(name: str) -> Sequence[Series]:
            return own[name] if name in own else _parsed(_text(families.get(name, ()))).get(name, ())

        return cls(read)

    def series(self, name: str, /, **labels: str) -> list[Series]:
        """Return all series of a metric that have these labels, the greatest first."""
        if name not in self._known:
            self._known[name] = sorted(self._read(name), key=lambda series: series.value, reverse=True)
        return [series for series in self._known[name] if labels.items() <= series.labels.items()]

    def value(self, name: str, labels: Labels | None = None) -> float | None:
        """Return the greatest value of the series with these labels; None where there is no such series."""
        found = self.series(name, **(labels or {}))
        return found[0].value if found else None


def _of_login(login: Login) -> dict[str, list[Series]]:
    found = {"pg_login_success": [Series({}, float(login.success))]}
    if login.reason:
        found["pg_login_reason"] = [Series({"reason": login.reason}, 1.0)]
    if login.certificate_expires_at is not None:
        found["pg_server_certificate_not_after_timestamp_seconds"] = [Series({}, login.certificate_expires_at)]
    return found


def _text(families: Sequence[Family]) -> str:
    return bytes(block(families, openmetrics=False).text).decode() if families else ""


def _parsed(text: str) -> dict[str, list[Series]]:
    metrics: dict[str, list[Series]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metrics.setdefault(sample.name, []).append(Series(sample.labels, sample.value))
    return metrics
