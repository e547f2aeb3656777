"""Targets begin one after another, and end; one that has gone before its turn does not begin."""

import asyncio
from collections.abc import Mapping
from typing import cast

from fake_session import FakeServer, catalog, collector
from virtual_time import in_virtual_time

from exporter.fleet import Change
from exporter.history.historian import Historian
from exporter.scrape.target import Options, Target
from exporter.watch.loop import WatchOptions
from exporter.web.guard import Guard
from exporter.web.lifecycle import Lifecycle

MANY = 40


class NoHistory:
    """Keeps nothing."""

    async def adopt(self, gone: Mapping[str, Target], come: Mapping[str, Target]) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


def test_who_goes_before_his_turn_is_not_begun_with() -> None:
    async def scenario() -> list[int]:
        servers = [FakeServer() for _ in range(MANY)]
        clock = asyncio.get_running_loop().time
        options = Options(watch=WatchOptions())
        made = {
            str(number): Target(catalog(collector("locks")), server, options, str(number), clock)
            for number, server in enumerate(servers)
        }
        lives = Lifecycle({}, cast(Historian, NoHistory()), cast(Guard, None), None)
        await lives._adopt(Change(gone={}, come=made))
        await asyncio.sleep(0.05)
        begun = sum(bool(server.sessions) for server in servers)
        await lives._adopt(Change(gone=made, come={}))
        await asyncio.sleep(60)
        await lives.end()
        return [begun, sum(bool(server.sessions) for server in servers), sum(server.open for server in servers)]

    begun, in_the_end, still_open = in_virtual_time(scenario())
    assert 0 < begun < MANY / 2
    assert begun <= in_the_end <= begun + 1, "whose turn it was at that moment"
    assert still_open == 0
