"""Alone in running `promtool test rules`: says which alerts it got, whatever was expected."""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from alerts.series import Labels, labels_of


@dataclass(frozen=True)
class Fired:
    """An alert as promtool got it."""

    labels: Labels
    annotations: Labels


def got(tests: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, list[Fired]], str]:
    """The alerts of each test by its name, and what promtool says of those it could not run."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as file:
        yaml.safe_dump(dict(tests), file, sort_keys=False, allow_unicode=True)
        file.flush()
        done = subprocess.run(["promtool", "test", "rules", file.name], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    found = {name: _fired(text) for name, text in TESTED.findall(said)}
    return found, "" if found.keys() >= set(names) else _explained(said)


TESTED = re.compile(r"^    name: (.*?),\n    alertname: .*?\n        got:\[(.*?)\]$", re.MULTILINE | re.DOTALL)
FIRED = re.compile(r"^ +Labels:\{(.*)\}\n +Annotations:\{(.*)\}", re.MULTILINE)


def _fired(text: str) -> list[Fired]:
    return [Fired(labels_of(labels), labels_of(annotations)) for labels, annotations in FIRED.findall(text)]


def _explained(said: str) -> str:
    errors = [line.strip() for line in said.splitlines() if "err:" in line or "error" in line.lower()]
    return "; ".join(dict.fromkeys(errors)) or said.strip()
