"""Writes what is known of a server as lines for a terminal, as the page says it. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from exporter.diagnosis.findings import Finding, duration
from exporter.diagnosis.lock_tree import Node
from exporter.diagnosis.situation import Situation, Vital
from exporter.printable import printable
from exporter.statement_text import shortened

Line = Sequence[tuple[str, str]]
"""Pieces of text, each with its style as rich names it; empty for none."""

GOOD, BAD, DIM, BOLD = "bold green", "bold red", "dim", "bold"

STYLES: Mapping[str, str] = {"critical": BAD, "warning": "bold yellow", "info": "bold cyan", "good": "green"}
"""Style of a severity, or of the state of a vital; others are dim."""

_WIDTH = max(map(len, (*STYLES, "unknown")))
"""Width of the column of severities and states."""

_STATEMENT_CHARACTERS = 200
"""Characters of a statement in the lock tree: as a rule it fits on two lines."""

_DEEPEST = 8
"""Deepest indentation of the lock tree: a chain may be a thousand sessions long."""


def whole(now: Situation, url: str) -> Iterator[Line]:
    """Write all of one server.

    Args:
        now: what is known of it.
        url: that of the exporter, for links to runbooks.

    """
    yield _names(now)
    yield _state(now)
    yield ()
    yield [("What is wrong now", BOLD)]
    yield from _wrong(now, url)
    if now.slow:
        yield ()
        yield [("What can wait for the day", BOLD)]
        for finding in now.slow:
            yield from _finding(finding, url)
    if now.vitals:
        yield ()
        yield [("How near to its limits", BOLD)]
        yield from _strip(now.vitals)
    if now.locks:
        yield ()
        yield [("Who waits for whom", BOLD)]
        for node in now.locks:
            yield from _node(node)


def _wrong(now: Situation, url: str) -> Iterator[Line]:
    for finding in now.urgent:
        yield from _finding(finding, url)
    if now.is_up and not now.urgent:
        yield [(f"  {now.all_clear}", "" if now.unjudged or not now.vitals else GOOD)]
    if now.unjudged:
        yield [(f"  {_not_judged(now)}.", DIM)]


def _not_judged(now: Situation) -> str:
    return f"Not judged: {printable(', '.join(now.unjudged))}"


def brief(now: Situation) -> Line:
    """Write one of several servers: the worst that is wrong with it."""
    less = (f". {_not_judged(now)}" if now.unjudged else "", DIM)
    if not now.findings:
        state = "good" if now.is_up and now.is_judged else "unknown"
        said = "nothing is wrong that is known" if now.is_up else "was not asked yet"
        return [_word(state), *_names(now), (f"  {said}", ""), less]
    worst, more = now.findings[0], len(now.findings) - 1
    waits = "can wait: " if worst.can_wait else ""
    others = f" and {more} more" if more else ""
    return [_word(worst.severity), *_names(now), (f"  {waits}{printable(worst.sentence)}", ""), (others, DIM), less]


def _names(now: Situation) -> Line:
    names = [printable(name) for name in (now.target, now.address) if name]
    return [(names[0], BOLD), *((f"  {name}", DIM) for name in names[1:])]


def _state(now: Situation) -> Line:
    if now.is_up:
        state = (printable(f"{now.product} {now.version}".rstrip()) + " is up", GOOD)
    elif now.down_reason:
        state = (printable(f"{now.product} is down: {now.down_reason}"), BAD)
    else:
        state = (printable(f"{now.product} was not asked yet"), BAD)
    role = f", {printable(now.role)}" if now.role else ""
    since = f", started {duration(now.up_seconds)} ago" if now.up_seconds is not None else ""
    age = "Nothing is known yet." if now.age is None else f"Newest reading {duration(now.age)} ago."
    return [state, (f"{role}{since}. ", ""), (age, DIM)]


def _strip(vitals: Sequence[Vital]) -> Iterator[Line]:
    rows = [(vital.state, printable(vital.name), printable(vital.text), printable(vital.limit)) for vital in vitals]
    names, texts = (max(len(row[column]) for row in rows) for column in (1, 2))
    for state, name, text, limit in rows:
        yield [_word(state), (f"{name:<{names}}  ", ""), (f"{text:<{texts}}  ", BOLD), (limit, DIM)]


def _finding(finding: Finding, url: str) -> Iterator[Line]:
    margin = " " * (_WIDTH + 4)
    yield [_word(finding.severity), (printable(finding.sentence), BOLD)]
    since = f"for {duration(finding.seconds)}, " if finding.seconds is not None else ""
    yield [(f"{margin}{since}runbook {url}/runbooks/{printable(finding.alert)}", DIM)]
    for line in finding.statement.splitlines():
        yield [(f"{margin}  {printable(line.expandtabs())}", "")]
    for number, remedy in enumerate(finding.remedies, 1):
        is_whole = remedy.sql.isprintable()
        escaped = "" if is_whole else "; a name in it has characters that are escaped here: copy it from the page"
        yield [(f"{margin}{number}. {printable(remedy.effect)}{escaped}", "")]
        if remedy.sql:
            yield [(f"{margin}   {printable(remedy.sql)}", "cyan")]


def _node(node: Node) -> Iterator[Line]:
    margin = "  " * (1 + min(node.depth, _DEEPEST))
    first = node.names[0] if node.names else ""
    name = f"{len(node.names)} sessions" if len(node.names) > 1 else f"pid {first}" if first.isdecimal() else first
    took = duration(node.seconds) if node.seconds is not None else ""
    behind = f"{node.behind} behind it" if node.behind else ""
    about = ", ".join(filter(None, (node.state, took, behind)))
    yield [(f"{margin}{printable(name)}", BOLD), (printable(f" {node.who}"), ""), (printable(f"  {about}"), DIM)]
    if node.statement:
        yield [(f"{margin}  {printable(shortened(node.statement, _STATEMENT_CHARACTERS))}", "")]


def _word(state: str) -> tuple[str, str]:
    return f"  {state:<{_WIDTH}}  ", STYLES.get(state, DIM)
