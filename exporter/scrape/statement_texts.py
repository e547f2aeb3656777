"""The statements of the last scrape with their texts, which no scrape ever reads."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.catalog.model import Catalog
from exporter.connections.discovery import TIMEOUT
from exporter.errors import DatabaseError
from exporter.literals import without_literals
from exporter.planning.plan import Job
from exporter.samples.model import Samples
from exporter.scrape.parts import Parts

STATEMENT_TEXTS = """
SELECT DISTINCT ON (queryid)
       queryid,
       left(query, 20000) AS query
  FROM {schema}.pg_stat_statements(true)
 WHERE queryid = ANY ($1::text[]::bigint[])
"""
"""Reads the file of texts, so it runs only for statements whose text is not known yet."""

ASK_AGAIN_SECONDS = 15.0
"""Least interval between look-ups of a missing text, however often the page is opened, in seconds."""


@dataclass(frozen=True)
class Statement:
    """One statement of a ledger: its labels, not escaped, its counters by column, and its text."""

    queryid: str
    labels: Mapping[str, str]
    counts: Mapping[str, float]
    text: str = ""


@dataclass(frozen=True)
class StatementList:
    """The statements that have series of their own, those first that took most time."""

    statements: tuple[Statement, ...] = ()
    note: str = ""
    """Reason for no statements or missing texts."""


def listed(samples: Samples, texts: "Texts") -> tuple[Statement, ...]:
    """List the statements of a ledger by execution time, with the texts that are known."""
    shown = samples.label_values
    rows = []
    for i, queryid in enumerate(shown.get("queryid", ())):
        labels = {label: values[i] for label, values in shown.items()}
        per_row = (family for family in samples.families if len(family.values) == len(shown["queryid"]))
        counts = {family.metric.column: float(family.values[i] or 0) for family in per_row}
        rows.append(Statement(queryid, labels, counts, texts.text(queryid)))
    return tuple(sorted(rows, key=lambda row: row.counts.get("exec_seconds", 0.0), reverse=True))


def queryids(samples: Samples) -> list[int]:
    """Return the query identifiers of a ledger's members."""
    return [int(text) for text in samples.label_values.get("queryid", ()) if text.lstrip("-").isdecimal()]


class Texts:
    """Remembers the texts of the listed statements, and forgets those no longer listed."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._asked: dict[int, float] = {}

    def missing(self, wanted: Iterable[int], now: float) -> list[int]:
        """Return the IDs to ask for: those without a text that were not asked for lately. Drop what is not wanted."""
        known, asked, wanted = self._known, self._asked, set(wanted)
        self._known = {queryid: known[queryid] for queryid in wanted if queryid in known}
        self._asked = {queryid: asked[queryid] for queryid in wanted if queryid in asked}
        oldest = now - ASK_AGAIN_SECONDS
        missing = [each for each in wanted if each not in known and asked.get(each, float("-inf")) <= oldest]
        self._asked |= dict.fromkeys(missing, now)
        return sorted(missing)

    def learn(self, texts: Mapping[int, str]) -> None:
        """Normalise and keep some texts."""
        self._known.update({queryid: without_literals(text) for queryid, text in texts.items() if text is not None})

    def text(self, queryid: str) -> str:
        """Return one statement's text; empty while it is not known."""
        return self._known.get(int(queryid), "") if queryid.lstrip("-").isdecimal() else ""


class StatementReader:
    """Reads the texts of the statements that the last scrape listed, once each."""

    def __init__(self, parts: Parts, catalog: Catalog) -> None:
        self._parts = parts
        self._collectors = tuple(collector.name for collector in catalog if collector.statements)
        self._texts = Texts()
        self._reading = asyncio.Lock()
        self._note = ""

    async def read(self) -> StatementList:
        """List the statements with their texts; the note says why there are none, or why texts are missing."""
        plan = self._parts.schedule.plan
        job = next((job for job in plan.jobs if job.collector.statements), None)
        samples = self._parts.schedule.status(job).samples if job else None
        if not job or not samples:
            return StatementList(note=self._why_none(job))
        async with self._reading:
            if missing := self._texts.missing(queryids(samples), self._parts.clock()):
                self._note = await self._read_texts(job, missing)
        return StatementList(listed(samples, self._texts), self._note)

    def _why_none(self, job: Job | None) -> str:
        """Say why there is no statement: of the collector, of the server, or that it is early."""
        skipped = self._parts.schedule.plan.skipped
        if reason := next((skipped[name] for name in self._collectors if name in skipped), ""):
            return reason
        if reason := self._parts.health.reason:
            return f"the server does not answer: {reason}"
        if job and (failure := self._parts.schedule.status(job).reason):
            return f"collector {job.collector.name} fails: {failure}"
        return "no statements have been collected yet"

    async def _read_texts(self, job: Job, missing: Sequence[int]) -> str:
        """Read some texts; return why they cannot be read."""
        schema = self._parts.discovery.schema(job)
        if not schema:
            return ""
        try:
            async with self._parts.pool.borrowed(job.database, timeout=TIMEOUT) as session:
                rows = await session.rows(STATEMENT_TEXTS.replace("{schema}", schema), TIMEOUT, [*map(str, missing)])
        except DatabaseError as error:
            return f"The texts cannot be read: {error}"
        self._texts.learn({row["queryid"]: row["query"] for row in rows})
        return ""
