"""What was late: the answer, or the event loop that reads it."""

import asyncio
import socket
import time

import pytest

from exporter.connections.patience import wait_within


async def _answer(wire: socket.socket) -> bytes:
    """Read as a driver does: several steps of the loop lie between a byte and who waits for it."""
    found = await asyncio.get_running_loop().sock_recv(wire, 1)
    for _ in range(5):
        await asyncio.sleep(0)
    return found


@pytest.mark.parametrize("is_answering", [True, False])
async def test_an_answer_that_came_while_the_loop_was_busy_came_in_time(is_answering: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        task = asyncio.create_task(_answer(ours))

        def keep_busy() -> None:
            if is_answering:
                theirs.send(b"1")
            time.sleep(0.3)

        asyncio.get_running_loop().call_later(0.05, keep_busy)
        await wait_within([task], 0.1)
        assert task.done() == is_answering
        task.cancel()


async def test_a_loop_that_is_on_time_waits_no_longer_than_it_was_told() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    began = time.monotonic()
    await wait_within([task], 0.1)
    assert not task.done()
    assert 0.1 <= time.monotonic() - began < 30
    task.cancel()
