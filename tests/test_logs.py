"""How log lines look to a person."""

import logging

import pytest

from exporter.logs import OneLine


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
