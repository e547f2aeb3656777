"""Reads the configuration: `PGVIGIL_*` and the configuration file."""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError as UnreadableVariableError

from exporter import strict_yaml
from exporter.errors import SettingsError
from exporter.settings import PREFIX, Settings
from exporter.validation_errors import explain, nearest


def load_settings(file: Path | None = None) -> Settings:
    """Read the environment and the configuration file; SettingsError lists everything that is wrong."""
    if not file and (named := os.environ.get(f"{PREFIX}CONFIG")):
        file = Path(named)
    _refuse_unknown_variables()
    content = _content(file) if file else {}
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError("\n".join(_placed(line, file) for line in explain(error, Settings))) from None
    except UnreadableVariableError as error:
        names = [name for name in Settings.model_fields if f'"{name}"' in str(error)]
        raise SettingsError(f"{PREFIX}{''.join(names[:1]).upper()}: expected JSON") from None


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
    """Put in front of an error where the wrong value was written."""
    place, _, message = line.partition(":")
    name, _, within = place.partition(".")
    variable = PREFIX + name.upper()
    if variable in os.environ:
        return f"{variable}: {within}:{message}" if within else f"{variable}:{message}"
    return f"{file}: {line}" if file else line
