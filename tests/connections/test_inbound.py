"""The bounds on what a server may send, piece by piece; tests/faults/test_fault_hostile.py has whole servers."""

import asyncio
import struct
from typing import Any

import hostile_server
import pytest
from asyncpg.protocol import Protocol
from hostile_server import READY, ROW, WELCOME, message

from exporter.connections.authentication import Exchange
from exporter.connections.inbound import ANSWER_BYTES, LOGIN_BYTES, MOST_OTHERS, Inbound

NOTICE = message(b"N", b"SNOTICE\0\0")


class Driver(Protocol):  # type: ignore[misc]  # the driver has no types
    """A driver that only notes what it gets."""

    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes) -> None:
        """Take a piece."""
        self.got += data

    def connection_made(self, transport: Any) -> None:
        """Begin."""


class Transport(asyncio.Transport):
    """A transport that only notes whether it was aborted."""

    is_aborted = False

    def abort(self) -> None:
        """Close."""
        self.is_aborted = True

    def write(self, data: Any) -> None:
        """Send."""


def connected(rows: int = 3) -> tuple[Inbound, Driver, Transport]:
    """A connection before its login."""
    driver, transport, bounds = Driver(), Transport(), Inbound(Exchange())
    bounds.lead_to(driver)
    bounds.connection_made(transport)
    bounds.rows = rows
    return bounds, driver, transport


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 11, 13, 10**6])
def test_all_arrives_in_pieces_of_any_size(size: int) -> None:
    bounds, driver, transport = connected()
    sent = WELCOME + NOTICE + ROW * 3 + READY
    for at in range(0, len(sent), size):
        bounds.data_received(sent[at : at + size])
    assert driver.got == sent
    assert not transport.is_aborted


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (ROW * 4, "more than 3 rows"),
        (NOTICE * (MOST_OTHERS + 1), "no rows"),
        (b"D" + struct.pack("!I", ANSWER_BYTES + 4), "64 MiB"),
        (b"D" + struct.pack("!I", 2**32 - 1), "64 MiB"),
        (b"D" + struct.pack("!I", 3), "protocol"),
    ],
)
def test_an_answer_is_bounded(sent: bytes, why: str, size: int) -> None:
    bounds, driver, transport = connected()
    bounds.data_received(WELCOME)
    for at in range(0, len(sent), size):
        bounds.data_received(sent[at : at + size])
    assert why in bounds.refusal
    assert transport.is_aborted
    got = driver.got
    bounds.data_received(ROW)
    assert driver.got == got


@pytest.mark.parametrize(
    "sent",
    [
        b"R" + struct.pack("!I", LOGIN_BYTES + 1),
        b"HTTP/1.1 400 Bad Request\r\n",
        message(b"S", b"a\0b\0") * (LOGIN_BYTES // 9 + 1),
    ],
)
def test_a_login_is_bounded(sent: bytes) -> None:
    bounds, _, transport = connected()
    bounds.data_received(sent)
    assert bounds.reason == "other"
    assert transport.is_aborted


def test_a_server_that_skips_the_authentication_is_none() -> None:
    bounds, driver, transport = connected()
    bounds.data_received(READY + hostile_server.request(3))
    assert (driver.got, bounds.reason, transport.is_aborted) == (b"", "authentication", True)


def test_each_question_has_bounds_of_its_own() -> None:
    bounds, driver, transport = connected()
    bounds.data_received(WELCOME)
    for _ in range(5):
        bounds.transport.write(b"a question")
        bounds.data_received(ROW * 3 + READY)
    assert driver.got == WELCOME + (ROW * 3 + READY) * 5
    assert not transport.is_aborted


def test_a_challenge_reaches_the_driver_only_once_it_has_been_looked_at() -> None:
    bounds, driver, transport = connected()
    challenge = hostile_server.request(11, b"r=a,s=b,i=2000000000")
    for at in range(len(challenge)):
        bounds.data_received(challenge[at : at + 1])
    assert driver.got == b""
    assert (bounds.reason, transport.is_aborted) == ("authentication", True)
