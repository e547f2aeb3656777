"""Runs a scenario in virtual time: sleeping and waiting take none, and whatever waits for ever is an error."""

import asyncio
import warnings
from collections.abc import Coroutine
from typing import Any, TypeVar

import async_solipsism

T = TypeVar("T")


def in_virtual_time(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop whose clock jumps to whatever is due next.

    `asyncio.get_running_loop().time` is the clock to hand to code under test. A scenario that waits for something
    that never comes ends with async_solipsism.SleepForeverError, not with a timeout of the test.
    """
    with warnings.catch_warnings(), asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        warnings.simplefilter("ignore", async_solipsism.ResolutionWarning)  # pauses with jitter end between two ticks
        return runner.run(scenario)
