"""The texts of the statements that the last scrape listed, which are read beside the scrapes, once each."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from exporter.backoff import Backoff
from exporter.catalog.model import Catalog, Metric
from exporter.connections.discovery import TIMEOUT
from exporter.connections.session import Session
from exporter.errors import ConnectError, DatabaseError
from exporter.literals import without_literals
from exporter.planning.plan import Job
from exporter.report import JobStatus
from exporter.samples.label_values import label_text
from exporter.samples.model import Family, Samples
from exporter.scrape.parts import Parts
from exporter.scrape.statement_list import LABELS, Key, StatementList, listed, members, why_none
from exporter.scrape.statement_reads import statement_texts
from exporter.sql import signed
from exporter.statement_text import shortened

STATEMENT_TEXTS = """
SELECT DISTINCT ON (dbid, userid, queryid)
       dbid,
       userid,
       queryid::text AS queryid,
       left(query, 4000) AS query
  FROM {schema}.pg_stat_statements(true)
 WHERE queryid = ANY ($1::text[]::bigint[])
"""
"""Reads the file of texts, so it runs only for statements whose text is not known yet.

One queryid may stand for several texts: of tables of the same name in two schemas, each seen by another role.
"""

ASK_AGAIN_SECONDS = 15.0
"""Least interval between look-ups of a missing text, however often the page is opened, in seconds."""

READ_SECONDS = 10.0
"""Least interval between look-ups for the page, in seconds: each is a login, and reads the file of all texts."""

AFTER_FAILURE = Backoff(first=ASK_AGAIN_SECONDS, longest=600.0)
"""Pauses of look-ups that fail: the first is short, since a full server is when a text is wanted."""

GONE_SECONDS = 300.0
"""Seconds after which a text that the server did not have is asked for again."""

MOST_SHARE = 0.001
"""Share of a core that look-ups for the page may take: one that takes long is followed by a longer pause."""

LONGEST_PAUSE_SECONDS = 60.0
"""Upper bound of the pause after one that took long: it may have waited for a busy server, whose texts are wanted."""

COLLECTOR = "statement_texts"
"""Name of these look-ups among the collectors."""

_SIGNED = signed(STATEMENT_TEXTS, COLLECTOR)

NO_TEXT = "(text not available)"
"""Stands for a text that the server does not have, or no longer."""

INFO = Metric(
    name="pg_statement_info",
    type="gauge",
    help="1 for each statement with series of its own in pg_statements_*, with its text in query: white space folded,"
    " literals replaced by ?, shortened to statement_text_length. Join it by datname, usename and queryid.",
    column="info",
    labels=(*LABELS, "query"),
)
METRICS = (INFO,)


class Texts:
    """Remembers the texts of the listed statements, whole and shortened, and forgets those no longer listed."""

    def __init__(self, length: int = 0) -> None:
        self.version = 0
        """Counts the changes."""
        self._length = length
        self._known: dict[Key, tuple[str, str]] = {}
        self._asked: dict[Key, float] = {}
        self._gone: dict[Key, float] = {}
        """Those whose text the server did not have, and when."""

    def missing(self, wanted: Iterable[Key], now: float) -> list[Key]:
        """Return those to ask for: without a text, and not asked for lately. Drop what is not wanted."""
        known, asked, gone, wanted = self._known, self._asked, self._gone, set(wanted)
        self._known = {key: known[key] for key in wanted if key in known}
        self._asked = {key: asked[key] for key in wanted if key in asked}
        self._gone = {key: gone[key] for key in wanted if key in gone}
        oldest = now - ASK_AGAIN_SECONDS
        missing = [each for each in wanted if each not in known and asked.get(each, float("-inf")) <= oldest]
        self._asked |= dict.fromkeys(missing, now)
        return sorted(missing)

    def learn(self, texts: Mapping[Key, str | None], asked: Iterable[Key], now: float) -> None:
        """Normalise and keep the texts that were asked for, and which of them the server does not have."""
        for key in asked:
            if (text := texts.get(key)) is None:
                self._gone[key] = now
            else:
                whole = without_literals(text)
                self._known[key] = whole, shortened(whole, self._length)
                self._gone.pop(key, None)
        self.version += 1

    def text(self, key: Key) -> str:
        """Return one statement's text; empty while it is not known."""
        return self._known.get(key, ("", ""))[0]

    def short(self, key: Key) -> str:
        """Return one statement's text, shortened, or that there is none; empty while the server has not said."""
        return self._known.get(key, ("", NO_TEXT if key in self._gone else ""))[1]

    def is_complete(self, wanted: Iterable[Key], now: float) -> bool:
        """Return whether nothing has to be asked for at the moment."""
        oldest = now - GONE_SECONDS
        return all(key in self._known or self._gone.get(key, float("-inf")) > oldest for key in wanted)


class StatementReader:
    """Reads the texts of the statements that the last scrape listed, once each.

    Args:
        parts: the parts of the target.
        catalog: its collectors, of which one lists statements.
        length: upper bound on the characters of a text on the page; 0 for no texts there.

    """

    def __init__(self, parts: Parts, catalog: Catalog, length: int = 0) -> None:
        self._parts = parts
        self._collectors: tuple[str, ...] = ()
        self.adopt(catalog)
        self._texts = Texts(length)
        self._reading = asyncio.Lock()
        self._note = ""
        """Why the latest look-up failed; empty after one that did not."""
        self._failures = 0
        """Look-ups in a row that failed."""
        self._length = length
        self._beside: asyncio.Task[None] | None = None
        self._not_before = float("-inf")
        """Clock time from which the next look-up for the page may begin."""
        self._took: float | None = None
        self._seconds = 0.0
        self._errors: Counter[str] = Counter()
        self._members: Mapping[Key, str] = {}
        self._members_of: tuple[Samples, int] | None = None
        """Samples and version of the texts that the members come from."""
        self._info: tuple[tuple[Samples, int], Samples] | None = None
        """What the texts became, and of which statements and texts."""

    def adopt(self, catalog: Catalog) -> None:
        """Read the texts of what these collectors list from now on."""
        self._collectors = tuple(collector.name for collector in catalog if collector.statements)

    async def read(self) -> StatementList:
        """List the statements with their texts; the note says why there are none, or why texts are missing."""
        job, samples = self._listed()
        if job and samples:
            await self._look_up(job, samples)
        return self.known()

    def known(self) -> StatementList:
        """List the statements with those of their texts that are known already: the server is asked for none."""
        job, samples = self._listed()
        if not job or not samples:
            return StatementList(note=why_none(self._parts, self._collectors, job))
        return StatementList(listed(samples, self._texts.text), self._note)

    def listed(self) -> Mapping[Key, str]:
        """Map the statements with series of their own, by the latest scrape that had some, to their texts.

        A text is empty while it is not known. The mapping is the same object while nothing changes.
        """
        _, samples = self._listed()
        read_of = self._members_of
        if samples is not None and (read_of is None or read_of[0] is not samples or read_of[1] != self._texts.version):
            self._members_of = samples, self._texts.version
            found = {key: self._texts.text(key) for key in members(samples)}
            self._members = self._members if found == self._members else found
        return self._members

    def _listed(self) -> tuple[Job | None, Samples | None]:
        """Return the job that lists statements, and its result; None for what is not there."""
        job = next((job for job in self._parts.schedule.plan.jobs if job.collector.statements), None)
        return job, self._parts.schedule.status(job).samples if job else None

    async def _look_up(self, job: Job, samples: Samples) -> None:
        """Read the texts that are missing; the note says why they cannot be read."""
        async with self._reading:
            schema = self._parts.discovery.schema(job)
            sql = _SIGNED.replace("{schema}", schema or "")
            if not schema or self._parts.pool.budget.still_runs(sql, job.database):
                return
            if missing := self._texts.missing(members(samples), self._parts.clock()):
                try:
                    await self._read(job, missing)
                except DatabaseError as error:
                    self._note = f"The texts cannot be read: {error}"
                    self._errors[error.reason] += 1
                    self._failures += 1
                else:
                    self._note, self._failures = "", 0

    async def _read(self, job: Job, missing: Sequence[Key]) -> None:
        """Read some texts."""
        queryids = sorted({queryid for *_, queryid in missing})
        rows = await statement_texts(self._parts, job, self._session(job.database), _SIGNED, TIMEOUT, queryids)
        databases = self._parts.discovery.names.text("database", [row["dbid"] for row in rows])
        users = self._parts.discovery.names.text("role", [row["userid"] for row in rows])
        found: dict[Key, str | None] = {}
        for database, user, row in zip(databases, users, rows, strict=True):
            for key in itertools.product((database, ""), (user, ""), (row["queryid"],)):
                found.setdefault(key, row["query"])
        self._texts.learn(found, missing, self._parts.clock())

    @asynccontextmanager
    async def _session(self, database: str) -> AsyncIterator[Session]:
        """Log in, so that no scrape waits; where no connection is left, lend the one that is kept."""
        pool, server = self._parts.pool, self._parts.discovery.server
        async with AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(pool.borrowed(database, timeout=TIMEOUT))
            except ConnectError as error:
                if error.reason != "too_many_connections" or not server or server.database != database:
                    raise
                session = await stack.enter_async_context(pool.main.used(TIMEOUT))
            began = self._parts.clock()
            try:
                yield session
            finally:
                self._took = self._parts.clock() - began
                self._seconds += self._took

    def read_newcomers(self) -> None:
        """Begin to read the texts of statements that are new on the page; the next page has them."""
        now = self._parts.clock()
        if not self._length or now < self._not_before or (self._beside and not self._beside.done()):
            return
        job, samples = self._listed()
        if job and samples and not self._texts.is_complete(members(samples), now):
            self._beside = asyncio.create_task(self._read_beside(job, samples), name=COLLECTOR)

    async def _read_beside(self, job: Job, samples: Samples) -> None:
        try:
            await self._look_up(job, samples)
        except Exception as error:  # the boundary: nothing else retrieves it
            self._parts.log.error("texts of statements failed unexpectedly", exc_info=error)
            self._note = f"{type(error).__name__}: {error}"
            self._errors["query"] += 1
            self._failures += 1
        if self._failures:
            pause = AFTER_FAILURE.pause(self._failures)
        else:
            pause = max(READ_SECONDS, min((self._took or 0.0) / MOST_SHARE, LONGEST_PAUSE_SECONDS))
        self._not_before = self._parts.clock() + pause

    def statuses(self) -> tuple[JobStatus, ...]:
        """Describe the texts as a collector for a report; nothing where there are none to be read.

        It fails while statements have no text because they could not be read.
        """
        _, samples = self._listed()
        if not self._length or samples is None:
            return ()
        lacks = self._failures > 0 and not all(map(self._texts.short, members(samples)))
        return (
            JobStatus(
                collector=COLLECTOR,
                datname="",
                success=not lacks,
                samples=self._info_of(samples),
                duration=self._took,
                age=None,
                errors=dict(self._errors),
                message=self._note if lacks else "",
                seconds=self._seconds,
            ),
        )

    def _info_of(self, samples: Samples) -> Samples:
        """Write the texts of the listed statements as samples, the same ones while nothing has changed."""
        if self._info and self._info[0][0] is samples and self._info[0][1] == self._texts.version:
            return self._info[1]
        rows = ((*key, text) for key in members(samples) if (text := self._texts.short(key)))
        labels = [*dict.fromkeys(label_text(dict(zip(INFO.labels, row, strict=True))) for row in rows)]
        found = Samples((Family(INFO, labels, [1] * len(labels)),), len(labels))
        self._info = (samples, self._texts.version), found
        return found

    async def close(self) -> None:
        """End what is being read."""
        if self._beside:
            self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)
