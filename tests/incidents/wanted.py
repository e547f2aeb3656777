"""Which metrics an alert lives on, by way of the recording rules it uses as well."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from alerting import ALERTS

NAME = re.compile(r"[a-zA-Z_:][\w:]*")
ALWAYS = ("pg_up", "pgvigil_scrapes_total")


def metrics_of(alerts: Iterable[str]) -> frozenset[str]:
    """The exporter's metrics that expressions and texts of these alerts mention."""
    rules = _rules()
    wanted, seen = list(alerts), set(ALWAYS)
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        _, rule = rules.get(name, (None, {}))
        texts = [rule.get("expr", ""), *rule.get("annotations", {}).values()]
        wanted += [word for text in texts for word in NAME.findall(text) if _is_metric(word)]
    return frozenset(name for name in seen if name not in rules)


def rule_file_of(alert: str) -> Path:
    """Where an alert is written."""
    return _rules()[alert][0]


def _is_metric(word: str) -> bool:
    return word.startswith(("pg_", "pgvigil_")) or ":" in word


@cache
def _rules() -> dict[str, tuple[Path, dict[str, Any]]]:
    """All rules by the name of the alert or of the series."""
    return {
        rule.get("alert") or rule["record"]: (file, rule)
        for file in sorted((ALERTS / "rules").glob("*.yml"))
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    }
