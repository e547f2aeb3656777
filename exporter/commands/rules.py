"""The alert rules with the user's own values. They are changed as text, so comments and all other lines stay."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from exporter import strict_yaml
from exporter.alert_rules import ALERT, NAME, SEVERITIES, SEVERITY, THRESHOLD
from exporter.catalog.model import LabelName
from exporter.errors import ValuesError
from exporter.validation_errors import explain, nearest

RUNBOOKS = "https://github.com/pgvigil/pgvigil/blob/main/alerts/runbooks"
DASHBOARDS = "https://grafana.example.com"
"""Defaults of the two base URLs."""

_HOLD = re.compile(r"^( {8}for: )\S+", re.MULTILINE)
_LABELS = re.compile(r"^(?= {8}labels:$)", re.MULTILINE)

TAKEN = frozenset(
    [
        "alert_family",
        "alertname",
        "application_name",
        "attname",
        "client_addr",
        "collector",
        "command",
        "component",
        "conflict",
        "data_type",
        "database",
        "datname",
        "duplicate_of",
        "gid",
        "held_mode",
        "holder",
        "host",
        "indexrelname",
        "instance",
        "job",
        "kind",
        "locktype",
        "mode",
        "mountpoint",
        "name",
        "phase",
        "pid",
        "queryid",
        "reason",
        "relation",
        "relname",
        "rolname",
        "schemaname",
        "sequencename",
        "severity",
        "slot_name",
        "slot_type",
        "state",
        "subname",
        "system_identifier",
        "usename",
        "user",
        "wait_event",
        "wait_event_type",
        "wal_status",
    ]
)
"""Labels by which alerts and Alertmanager's groups name the culprit, except `cluster`: an added one would hide it."""

_DURATION = re.compile(r"0|(?=.)" + "".join(f"([0-9]+{unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms")))
"""As Prometheus reads one: each unit once, the longest first."""
_PART = re.compile(r"(.*_)?(ratio|share)")
"""Names of thresholds that are a share of a whole."""


def _added(name: str) -> str:
    if name in TAKEN:
        raise ValueError(f"{name}: our alerts say with this label what they are about")
    if name.startswith("__"):
        raise ValueError(f"{name}: labels that begin with __ are Prometheus' own")
    return name


def _plain(value: str) -> str:
    if "{{" in value:
        raise ValueError("a label is the same on every alert: templates ({{) are not for it")
    return value


_FEW = 10
"""Number of names that an error lists, rather than the nearest one alone."""


class Values(BaseModel):
    """Values of the rules, from a file or from the Helm chart."""

    model_config = ConfigDict(frozen=True)

    runbook_base_url: str = Field(RUNBOOKS, alias="runbookBaseUrl")
    dashboard_base_url: str = Field(DASHBOARDS, alias="dashboardBaseUrl")
    disable: tuple[str, ...] = ()
    labels: Mapping[Annotated[LabelName, AfterValidator(_added)], Annotated[str, AfterValidator(_plain)]] = {}
    overrides: Mapping[str, Mapping[str, object]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: object) -> object:
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        given = [str(key) for key in data] if isinstance(data, dict) else []
        unknown = [f"{key}: {_unknown('key', key, keys)}" for key in given if key not in keys]
        if unknown:
            raise ValueError("; ".join(unknown))
        return data


def read_values(file: Path) -> Values:
    """Read a file of values; ValuesError names file and place of a fault."""
    data = strict_yaml.load(file, ValuesError, file.name)
    try:
        return Values.model_validate({} if data is None else data)
    except ValidationError as error:
        raise ValuesError("\n".join(f"{file.name}: {line}" for line in explain(error))) from error


def rule_files(values: Values, folder: Path, source: str = "values") -> dict[str, str]:
    """Return the rules with these values: file name -> text. A file without a rule is left out.

    Raises ValuesError, with the source of the values, for those that fit no rule.
    """
    texts = {file.name: file.read_text("utf-8") for file in sorted(folder.glob("*.yml"))}
    found = {alert["name"]: alert[0] for text in texts.values() for alert in ALERT.finditer(text)}
    if errors := list(_mistakes(values, found)):
        raise ValuesError("\n".join(f"{source}: {error}" for error in errors))
    changed = {name: ALERT.sub(lambda alert: _changed(alert, values), text) for name, text in texts.items()}
    return {
        name: text.rstrip("\n") + "\n" for name, text in changed.items() if re.search("^ {6}- ", text, re.MULTILINE)
    }


def thresholds(alert: str) -> list[str]:
    """Name the thresholds of an alert's text."""
    return [found["name"] for found in re.finditer(THRESHOLD.format(name=NAME), alert)]


def _mistakes(values: Values, alerts: Mapping[str, str]) -> Iterator[str]:
    for place, names in (("disable", values.disable), ("overrides", values.overrides)):
        yield from (f"{place}.{name}: {_unknown('alert', name, alerts)}" for name in names if name not in alerts)
    for name, override in values.overrides.items():
        for key, value in override.items():
            if name in alerts and (wrong := _mistake(key, value, thresholds(alerts[name]))):
                yield f"overrides.{name}.{key}: {wrong}"


def _mistake(key: str, value: object, known: list[str]) -> str:
    if key == "severity":
        return "" if value in SEVERITIES else f"must be one of {', '.join(SEVERITIES)}"
    if key == "for":
        right = isinstance(value, str) and _DURATION.fullmatch(value)
        return "" if right else "must be a duration such as 10m or 1h30m, each unit once and the longest first"
    if key not in known:
        return _unknown("threshold", key, ("for", "severity", *known))
    return _number_mistake(value, math.inf if not _PART.fullmatch(key) else 1)


def _number_mistake(value: object, most: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "must be a number such as 0.9"
    if value < 0:
        return "must not be negative"
    return "" if value <= most else f"must be within 0 and {most}, as it is a part of a whole"


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    """Report an unknown name, with the nearest one, or with all if they are few or none is near."""
    near = nearest(name, known) if len(known) > _FEW else ""
    return f"no such {what}{near}" if near else f"no such {what}; there are: {', '.join(sorted(known))}"


def _changed(alert: re.Match[str], values: Values) -> str:
    """Return the text of one alert with these values."""
    if alert["name"] in values.disable:
        return ""
    text = _linked(alert[0], "runbook_url", RUNBOOKS, values.runbook_base_url)
    text = _linked(text, "dashboard_url", DASHBOARDS, values.dashboard_base_url)
    for key, value in values.overrides.get(alert["name"], {}).items():
        text = _overridden(text, key, value)
    labels = {name: json.dumps(value, ensure_ascii=False) for name, value in values.labels.items()}
    added = "".join(f"          {name}: {value}\n" for name, value in labels.items())
    return SEVERITY.sub(lambda line: added + line[0], text)


def _linked(text: str, name: str, ours: str, wanted: str) -> str:
    """Return the text with links to this base URL, or without links."""
    if base := wanted.rstrip("/"):
        return text.replace(f"{ours}/", f"{base}/")
    return re.sub(rf"^ {{10}}{name}: .*\n", "", text, flags=re.MULTILINE)


def _overridden(text: str, key: str, value: object) -> str:
    if key == "severity":
        return SEVERITY.sub(rf"\g<1>{value}", text)
    if key == "for":
        return _HOLD.sub(rf"\g<1>{value}", text) if _HOLD.search(text) else _LABELS.sub(f"        for: {value}\n", text)
    return re.sub(THRESHOLD.format(name=key), rf"{value}\g<comment>", text)
