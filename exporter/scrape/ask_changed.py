"""Reads a ledger's rows in two statements: what tells whether a row has changed, then those that have."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from exporter.connections.session import Answer, Session
from exporter.planning.plan import Job
from exporter.samples.ledger import Comparison, Key
from exporter.scrape.ask import refuse_cut


@dataclass(frozen=True)
class Reading:
    """The rows of a job that were read whole, and what reading them took."""

    answer: Answer
    stale: Sequence[Key] | None = None
    """Rows of the run before that have changed or are gone; None for all, which is what reading all rows needs."""
    narrow_rows: int = 0
    """Rows of which only a part was read first."""
    own_seconds: float = 0.0
    """Time between the two statements, in which the server had nothing to do for us."""


async def ask_changed(
    job: Job,
    session: Session,
    compare: Callable[[Answer], Awaitable[Comparison]],
    clock: Callable[[], float],
    most_rows: int,
) -> Reading:
    """Fetch the rows that have changed; where none has, there is no second statement.

    A row may change or go between the two. It counts as the second statement has it, and one that is gone by then is
    gone; a change of another row is seen the next time.
    """
    if job.narrow_sql is None or job.changed_sql is None:
        raise ValueError(f"{job.collector.name} reads all rows whole")
    timeout, search_path = job.collector.timeout, job.collector.search_path
    narrow = await session.fetch(job.narrow_sql, timeout, search_path=search_path, most_rows=most_rows)
    refuse_cut(narrow, most_rows)
    started = clock()
    found = await compare(narrow)
    own_seconds = clock() - started
    if found.wanted is None:
        return Reading(Answer((), narrow.round_trips), found.stale, len(narrow.rows), own_seconds)
    whole = await session.fetch(
        job.changed_sql, timeout, found.wanted, search_path=search_path, most_rows=most_rows, labels=job.label_columns
    )
    refuse_cut(whole, most_rows)
    answer = Answer(whole.rows, narrow.round_trips + whole.round_trips)
    return Reading(answer, found.stale, len(narrow.rows), own_seconds)
