"""Says what is wrong just now, and how near the server is to its limits, in the words of the page. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from exporter.diagnosis.situation import Situation
from exporter.printable import printable


@dataclass(frozen=True)
class Line:
    """A finding, or a number and its limit."""

    subject: str
    state: Literal["good", "open", "bad"]
    """`open` is what can wait for the day, and what is not judged yet."""
    text: str


def lines(now: Situation) -> Iterator[Line]:
    """Write a line for each finding, the worst first, then one for each limit."""
    for finding in now.urgent:
        yield Line(finding.severity, "bad", printable(finding.sentence))
    for finding in now.slow:
        yield Line("can wait", "open", printable(finding.sentence))
    if now.unjudged:
        yield Line("not judged", "open", printable(", ".join(now.unjudged)))
    elif now.is_up and not now.findings:
        yield Line("good", "good", "nothing is wrong that is known")
    for vital in now.vitals:
        state: Literal["good", "open", "bad"] = "bad" if vital.state in ("warning", "critical") else "good"
        yield Line(vital.name, "open" if vital.state == "unknown" else state, f"{vital.text}, {vital.limit}")
