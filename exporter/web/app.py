"""The HTTP application: scrapers are answered without FastAPI, which is imported when a user asks for a page."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter.history.historian import Historian
from exporter.report import Report
from exporter.scrape.target import Target
from exporter.scrape.turns import Turns
from exporter.settings import Settings
from exporter.web.access import Access
from exporter.web.guard import Guard
from exporter.web.scraper_routes import ScraperRoutes

_FIRST_LOGIN_SECONDS = 10.0
"""Timeout of the first login, in seconds: longer than most login timeouts, so the log has the server's reason."""


def create_app(targets: Mapping[str, Target], settings: Settings, guard: Guard | None = None) -> Starlette:
    """Serve one target (its name is empty) at `/metrics`, several at `/probe?target=NAME`, to whom the guard admits."""
    guard = guard or Guard(settings)
    historian = Historian(targets, settings)
    scrapers = ScraperRoutes(targets, settings, lambda: [*historian.families(), *guard.families()])

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        logins: list[asyncio.Task[Report]] = []
        await historian.restore()
        beginning = asyncio.create_task(_begin(targets.values(), logins), name="begin")
        keeping = asyncio.create_task(historian.run(), name="historian")
        watching = asyncio.create_task(guard.watch(), name="web configuration")
        yield
        for task in (beginning, keeping, watching, *logins):
            task.cancel()
        await asyncio.gather(beginning, keeping, watching, *logins, return_exceptions=True)
        await historian.close()
        await asyncio.gather(*(target.close() for target in targets.values()), return_exceptions=True)
        scrapers.close()

    def build() -> ASGIApp:
        from exporter.web.user_pages import create_user_app

        return create_user_app(targets, settings, scrapers, historian)

    direct = [Route(path, route, methods=["GET"]) for path, route in scrapers.by_path.items()]
    access = Middleware(Access, guard=guard, for_scrapers=scrapers.by_path)
    return Starlette(routes=[*direct, Mount("", _AtFirstRequest(build))], middleware=[access], lifespan=lifespan)


async def _begin(targets: Iterable[Target], logins: list[asyncio.Task[Report]]) -> None:
    """Look at each target and log in to it, one after another: hundreds at once would stop the loop."""
    turns = Turns()
    for target in targets:
        await turns.next()
        target.start()
        logins.append(asyncio.create_task(target.ping(_FIRST_LOGIN_SECONDS)))


class _AtFirstRequest:
    """An application that is built at its first request, in a thread: its imports take longer than a scrape may wait.

    FastAPI and the templates need 7 MiB and 0.2 s of CPU, which an exporter saves whose pages only Prometheus reads.
    """

    def __init__(self, build: Callable[[], ASGIApp]) -> None:
        self._build = build
        self._built: asyncio.Task[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self._built is None:
            self._built = asyncio.create_task(asyncio.to_thread(self._build))
        building = self._built
        try:
            app = await asyncio.shield(building)  # a client that gives up takes it from no other
        except Exception:
            self._built = None if self._built is building else self._built
            raise
        await app(scope, receive, send)
