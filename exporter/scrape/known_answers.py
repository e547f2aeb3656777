"""Remembers what answers became, so that one that has not changed is not read, converted and written again."""

from dataclasses import dataclass

from exporter.connections.session import Answer, Known
from exporter.planning.oid_names import Names
from exporter.planning.plan import Job
from exporter.samples.model import Columns, Samples


@dataclass(frozen=True)
class _Memo:
    job: Job
    names: int
    """Version of the names that are in the samples."""
    answer: Known
    samples: Samples


class KnownAnswers:
    """The latest answer to each job whose samples follow from nothing but the answer, its query and the names."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._memos: dict[tuple[str, str], _Memo] = {}

    def known(self, job: Job) -> Known | None:
        """Return by what the latest answer is recognised; None when it has to be read whatever it is."""
        memo = self._memos.get(job.key)
        return memo.answer if memo and memo.job is job and memo.names == self._names.version else None

    def samples(self, job: Job) -> Samples:
        """Return what the latest answer became."""
        return self._memos[job.key].samples

    @property
    def names_version(self) -> int:
        """Version of the names just now."""
        return self._names.version

    def remember(self, job: Job, answer: Answer, table: Columns, samples: Samples, names: int) -> None:
        """Remember what an answer became with names of that version, unless one in it is still to be found."""
        self._memos.pop(job.key, None)
        if answer.fingerprint is None or not _follows_from_answer(job):
            return
        if not any(self._names.unknown(kind, table.get(label, ())) for label, kind in job.collector.names.items()):
            known = Known(answer.fingerprint, len(answer.rows))
            self._memos[job.key] = _Memo(job, names, known, samples)


def _follows_from_answer(job: Job) -> bool:
    """Return whether a job has no memory of its own: what it makes of an answer is the same each time."""
    collector = job.collector
    has_memory = collector.ledger or collector.remember or collector.statements
    return not (has_memory or collector.transform or any(metric.sum for metric in job.metrics))
