"""Subjects of a server: each finds what is wrong with it, by the thresholds of the alert rules. Pure."""

from collections.abc import Callable, Iterable, Sequence

from exporter.diagnosis.connections import connections, logins
from exporter.diagnosis.dead_rows import vacuum
from exporter.diagnosis.failures import checksums, commits, multixacts, subscriptions
from exporter.diagnosis.findings import Finding
from exporter.diagnosis.readings import Readings
from exporter.diagnosis.sessions import lock_table, locks, rootless, statements, transactions
from exporter.diagnosis.upkeep import archiving, ends, indexes, replication, statistics, wraparound

Subject = Callable[[Readings, float], Iterable[Finding]]
"""Finds what is wrong in readings; the number is the Unix time at which they were taken."""

SUBJECTS: Sequence[Subject] = (
    logins,
    locks,
    rootless,
    lock_table,
    connections,
    transactions,
    statements,
    commits,
    checksums,
    subscriptions,
    multixacts,
    replication,
    archiving,
    wraparound,
    ends,
    vacuum,
    statistics,
    indexes,
)
