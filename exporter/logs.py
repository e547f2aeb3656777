"""Formats of log lines, for operators and machines, and a writer to standard error that blocks only its thread."""

import logging
import logging.config
import os
import time
from collections.abc import MutableMapping
from queue import Full, Queue
from threading import Thread
from typing import Any, Literal

from exporter.printable import printable

_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}
"""Attributes of any record, or of any of uvicorn's."""


class OneLine(logging.Formatter):
    """Writes a message on one line and with no control characters, whatever name or error it repeats."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging calls it so
        """Add the `extra` fields, and escape what cannot be printed; a traceback comes after and keeps its lines."""
        extra = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _USUAL and value)
        return printable(super().formatMessage(record) + (f" ({extra})" if extra else ""))


_MOST_CHARACTERS = 3000
"""Characters of a value that a line has: some are written by whoever is on the network."""


def bounded(record: logging.LogRecord) -> bool:
    """Shorten what a line is told to say beside its message; a filter that lets all lines pass."""
    for name, value in vars(record).items():
        if name not in _USUAL and isinstance(value, str) and len(value) > _MOST_CHARACTERS:
            setattr(record, name, f"{value[:_MOST_CHARACTERS]}… ({len(value)} characters)")
    return True


LINES = 1000
"""Upper bound on lines that wait until standard error takes them; further ones are dropped and counted."""

_FLUSH_SECONDS = 1.0
"""Seconds to wait at the end of the process for its last lines to be taken."""


class Writer(logging.Handler):
    """Has a thread write the lines to a file, so that a full pipe or a stopped reader blocks that thread only.

    The thread uses the file's descriptor: whoever waits on a stream holds its lock, which the process needs to end.
    """

    def __init__(self, file: int = 2, lines: int = LINES) -> None:
        super().__init__()
        self._file = file
        self._lines: Queue[str] = Queue(lines)
        self._dropped = 0
        Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, after one that says how many were dropped before it; drop it where there is no room."""
        try:
            if self._dropped:
                note = "log lines were dropped, since standard error did not take them: %d"
                said = logging.LogRecord(__name__, logging.WARNING, __file__, 0, note, (self._dropped,), None)
                self._lines.put_nowait(self.format(said) + "\n")
                self._dropped = 0
            self._lines.put_nowait(self.format(record) + "\n")
        except Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001  # as any handler does: a line that cannot be made costs itself
            self.handleError(record)

    def _write(self) -> None:
        while True:
            left = self._lines.get().encode(errors="backslashreplace")
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError:
                time.sleep(0.01)  # nobody reads it any more: the line is lost
            self._lines.task_done()

    def flush(self) -> None:
        """Wait for the lines to be taken, but not without end."""
        give_up = time.monotonic() + _FLUSH_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < give_up:
            time.sleep(0.005)


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
            "filters": {"bounded": {"()": lambda: bounded}},
            "handlers": {"stderr": {"()": Writer, "formatter": form, "filters": ["bounded"]}},
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
