"""The runbooks that ship, as text and as HTML."""

from functools import cache

from markdown_it import MarkdownIt

from exporter.alert_rules import shipped


@cache
def runbooks() -> frozenset[str]:
    """Name the alerts that have a runbook."""
    return frozenset(file.stem for file in shipped("runbooks").glob("*.md"))


def markdown(alert: str) -> str:
    """Read the runbook of an alert, one of `runbooks()`."""
    return (shipped("runbooks") / f"{alert}.md").read_text("utf-8")


@cache
def runbook(alert: str) -> str:
    """Render the runbook of an alert, one of `runbooks()`; HTML in it stays text."""
    rendered: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(alert))
    return rendered
