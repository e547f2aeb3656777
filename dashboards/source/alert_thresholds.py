"""Takes the numbers at which a panel changes colour from the alert rules."""

import re
from functools import cache
from pathlib import Path

from exporter.alert_rules import ALERT, THRESHOLD

RULES = Path(__file__).parents[2] / "alerts" / "rules"

MINUTE, HOUR, DAY = 60, 3600, 86400

Steps = tuple[tuple[float | None, str], ...]
"""From which value on which colour; the first has no lower end."""

NEUTRAL: Steps = ((None, "text"),)
"""No value of it is good or bad by itself."""
GOOD, INFO, WARNING, CRITICAL = "green", "blue", "orange", "red"


@cache
def _alerts() -> dict[str, str]:
    texts = (file.read_text("utf-8") for file in sorted(RULES.glob("*.yml")))
    return {alert["name"]: alert[0] for text in texts for alert in ALERT.finditer(text)}


def of(alert: str, name: str) -> float:
    """Find a number of an alert by the name it bears there, `> 0.8  # ratio: why`."""
    found = re.search(THRESHOLD.format(name=re.escape(name)), _alerts()[alert])
    if found is None:
        raise KeyError(f"{alert} has no threshold called {name}")
    return float(found["number"])


def rising(warning: float | None = None, critical: float | None = None) -> Steps:
    """Good when low."""
    return (
        (None, GOOD),
        *((at, colour) for at, colour in ((warning, WARNING), (critical, CRITICAL)) if at is not None),
    )


def falling(warning: float | None = None, critical: float | None = None) -> Steps:
    """Good when high, as the time that is left."""
    marks = [(at, worse) for at, worse in ((critical, CRITICAL), (warning, WARNING)) if at is not None]
    colours = [*(colour for _, colour in marks), GOOD]
    return tuple(zip((None, *(at for at, _ in marks)), colours, strict=True))
