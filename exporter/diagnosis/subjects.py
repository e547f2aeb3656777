"""Subjects of a server: each finds what is wrong with it, by the thresholds of the alert rules. Pure."""

from collections.abc import Callable, Iterable, Sequence

from exporter.diagnosis.findings import Finding
from exporter.diagnosis.readings import Readings
from exporter.diagnosis.sessions import connections, locks, logins, statements, transactions
from exporter.diagnosis.upkeep import archiving, ends, indexes, replication, statistics, vacuum, wraparound

Subject = Callable[[Readings, float], Iterable[Finding]]
"""Finds what is wrong in readings; the number is the Unix time at which they were taken."""

SUBJECTS: Sequence[Subject] = (
    logins,
    locks,
    connections,
    transactions,
    statements,
    replication,
    archiving,
    wraparound,
    ends,
    vacuum,
    statistics,
    indexes,
)
