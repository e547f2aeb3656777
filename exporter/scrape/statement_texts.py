"""The statements of the last scrape with their texts, which are read beside the scrapes, once each."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.catalog.model import Catalog, Metric
from exporter.connections.discovery import TIMEOUT
from exporter.errors import BusyError, ConnectError, DatabaseError, Reason
from exporter.literals import without_literals
from exporter.planning.plan import Job
from exporter.report import JobStatus
from exporter.samples.label_escaping import label_text
from exporter.samples.model import Family, Samples
from exporter.scrape.parts import Parts
from exporter.statement_text import shortened

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

READ_SECONDS = 30.0
"""Least interval between look-ups for the page, in seconds: each is a login, and reads the file of all texts."""

COLLECTOR = "statement_texts"
"""Name of these look-ups among the collectors."""

NO_TEXT = "(text not available)"
"""Stands for a text that the server does not have, or no longer."""

INFO = Metric(
    name="pg_statement_info",
    type="gauge",
    help="1 for each statement with series of its own in pg_statements_*, with its text in query: white space folded,"
    " literals replaced by ?, shortened to statement_text_length. Join it by datname, usename and queryid.",
    column="info",
    labels=("datname", "usename", "queryid", "query"),
)
METRICS = (INFO,)


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
    """Remembers the texts of the listed statements, whole and shortened, and forgets those no longer listed."""

    def __init__(self, length: int = 0) -> None:
        self.version = 0
        """Counts the changes."""
        self._length = length
        self._known: dict[int, tuple[str, str]] = {}
        self._asked: dict[int, float] = {}
        self._without: set[int] = set()
        """Those whose text the server does not have."""

    def missing(self, wanted: Iterable[int], now: float) -> list[int]:
        """Return the IDs to ask for: those without a text that were not asked for lately. Drop what is not wanted."""
        known, asked, wanted = self._known, self._asked, set(wanted)
        self._known = {queryid: known[queryid] for queryid in wanted if queryid in known}
        self._asked = {queryid: asked[queryid] for queryid in wanted if queryid in asked}
        self._without &= wanted
        oldest = now - ASK_AGAIN_SECONDS
        missing = [each for each in wanted if each not in known and asked.get(each, float("-inf")) <= oldest]
        self._asked |= dict.fromkeys(missing, now)
        return sorted(missing)

    def learn(self, texts: Mapping[int, str | None], asked: Iterable[int] = ()) -> None:
        """Normalise and keep some texts, and that there is none of others that were asked for."""
        found = {queryid: without_literals(text) for queryid, text in texts.items() if text is not None}
        self._known.update({queryid: (text, shortened(text, self._length)) for queryid, text in found.items()})
        self._without = (self._without | set(asked)) - self._known.keys()
        self.version += 1

    def text(self, queryid: str) -> str:
        """Return one statement's text; empty while it is not known."""
        return self._known.get(int(queryid), ("", ""))[0] if _is_id(queryid) else ""

    def short(self, queryid: str) -> str:
        """Return one statement's text, shortened, or that there is none; empty while the server has not said."""
        if not _is_id(queryid):
            return ""
        gone = NO_TEXT if int(queryid) in self._without else ""
        return self._known.get(int(queryid), ("", gone))[1]


def _is_id(text: str) -> bool:
    return text.lstrip("-").isdecimal()


class StatementReader:
    """Reads the texts of the statements that the last scrape listed, once each.

    Args:
        parts: the parts of the target.
        catalog: its collectors, of which one lists statements.
        length: upper bound on the characters of a text on the page; 0 for no texts there.

    """

    def __init__(self, parts: Parts, catalog: Catalog, length: int = 0) -> None:
        self._parts = parts
        self._collectors = tuple(collector.name for collector in catalog if collector.statements)
        self._texts = Texts(length)
        self._reading = asyncio.Lock()
        self._note = ""
        self._length = length
        self._beside: asyncio.Task[None] | None = None
        self._began_at = float("-inf")
        self._took: float | None = None
        self._errors: dict[str, int] = {}
        self._failed_for: Reason | None = None
        self._info: tuple[tuple[Samples, int], Samples] | None = None
        """What the texts became, and of which statements and texts."""

    async def read(self) -> StatementList:
        """List the statements with their texts; the note says why there are none, or why texts are missing."""
        job, samples = self._members()
        if not job or not samples:
            return StatementList(note=self._why_none(job))
        await self._look_up(job, samples)
        return StatementList(listed(samples, self._texts), self._note)

    def _members(self) -> tuple[Job | None, Samples | None]:
        """Return the job that lists statements, and its result; None for what is not there."""
        job = next((job for job in self._parts.schedule.plan.jobs if job.collector.statements), None)
        return job, self._parts.schedule.status(job).samples if job else None

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

    async def _look_up(self, job: Job, samples: Samples) -> None:
        """Read the texts that are missing; the note says why they cannot be read."""
        async with self._reading:
            schema, missing = (
                self._parts.discovery.schema(job),
                self._texts.missing(queryids(samples), self._parts.clock()),
            )
            if not missing or not schema:
                return
            began = self._parts.clock()
            try:
                async with self._parts.pool.borrowed(job.database, timeout=TIMEOUT) as session:
                    rows = await session.rows(_sql(schema), TIMEOUT, [*map(str, missing)])
            except DatabaseError as error:
                self._note = f"The texts cannot be read: {error}"
                self._fail(error)
            else:
                self._note, self._failed_for, self._took = "", None, self._parts.clock() - began
                self._texts.learn({row["queryid"]: row["query"] for row in rows}, missing)

    def _fail(self, error: DatabaseError) -> None:
        """Count an error; no login at the moment is none of the texts, and says itself."""
        self._errors[error.reason] = self._errors.get(error.reason, 0) + 1
        if not isinstance(error, BusyError | ConnectError):
            self._failed_for = error.reason

    def read_newcomers(self) -> None:
        """Begin to read the texts of statements that are new on the page; the next page has them."""
        now = self._parts.clock()
        if not self._length or now - self._began_at < READ_SECONDS or (self._beside and not self._beside.done()):
            return
        job, samples = self._members()
        if job and samples and any(not self._texts.short(str(each)) for each in queryids(samples)):
            self._began_at = now
            self._beside = asyncio.create_task(self._read_beside(job, samples), name=COLLECTOR)

    async def _read_beside(self, job: Job, samples: Samples) -> None:
        try:
            await self._look_up(job, samples)
        except Exception as error:  # the boundary: nothing else retrieves it
            self._parts.log.error("texts of statements failed unexpectedly", exc_info=error)
            self._errors["query"] = self._errors.get("query", 0) + 1
            self._failed_for = "query"

    def statuses(self) -> tuple[JobStatus, ...]:
        """Describe the texts as a collector for a report; nothing where there are none to be read."""
        _, samples = self._members()
        if not self._length or samples is None:
            return ()
        why = self._failed_for or ""
        return (
            JobStatus(
                collector=COLLECTOR,
                datname="",
                success=not why,
                samples=self._info_of(samples),
                duration=self._took,
                age=None if self._took is None else 0.0,
                errors=dict(self._errors),
                message=self._note if why else "",
                reason=why,
            ),
        )

    def _info_of(self, samples: Samples) -> Samples:
        """Write the texts of the listed statements as samples, the same ones while nothing has changed."""
        if self._info and self._info[0][0] is samples and self._info[0][1] == self._texts.version:
            return self._info[1]
        shown = samples.label_values
        labels: dict[str, None] = {}
        for row in zip(*(shown.get(label, ()) for label in INFO.labels[:-1]), strict=True):
            if text := self._texts.short(row[-1]):
                labels[label_text(dict(zip(INFO.labels, (*row, text), strict=True)))] = None
        found = Samples((Family(INFO, list(labels), [1] * len(labels)),), len(labels))
        self._info = (samples, self._texts.version), found
        return found

    async def close(self) -> None:
        """End what is being read."""
        if self._beside:
            self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)


def _sql(schema: str) -> str:
    return STATEMENT_TEXTS.replace("{schema}", schema)
