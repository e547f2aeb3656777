"""How log lines look to a person."""

import logging
import os
from contextlib import suppress

import pytest
from patience import wait_until

from exporter.logs import OneLine, Writer, bounded


@pytest.mark.parametrize(
    ("message", "extra", "written"),
    [
        ("it is up", {}, "it is up"),
        (
            "runs every 36.6 s",
            {"collector": "tables", "datname": "app"},
            "runs every 36.6 s (collector=tables datname=app)",
        ),
        ("runs every 36.6 s", {"collector": "wal", "datname": ""}, "runs every 36.6 s (collector=wal)"),
        ("served", {"color_message": "\x1b[1mserved"}, "served"),
        ("of two\nlines", {"collector": "a\x1b[1m"}, r"of two\nlines (collector=a\x1b[1m)"),
    ],
)
def test_a_line_says_what_it_is_about_and_stays_one(message: str, extra: dict[str, str], written: str) -> None:
    record = logging.makeLogRecord({"msg": message, **extra})
    assert OneLine("%(message)s").format(record) == written


def test_what_others_wrote_is_shortened() -> None:
    record = logging.makeLogRecord({"msg": "refused", "reason": "x" * 60_000, "client": "192.0.2.1"})
    assert bounded(record)
    written = OneLine("%(message)s").format(record)
    assert written == f"refused (reason={'x' * 3000}… (60000 characters) client=192.0.2.1)"


def test_lines_that_nobody_takes_are_dropped_and_counted() -> None:
    """The first one is with the thread that writes, four more wait for it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"\0" * 4096)
    os.set_blocking(writer, True)
    handler = Writer(writer, lines=4)
    handler.setFormatter(OneLine("%(message)s"))

    def log(message: str) -> None:
        handler.handle(logging.makeLogRecord({"msg": message}))

    log("0")
    wait_until(lambda: handler._lines.qsize() == 0)
    for number in range(1, 10):
        log(str(number))
    said = b""
    while said.count(b"\n") < 5:
        said += os.read(reader, 65536)
    wait_until(lambda: not handler._lines.unfinished_tasks)
    log("10")
    handler.flush()
    said += os.read(reader, 65536)
    note = "log lines were dropped, since standard error did not take them: 5"
    assert said.lstrip(b"\0").decode().splitlines() == ["0", "1", "2", "3", "4", note, "10"]
    os.close(reader)
