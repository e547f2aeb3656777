"""The alert rules that ship: where they are, how they are written, and the thresholds in them.

A rule file is written so that three regular expressions find all there is to change, here and in the Helm chart:

- an alert is what stands from its `- alert: NAME` to the next line that is indented by six columns or less;
- a threshold is the number right before its comment, `> 0.8  # ratio: why`: `\\b[0-9][0-9.e]*( +# ratio: )`;
- its severity, its `for` and its labels are lines of their own: `severity: warning`, `for: 5m`, `labels:`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Severity = Literal["critical", "warning", "info"]
"""The worst first."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)

ALERT = re.compile(r"(?:^ {6}#.*\n)*^ {6}- alert: (?P<name>\w+)\n(?:(?: {8}.*)?\n)*", re.MULTILINE)
THRESHOLD = r"\b(?P<number>[0-9][0-9.e]*)(?P<comment> +# (?P<name>{name}): )"
NAME = "[a-z][a-z0-9_]*"
SEVERITY = re.compile(r"^( {10}severity: )(\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class AlertRule:
    """One alert as it ships."""

    name: str
    severity: Severity
    thresholds: Mapping[str, float]
    """Name -> number, in the unit that the name says."""


def shipped(folder: str) -> Path:
    """Find a folder of `alerts/`: beside this package when installed, one folder up in a checkout."""
    here = Path(__file__).parent
    installed = here / "alerts" / folder
    return installed if installed.is_dir() else here.parent / "alerts" / folder


@cache
def alert_rules() -> Mapping[str, AlertRule]:
    """Read the alerts that ship: name -> rule."""
    texts = (file.read_text("utf-8") for file in sorted(shipped("rules").glob("*.yml")))
    return {rule.name: rule for text in texts for rule in map(_rule, ALERT.finditer(text))}


def _rule(found: re.Match[str]) -> AlertRule:
    said = SEVERITY.search(found[0])
    severity: Severity = next((each for each in SEVERITIES if said and each == said[2]), "info")
    thresholds = re.finditer(THRESHOLD.format(name=NAME), found[0])
    return AlertRule(found["name"], severity, {each["name"]: float(each["number"]) for each in thresholds})
