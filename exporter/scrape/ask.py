"""Runs the query of a job on a session, with the parameters it takes: in batches, or with what its last run said."""

from collections.abc import Callable, Sequence
from typing import Any

from exporter.connections.session import Answer, Session
from exporter.errors import QueryError
from exporter.planning.plan import Job


async def ask(
    job: Job, session: Session, remembered: Sequence[Any], clock: Callable[[], float], most_rows: int
) -> Answer:
    """Fetch the rows of a job; each batch is a statement of its own, so that its locks end with it.

    QueryError where only all rows together would be true and there are more than may be read.
    """
    collector = job.collector
    how: dict[str, Any] = {"search_path": collector.search_path, "labels": job.label_columns}
    if not collector.batches:
        answer = await session.fetch(job.sql, collector.timeout, *remembered, most_rows=most_rows, **how)
        if collector.ledger or collector.transform:
            refuse_cut(answer, most_rows)
        return answer
    rows: list[Any] = []
    round_trips, last, give_up = 0, 0, clock() + collector.timeout
    while True:
        parameters = last, collector.batches.rows
        most_rows = collector.batches.rows
        answer = await session.fetch(job.sql, collector.timeout, *parameters, most_rows=most_rows, **how)
        rows += answer.rows
        round_trips += answer.round_trips
        if len(answer.rows) < collector.batches.rows:
            return Answer(rows, round_trips)
        last = answer.rows[-1][collector.batches.by]
        if clock() > give_up:
            raise QueryError("timeout", f"not all rows were read within {collector.timeout:.0f} s: {len(rows)} were")


def refuse_cut(answer: Answer, most_rows: int) -> None:
    """Raise QueryError when there are more rows than may be read, and only all of them together would be true."""
    if answer.is_cut:
        raise QueryError("query", f"more than {most_rows} rows, as max_samples allows, and all of them are needed")
