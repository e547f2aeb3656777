"""How log lines look: one for people, one for machines."""

import logging
import logging.config
from collections.abc import MutableMapping
from typing import Any, Literal

_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}
"""What every record has, or every one of uvicorn's."""


class OneLine(logging.Formatter):
    """Writes a message on one line and with no control characters, whatever name or error it repeats."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging calls it so
        """Add the `extra` fields, and escape what cannot be printed; a traceback comes after and keeps its lines."""
        extra = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _USUAL and value)
        text = super().formatMessage(record) + (f" ({extra})" if extra else "")
        return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def configure(form: Literal["console", "json"], level: str) -> None:
    """Send the log to standard error; `extra` fields become keys of the JSON."""
    formatters = {
        "console": {"()": OneLine, "fmt": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {form: formatters[form]},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form}},
            "root": {"level": level.upper(), "handlers": ["stderr"]},
        }
    )


class TargetLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the field `target` to every line: which of the servers it is about."""

    def __init__(self, logger: logging.Logger, target: str) -> None:
        super().__init__(logger, {"target": target})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge the fields of the line with the target."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
