"""Runs pgvigil as its command does, and writes down how long its event loop stands still: `heartbeat.py FILE serve`.

A beat that is late because others use the machine is no pause of ours: a pause is the lateness of a beat, but no more
than the CPU time that the loop's thread has used meanwhile.
"""

import asyncio
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

import uvicorn

sys.path[0] = str(Path.cwd())  # the checkout that is measured, which need not be this one

_BEAT_SECONDS = 0.005
_SHORTEST_SECONDS = 0.002


async def _beat(file: TextIO) -> None:
    """Write a line for each pause: the time it ended, and its length, in seconds."""
    while True:
        began, cpu = time.monotonic(), time.thread_time()
        await asyncio.sleep(_BEAT_SECONDS)
        now = time.monotonic()
        pause = min(now - began - _BEAT_SECONDS, time.thread_time() - cpu)
        if pause > _SHORTEST_SECONDS:
            print(now, pause, file=file, flush=True)


def main() -> None:
    """Begin to beat when the server starts."""
    from exporter.__main__ import main as run

    file = Path(sys.argv.pop(1)).open("w")  # noqa: SIM115  # open until the process ends
    startup, beats = uvicorn.Server.startup, []

    async def startup_and_beat(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        beats.append(asyncio.create_task(_beat(file)))
        await startup(server, sockets)

    uvicorn.Server.startup = startup_and_beat  # type: ignore[assignment, method-assign]
    run()


if __name__ == "__main__":
    main()
