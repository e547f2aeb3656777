"""Whether a server is up, and why not: the states of health as a table."""

import logging

import pytest

from exporter.errors import ConnectError
from exporter.logs import TargetLog
from exporter.scrape.health import Down, Health, Unknown, Up

REFUSED, TIMEOUT = ConnectError("refused", "nobody listens"), ConnectError("timeout", "no login")


@pytest.fixture
def health() -> Health:
    """The health of one target."""
    return Health("PostgreSQL", TargetLog(logging.getLogger("exporter.scrape.target"), "db1"))


def play(health: Health, events: str) -> None:
    """Asked, answered, refused, timed out: one letter each."""
    for event in events:
        match event:
            case "?":
                health.ask()
            case "!":
                health.answered()
            case "r":
                health.failed(REFUSED)
            case "t":
                health.failed(TIMEOUT)


@pytest.mark.parametrize(
    ("events", "is_up", "reason"),
    [
        ("", False, "timeout"),
        ("?", False, "timeout"),
        ("?!", True, ""),
        ("?r", False, "refused"),
        ("?t", False, "timeout"),
        ("?r!", True, ""),  # the other connection answered
        ("?!r", True, ""),  # likewise
        ("?!?", False, "hung"),  # it was there a moment ago
        ("?!?t", False, "hung"),  # a login that times out says nothing new of a server that hangs
        ("?!?r", False, "refused"),
        ("?!?r?", False, "timeout"),
        ("?!??", False, "hung"),
        ("?r?!", True, ""),
    ],
)
def test_what_a_page_says(health: Health, events: str, is_up: bool, reason: str) -> None:
    play(health, events)
    assert (health.is_up, health.reason) == (is_up, reason)


def test_before_it_was_asked_nothing_is_known(health: Health) -> None:
    states: list[Unknown | Up | Down] = [health.state]
    for events in ("?!", "?r"):
        play(health, events)
        states.append(health.state)
    assert states == [Unknown(), Up(), Down("refused", "nobody listens")]


def test_a_transition_is_logged_once_with_the_target(health: Health, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for events in ("?!", "?!", "?r", "?r", "?!"):
        play(health, events)
        health.log_transition()
    assert [record.message for record in caplog.records] == [
        "PostgreSQL is up",
        "PostgreSQL is down: nobody listens",
        "PostgreSQL is up",
    ]
    assert {vars(record)["target"] for record in caplog.records} == {"db1"}
