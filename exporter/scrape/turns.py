"""Lets targets begin one after another, as fast as the event loop keeps up."""

import asyncio

_PAUSE_SECONDS = 0.005
"""Shortest time between two beginnings, in seconds."""

_LONGEST_SECONDS = 0.1
"""Longest time between two beginnings, in seconds: however busy the loop is, 500 targets begin within a minute."""


class Turns:
    """Turns of the targets of one process, first come first served.

    What is hard at the start is our own work, which is known by a loop that wakes too late. A server that does not
    answer gives the loop nothing to do, so it delays no other.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._latest = float("-inf")

    async def next(self) -> None:
        """Wait for the next turn: at once when the latest is long ago."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            while loop.time() - self._latest < _LONGEST_SECONDS:
                began = loop.time()
                await asyncio.sleep(_PAUSE_SECONDS)
                if loop.time() - began < 2 * _PAUSE_SECONDS:
                    break
            self._latest = loop.time()
