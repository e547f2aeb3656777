"""Says what is wrong just now, and how near the server is to its limits, in the words of the page. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from exporter.diagnosis.situation import Situation
from exporter.printable import printable


@dataclass(frozen=True)
class Line:
    """A finding, or a number and its limit."""

    subject: str
    bad: bool
    text: str


def lines(now: Situation) -> Iterator[Line]:
    """Write a line for each finding, the worst first, then one for each limit."""
    for finding in now.findings:
        yield Line(finding.severity, True, printable(finding.sentence))
    if now.is_up and not now.findings:
        yield Line("good", False, "nothing is wrong that is known")
    for vital in now.vitals:
        yield Line(vital.name, vital.state in ("warning", "critical"), f"{vital.text}, {vital.limit}")
