"""Shows findings: as a screen that is redrawn, or as lines where there is no terminal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from exporter.demo.screen import Line

_WIDTH = 20
"""Width of the column of subjects where there is no table."""


class Show(Protocol):
    """Takes the newest findings."""

    def __call__(self, found: Sequence[Line]) -> None:
        """Show them."""


@contextmanager
def display(console: Console) -> Iterator[Show]:
    """The way to show findings that suits where our output goes."""
    if not console.is_terminal:
        yield lambda found: say(console, *map(_line, found), "")
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda found: live.update(_table(found), refresh=True)


def say(console: Console, *lines: str) -> None:
    """Write lines as they are: no markup, no colours, no folding."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _line(finding: Line) -> str:
    mark = {"good": " ", "open": "~", "bad": "!"}[finding.state]
    return f"{mark} {finding.subject:<{_WIDTH}} {finding.text}"


def _table(found: Sequence[Line]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in found:
        mark, colour = {"good": ("✓", "green"), "open": ("~", "yellow"), "bad": ("✗", "red")}[finding.state]
        table.add_row(Text(f"{mark} {finding.subject}", colour), Text(finding.text))
    return table
