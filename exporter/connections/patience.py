"""Waits for answers, and knows the silence of a server from that of our own event loop."""

import asyncio
from collections.abc import Collection
from typing import Any

_LATE_SECONDS = 0.05
"""A time limit noticed so much later means that the event loop was busy, and may hold answers that it has not read."""


async def wait_within(tasks: Collection[asyncio.Future[Any]], timeout: float, most_late: float = 1.0) -> None:
    """Wait until all tasks are done or their time is over, in which what our event loop was late does not count.

    A loop that was busy finds the end of the time and the answers at once, and goes by the time first. So it is given
    as much again as it was late, `most_late` seconds at most.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    await asyncio.wait(tasks, timeout=timeout)
    late = loop.time() - until
    if late > _LATE_SECONDS and not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=min(late, most_late))
