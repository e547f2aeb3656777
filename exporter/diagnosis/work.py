"""Finds the statement that takes the server's time, and the one that has become slow. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporter.diagnosis.culprits import found
from exporter.diagnosis.findings import Finding, Remedy, count, duration, limit
from exporter.diagnosis.readings import Readings
from exporter.sql import literal

_PLANNABLE = re.compile(r"(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH)\b(?!.*(?:[;?]|--|/\*))", re.IGNORECASE | re.DOTALL)
"""Texts that EXPLAIN takes as they are: one statement without a comment, whose constants are parameters."""

_BEFORE_A_VALUE = (
    "ALL|AND|ANY|ASYMMETRIC|BETWEEN|BY|CASE|DISTINCT|ELSE|ESCAPE|FIRST|FOR|FROM|HAVING|ILIKE|IN|IS|LIKE|LIMIT|NEXT|NOT|"
    "OFFSET|ON|OR|RETURNING|SELECT|SET|SYMMETRIC|THEN|TO|USING|VALUES|WHEN|WHERE|ZONE"
)
"""Words of SQL that a parameter may follow."""

_NEEDS_CONSTANTS = re.compile(
    rf"""(?:["\)]|\b(?!(?:{_BEFORE_A_VALUE})\b)[a-z_]\w*)\s+\$\d  # interval '1 day'
    |\bextract\s*\(\s*\$\d
    |\bGROUP\s+BY\b(?![\w\s.,"]*(?:$|\)|\b(?:HAVING|WINDOW|ORDER|LIMIT|OFFSET|FETCH)\b))
    |\bDISTINCT\b.*\bORDER\s+BY\b(?![\w\s.,"]*(?:$|\)|\b(?:LIMIT|OFFSET|FETCH)\b))
    |\$\d+\s+IS\b""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
"""What no parameter can stand for: constants behind their type, those of expressions that have to agree, a lone one."""

_BY_PATTERN = re.compile(r"(?:LIKE|SIMILAR TO|~\*?)\s+\$\d", re.IGNORECASE)
"""Predicates whose generic plan says little: an index serves only patterns with a fixed beginning."""

_MOST_CHARACTERS = 2000
"""Upper bound on the text of a statement to copy; from 4000 on it is cut."""

_LONG_SECONDS = 5
"""Seconds from which on running_statements.yaml counts a session that runs a statement."""

_GENERIC_PLAN_SINCE = 16
_QUERY_ID_SINCE = 14


@dataclass(frozen=True)
class StatementWork:
    """Work of one statement in the last minutes."""

    datname: str
    usename: str
    queryid: str
    query: str
    """Normalised text; empty where it is not known."""
    application: str
    """The one that is most active with it; empty where none was seen."""
    calls: float
    seconds: float
    """Execution time."""
    seconds_before: float | None = None
    """Execution time of a call in the hour before; None where it did not run then."""

    @property
    def seconds_per_call(self) -> float:
        """Mean execution time of a call; 0 without one."""
        return self.seconds / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class Work:
    """Work of a server's statements in the last minutes."""

    span: float
    """Length of the minutes, in seconds; more than 0."""
    seconds: float
    """Execution time of all statements."""
    statements: Sequence[StatementWork]


def work(of: Work, now: Readings) -> Iterator[Finding]:
    """Find statements to blame for the time that the server takes.

    Args:
        of: what they did.
        now: the latest readings, for where they run.

    """
    for each in of.statements:
        is_telling = each.calls > limit("StatementDominates", "calls_in_5m")  # also of less: one call may be a report
        if is_telling and _dominates(each, of):
            share = f"{each.seconds / of.seconds:.0%} of all execution time of the last {duration(of.span)}"
            yield _finding("StatementDominates", each, f"takes {share}: {_time(each)} a call", now)
        elif is_telling and (factor := _factor(each, of)):
            slower = f"takes {_time(each)} a call, {factor:,.0f} times as long as in the hour before"
            yield _finding("StatementSlower", each, slower, now)


def _dominates(each: StatementWork, of: Work) -> bool:
    return (
        each.seconds > limit("StatementDominates", "share") * of.seconds
        and of.seconds / of.span > limit("StatementDominates", "busy_sessions")
        and each.seconds_per_call > limit("StatementDominates", "seconds_per_call")
    )


def _factor(each: StatementWork, of: Work) -> float:
    """Say how many times slower it is than in the hour before; 0 where that is nothing to tell."""
    before = each.seconds_before
    if not before or each.seconds / of.span <= limit("StatementSlower", "busy_sessions"):
        return 0.0
    more, factor = each.seconds_per_call - before, each.seconds_per_call / before
    is_slower = more > limit("StatementSlower", "seconds_per_call_more") and factor > limit("StatementSlower", "factor")
    return factor if is_slower else 0.0


def _finding(alert: str, each: StatementWork, what: str, now: Readings) -> Finding:
    labels = {"datname": each.datname, "usename": each.usename, "queryid": each.queryid}
    application = f" (application {each.application})" if each.application else ""
    sentence = f"a statement of {each.usename} in {each.datname}{application} {what}"
    return found(alert, sentence, labels, [*_remedies(each, now)], None, each.query)


def _remedies(each: StatementWork, now: Readings) -> Iterator[Remedy]:
    """Return what shows why, and then what stops it."""
    version = _major(now)
    is_whole = len(each.query) < _MOST_CHARACTERS
    if _BY_PATTERN.search(each.query):
        yield Remedy(
            f"Run EXPLAIN of it with real values, in database {each.datname}: for a pattern, the plan depends on them."
            " A Seq Scan on a large table lacks an index, or its estimates are off."
        )
    elif version >= _GENERIC_PLAN_SINCE and is_whole and _is_plannable(each.query):
        effect = (
            "Look at its plan; this runs nothing. A Seq Scan on a large table lacks an index, or its estimates are off."
            f" In database {each.datname}."
        )
        yield Remedy(effect, f"EXPLAIN (GENERIC_PLAN) {each.query};")
    key = {"queryid": each.queryid, "datname": each.datname, "usename": each.usename}
    running = sum(session.value for session in now.series("pg_statement_running_sessions", **key))
    if version >= _QUERY_ID_SINCE and running:
        yield Remedy(
            f"Cancel it where it runs for long, in {count(running, 'session')}: clients get errors.",
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"  # noqa: S608  # an operator runs it
            f" WHERE state = 'active' AND query_id = {int(each.queryid)} AND usename = {literal(each.usename)}"
            f" AND datname = {literal(each.datname)}"
            f" AND query_start < now() - interval '{_LONG_SECONDS} seconds';",
        )


def _is_plannable(query: str) -> bool:
    return bool(_PLANNABLE.match(query)) and not _NEEDS_CONSTANTS.search(query)


def _major(now: Readings) -> int:
    versions = now.series("pg_server_info")
    major = versions[0].labels.get("short_version", "").partition(".")[0] if versions else ""
    return int(major) if major.isdecimal() else 0


def _time(each: StatementWork) -> str:
    seconds = each.seconds_per_call
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
