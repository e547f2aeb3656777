"""Runs what may block, files on a hung mount and names in DNS, in threads: the event loop never waits for them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from exporter.backoff import Backoff

T = TypeVar("T")

PATIENCE = 0.9
"""Share of connect_timeout that files and names may take, so that the reason is known when the login is given up."""

HANGING_FILE = "Its mount hangs."


AGAIN = Backoff(first=60.0, longest=3600.0)
"""Pauses before a hung call is retried concurrently: a file may have been replaced, or a mount be back."""


@dataclass(frozen=True)
class _Call:
    """A call that is under way, or hangs."""

    answer: asyncio.Future[Any]
    since: float
    hung: int
    """Calls before it that hang as well."""


class OffLoop:
    """The blocking calls of one target.

    A call that hangs is joined by whoever makes it again, so that it holds one thread. Threads are not pooled: a target
    whose calls hang takes none from the others, and they end with the process.
    """

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}

    async def call(self, what: str, work: Callable[[], T], timeout: float) -> T:
        """Return what a call returns; TimeoutError when it takes too long, which leaves it running.

        Args:
            what: the call, which is not made again while it runs.
            work: what to do, in a thread.
            timeout: seconds from the beginning of the call.

        """
        loop = asyncio.get_running_loop()
        call = self._calls.get(what)
        if call is None or call.answer.get_loop() is not loop:
            call = self._start(what, work, hung=0)
        elif loop.time() - call.since > AGAIN.pause(call.hung + 1):
            call = self._start(what, work, call.hung + 1)
        await asyncio.wait([call.answer], timeout=max(call.since + timeout - loop.time(), 0.0))
        if not call.answer.done():
            raise TimeoutError(f"{what}: not read within {timeout:.1f} s")
        found: T = call.answer.result()
        return found

    def _start(self, what: str, work: Callable[[], T], hung: int) -> _Call:
        call = self._calls[what] = _Call(_in_thread(work), asyncio.get_running_loop().time(), hung)

        def forget(_: object) -> None:
            if self._calls.get(what) is call:
                del self._calls[what]

        call.answer.add_done_callback(forget)
        return call


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    answer.add_done_callback(_retrieve)

    def deliver(tell: Callable[[Any], None], outcome: object) -> None:
        if not answer.done():
            tell(outcome)

    def run() -> None:
        try:
            tell, outcome = answer.set_result, work()
        except Exception as error:  # noqa: BLE001  # the boundary of the thread: whoever waits gets it
            tell, outcome = answer.set_exception, error  # type: ignore[assignment]
        try:
            loop.call_soon_threadsafe(deliver, tell, outcome)
        except RuntimeError:
            return  # the loop has ended meanwhile

    Thread(target=run, name="off the loop", daemon=True).start()
    return answer


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a call that nothing waits for any more."""
    if not answer.cancelled():
        answer.exception()
