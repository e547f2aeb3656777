"""The cases as people write them: what a server shows, and whether an alert fires then."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import promql_parser
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from exporter.strict_yaml import StrictLoader
from exporter.validation_errors import explain

CASES = Path(__file__).parent / "cases"


def _values(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is a number to YAML, which reads 0x20 as 32: put it in quotes")
    return value


Values = Annotated[str, BeforeValidator(_values)]
"""Values of a series in promtool's notation."""


class CaseError(Exception):
    """A case is wrong: `file: alert: case: what is wrong`."""


def _duration(value: object) -> object:
    try:
        promql_parser.parse_duration(str(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is no duration: write 10m, 1h30m ...") from error
    return value


Duration = Annotated[str, BeforeValidator(_duration)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(_Strict):
    """What a server shows until a moment."""

    name: str = Field(min_length=1)
    at: Duration
    interval: Duration = "1m"
    """Between the scrapes."""
    evaluation_interval: Duration | None = None
    """Between the evaluations; none is as the scrapes. A case of days needs few, and each costs promtool its time."""
    page: str = ""
    beside: Mapping[str, str] = {}
    """Other servers that are scraped too: instance -> page. A selector picks from all; `instance` tells them apart."""
    series: Mapping[str, Values] = {}
    without: tuple[str, ...] = ()
    extra: Mapping[str, Values] = {}
    says: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}

    @property
    def pace(self) -> str:
        """The time between two evaluations."""
        return self.evaluation_interval or self.interval


class Entry(_Strict):
    """The cases of one alert: near each that fires is one that must not."""

    alert: str
    page: str = "primary18"
    fires: tuple[Case, ...] = ()
    silent: tuple[Case, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Entry":
        names = [case.name for case in (*self.fires, *self.silent)]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.alert}: two cases have one name")
        for case in self.silent:
            if case.says or case.labels:
                raise ValueError(f"{self.alert}: {case.name}: a silent case says nothing and has no labels")
        return self


class _File(_Strict):
    alerts: tuple[Entry, ...]


def read(file: Path) -> tuple[Entry, ...]:
    """Read the cases of a subject."""
    try:
        data = yaml.load(file.read_text("utf-8"), StrictLoader)
        return _File.model_validate({"alerts": data or []}).alerts
    except yaml.YAMLError as error:
        raise CaseError(f"{file.name}: {error}") from error
    except ValidationError as error:
        raise CaseError("\n".join(f"{file.name}: {line}" for line in explain(error))) from error
