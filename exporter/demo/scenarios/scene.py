"""Plays an incident on the shop: its sessions, its cause and its cure."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from exporter.demo.shop import DATABASE, Shop

TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""Errors of a session in an incident: it was terminated, timed out or not let in."""

AGAIN_AFTER = 1.0
BEGINS_AFTER = 15.0
LASTS = 120.0

Session = Any
"""An asyncpg connection."""
Culprit = Mapping[str, str]
"""Names that the page has to tell whoever is on call: kind of name -> name."""


class Scene:
    """The shop while an incident is played on it, with the sessions of those who take part."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._sessions: list[Session] = []
        self._at_work: list[asyncio.Task[None]] = []

    async def session(self, role: str, application: str) -> Session:
        """A session of one of the shop's roles."""
        names = {"application_name": application}
        session = await asyncpg.connect(self._shop.dsn(role), ssl="disable", server_settings=names, timeout=5)
        self._sessions.append(session)
        return session

    async def owner(self, sql: str, *arguments: object) -> list[Any]:
        """Run one statement in the shop as the superuser, and return its rows."""
        session = await asyncpg.connect(self._shop.cluster.dsn(DATABASE), ssl="disable", timeout=10)
        try:
            return list(await session.fetch(sql, *arguments))
        finally:
            session.terminate()

    def start(self, work: Callable[..., Coroutine[Any, Any, object]], *arguments: object) -> None:
        """Start work in the background; it ends at the first trouble, or with the scene."""
        self._at_work.append(asyncio.create_task(_until_trouble(work, arguments)))

    def crowd(self, sessions: int, role: str, application: str, sql: str, *, pause: float = 0.0) -> None:
        """Run a statement in a loop in this many sessions; a session that is terminated is opened again."""
        for _ in range(sessions):
            self.start(self._again_and_again, role, application, sql, pause)

    async def terminate(self, application: str) -> None:
        """Terminate the sessions of an application, after stopping the crowds that would open them again."""
        await self.clear()
        await self.owner(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", application
        )

    async def clear(self) -> None:
        """Stop all work and close its sessions."""
        for work in self._at_work:
            work.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        self._at_work.clear()
        while self._sessions:
            self._sessions.pop().terminate()

    async def _again_and_again(self, role: str, application: str, sql: str, pause: float) -> None:
        while True:
            with suppress(*TROUBLE):
                session = await self.session(role, application)
                while True:
                    await session.execute(sql)
                    await asyncio.sleep(pause)
            await asyncio.sleep(AGAIN_AFTER)


async def _until_trouble(work: Callable[..., Coroutine[Any, Any, object]], arguments: Sequence[object]) -> None:
    with suppress(*TROUBLE):
        await work(*arguments)


async def _nothing(_: Scene) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Scenario:
    """One incident. It can be played repeatedly, one at a time."""

    number: int
    name: str
    title: str
    look_for: Sequence[str]
    """Signs of it on the exporter's pages."""
    cause: Callable[[Scene], Coroutine[Any, Any, Culprit]]
    """Returns once it has begun, with the names to find."""
    cure: Callable[[Scene], Coroutine[Any, Any, None]]
    prepare: Callable[[Scene], Coroutine[Any, Any, None]] = _nothing
    """Runs before the cause, as if the day before."""


async def perform(incident: Scenario, shop: Shop, tell: Callable[..., None]) -> None:
    """Play an incident from its preparation to its cure; tell when it begins and ends."""
    scene = Scene(shop)
    try:
        with suppress(*TROUBLE):
            await incident.prepare(scene)
            await asyncio.sleep(BEGINS_AFTER)
            culprit = await incident.cause(scene)
            tell("", "It has begun. To be found out:", *(f"  {name}={value}" for name, value in culprit.items()), "")
            await asyncio.sleep(LASTS)
            await incident.cure(scene)
            tell("", "It is cured.", "")
    finally:
        await scene.clear()
