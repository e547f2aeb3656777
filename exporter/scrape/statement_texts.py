"""What `/statements` shows: the ledger's members beside their normalised texts, which no scrape ever reads."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.report import Report
from exporter.scrape.server_cost import COLLECTOR
from exporter.sql import normalised

TEXTS = """
SELECT DISTINCT ON (queryid)
       queryid,
       left(query, 20000) AS query
  FROM {schema}.pg_stat_statements(true)
 WHERE queryid = ANY ($1::text[]::bigint[])
"""
"""Reads the file of texts, so it runs only when a person asks for texts that are not known yet."""


@dataclass(frozen=True)
class Statement:
    """One line of the list: its labels, and its counters by metric name."""

    queryid: str
    labels: Mapping[str, str]
    counts: Mapping[str, float]


def statements(report: Report) -> list[Statement]:
    """List the statements of the last scrape, by execution time; empty without pg_stat_statements."""
    [*found] = [job.samples for job in report.jobs if job.collector == COLLECTOR and job.samples]
    if not found or not found[0].families:
        return []
    texts = found[0].families[0].labels
    rows = []
    for i, text in enumerate(texts):
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', text))
        counts = {f.metric.column: float(f.values[i] or 0) for f in found[0].families if len(f.values) == len(texts)}
        rows.append(Statement(labels.get("queryid", ""), labels, counts))
    return sorted(rows, key=lambda row: row.counts.get("exec_seconds", 0.0), reverse=True)


class Texts:
    """Remembers the texts of the statements that were asked for, and forgets those no longer listed."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def missing(self, wanted: Iterable[int]) -> list[int]:
        """Select the ids whose text has yet to be read; texts of all other ids are dropped."""
        wanted = list(wanted)
        self._known = {queryid: text for queryid, text in self._known.items() if queryid in set(wanted)}
        return [queryid for queryid in wanted if queryid not in self._known]

    def learn(self, texts: Mapping[int, str]) -> None:
        """Normalise and keep some texts."""
        self._known.update({queryid: normalised(text) for queryid, text in texts.items() if text is not None})

    def text(self, queryid: str) -> str:
        """Give one statement's text; empty while it is not known."""
        return self._known.get(int(queryid), "") if queryid.lstrip("-").isdecimal() else ""
