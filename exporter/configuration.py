"""Reads the configuration: `PGVIGIL_*`, the configuration file, and the files of targets that it names."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError as UnreadableVariableError

from exporter import strict_yaml
from exporter.connection_settings import TargetSettings
from exporter.errors import SettingsError
from exporter.settings import PREFIX, Settings
from exporter.validation_errors import explain, nearest

_log = logging.getLogger(__name__)


class _TargetsFile(BaseModel):
    """The content of a file of targets."""

    targets: tuple[TargetSettings, ...]


def load_settings(file: Path | None = None) -> Settings:
    """Read the environment, the configuration file and the files of targets; SettingsError lists what is wrong."""
    file = configuration_file(file)
    _refuse_unknown_variables()
    settings = _settings(file, _content(file) if file else {})
    if not settings.targets_files:
        return settings
    return settings.model_copy(update={"targets": tuple(_targets(settings))})


def configuration_file(file: Path | None) -> Path | None:
    """Return the file that was named, or else that of the environment; None where there is none."""
    named = os.environ.get(f"{PREFIX}CONFIG")
    return file or (Path(named) if named else None)


def targets_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that match, each once; one that is named without a pattern is there whether it exists or not."""
    found = (name for pattern in patterns for name in _matches(pattern))
    return [Path(name) for name in dict.fromkeys(found)]


def unmatched(patterns: Sequence[str]) -> list[str]:
    """Return the patterns that no file matches."""
    return [pattern for pattern in patterns if not _matches(pattern)]


def _matches(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207  # absolute ones too


def _targets(settings: Settings) -> Iterator[TargetSettings]:
    """List the targets of the configuration file and of the files that it names; a name twice is a SettingsError."""
    places = {target.name: "targets" for target in settings.targets or ()}
    yield from settings.targets or ()
    for pattern in unmatched(settings.targets_files):
        _log.warning("targets_files: no file matches %s. Write one, or correct the pattern", pattern)
    for file in targets_files(settings.targets_files):
        for target in _targets_of(file):
            if target.name in places:
                where = "it twice" if places[target.name] == str(file) else f"{places[target.name]} as well"
                raise SettingsError(f"{file}: {target.name}: is in {where}. Give each target a name of its own")
            places[target.name] = str(file)
            yield target


def _targets_of(file: Path) -> tuple[TargetSettings, ...]:
    content = strict_yaml.load(file, SettingsError, str(file))
    if content is None:
        raise SettingsError(f"{file}: is empty. A list of no targets is written as []")
    if not isinstance(content, list):
        raise SettingsError(f"{file}: expected a list of targets, each with a name and a dsn")
    try:
        return _TargetsFile(targets=content).targets
    except ValidationError as error:
        lines = (line.removeprefix("targets.") for line in explain(error, _TargetsFile))
        raise SettingsError("\n".join(f"{file}: {line}" for line in lines)) from None


def _settings(file: Path | None, content: dict[str, Any]) -> Settings:
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError("\n".join(_placed(line, file) for line in explain(error, Settings))) from None
    except UnreadableVariableError as error:
        names = [name for name in Settings.model_fields if f'"{name}"' in str(error)]
        raise SettingsError(f"{PREFIX}{''.join(names[:1]).upper()}: expected JSON: {error.__cause__}") from None


def _refuse_unknown_variables() -> None:
    known = [f"{PREFIX}CONFIG", *(PREFIX + name.upper() for name in Settings.model_fields)]
    for variable in os.environ:
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            raise SettingsError(f"{variable}: no such setting{nearest(variable.upper(), known)}")


def _content(file: Path) -> dict[str, Any]:
    content = strict_yaml.load(file, SettingsError, str(file))
    if content is not None and not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise SettingsError(f"{file}: expected a mapping of settings")
    return content or {}


def _placed(line: str, file: Path | None) -> str:
    """Put in front of an error where the wrong value was written; of two that contradict each other, where each was."""
    place, _, message = line.partition(":")
    both = place.split(" and ")
    if len(both) > 1 and any(map(_variable, both)):
        return f"{' and '.join(_variable(name) or f'{file}: {name}' for name in both)}:{message}"
    name, _, within = place.partition(".")
    if variable := _variable(name):
        return f"{variable}: {within}:{message}" if within else f"{variable}:{message}"
    return f"{file}: {line}" if file else line


def _variable(setting: str) -> str:
    """Return the variable of a setting; nothing where the environment has none, or an empty one."""
    variable = PREFIX + setting.upper()
    return variable if os.environ.get(variable) else ""
