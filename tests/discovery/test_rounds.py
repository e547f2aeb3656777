"""Sources are asked each at its own pace."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from patience import until

from exporter.connection_settings import SourceSettings
from exporter.discovery.discovery import DiscoveryLoop
from exporter.discovery.member import Answer, Member
from exporter.discovery.rounds import Rounds


def source(srv: str) -> SourceSettings:
    """A source, which answers by its name."""
    return SourceSettings.model_validate({"source": "dns", "srv": srv, "dsn": "user=monitor"})


class Sources:
    """Sources of which one is slow."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked: list[str] = []
        self.seen: list[list[str]] = []
        self.loop = DiscoveryLoop([source("slow"), source("fast")], {"dns": self._answer})

    def _answer(self, of: SourceSettings) -> Answer:
        self.asked.append(of.srv)
        if of.srv == "slow":
            self.let_go.wait(60)
        return Answer([Member(f"db-{of.srv}", "h", 1)])

    async def follow(self) -> None:
        """Note what is known."""
        self.seen.append(sorted(each.name for each in self.loop.targets))


@contextmanager
def slow_and_fast() -> Iterator[Sources]:
    """Sources whose slow one answers in the end."""
    made = Sources()
    try:
        yield made
    finally:
        made.let_go.set()


@asynccontextmanager
async def running(rounds: Rounds) -> AsyncIterator[None]:
    """Rounds under way."""
    task = asyncio.create_task(rounds.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_slow_source_delays_no_other_and_no_new_one() -> None:
    with slow_and_fast() as sources:
        rounds = Rounds(sources.loop, sources.follow)
        async with running(rounds):
            await until(lambda: sources.seen)
            assert sources.seen == [["db-fast"]]
            sources.loop.adopt([source("slow"), source("fast"), source("new")])
            rounds.wake()
            await until(lambda: len(sources.seen) > 1)
            assert sources.seen[1] == ["db-fast", "db-new"]
            sources.let_go.set()
            await until(lambda: "db-slow" in sources.seen[-1])
            assert sorted(sources.asked) == ["fast", "new", "slow"], "each of them once, until ten seconds have passed"


async def test_the_start_waits_for_the_first_answers_and_no_longer() -> None:
    with slow_and_fast() as sources:
        rounds = Rounds(sources.loop, sources.follow)
        await rounds.begin(0.5)
        assert sources.seen == [["db-fast"]]
        sources.let_go.set()
        await until(lambda: "db-slow" in sources.seen[-1])


async def test_what_goes_wrong_with_one_answer_ends_nothing() -> None:
    with slow_and_fast() as sources:
        sources.let_go.set()

        async def fails() -> None:
            await sources.follow()
            raise ValueError("odd")

        rounds = Rounds(sources.loop, fails)
        async with running(rounds):
            await until(lambda: len(sources.seen) > 1)
            rounds.wake()
            sources.loop.adopt([source("slow"), source("fast"), source("new")])
            rounds.wake()
            await until(lambda: "db-new" in sources.seen[-1])
