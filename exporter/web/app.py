"""The HTTP application: scrapers are answered without FastAPI, which is imported when a user asks for a page."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter.history.historian import Historian
from exporter.reloads import Reloads
from exporter.samples.model import Family
from exporter.scrape.target import Target
from exporter.settings import Settings
from exporter.web.access import RELOAD, Access
from exporter.web.guard import Guard
from exporter.web.lifecycle import Lifecycle
from exporter.web.scraper_routes import ScraperRoutes


def create_app(
    targets: Mapping[str, Target],
    settings: Settings,
    guard: Guard | None = None,
    reloads: Reloads | None = None,
    of_server: Callable[[], Sequence[Family]] = list,
) -> Starlette:
    """Serve one target (its name is empty) at `/metrics`, several at `/probe?target=NAME`.

    Args:
        targets: the targets of the moment.
        settings: as read at the start.
        guard: tells whom to admit.
        reloads: changes the targets; None where they stay as they are.
        of_server: metrics of the HTTP server, for the page.

    """
    guard = guard or Guard(settings)
    historian = Historian(targets, settings)
    of_process = [historian.families, guard.families, of_server, *([reloads.families] if reloads else [])]
    also = lambda: [family for read in of_process for family in read()]  # noqa: E731
    scrapers = ScraperRoutes(targets, settings, also, lambda: reloads is None or reloads.is_complete)
    lifecycle = Lifecycle(targets, historian, guard, reloads)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await lifecycle.begin()
        yield
        await lifecycle.end()
        scrapers.close()

    def build() -> ASGIApp:
        from exporter.web.user_pages import create_user_app

        return create_user_app(targets, settings, scrapers, historian, partial(_failures, guard, reloads))

    direct = [Route(path, route, methods=["GET"]) for path, route in scrapers.by_path.items()]
    direct += [Route(RELOAD, partial(_reload, reloads, guard), methods=["GET", "POST", "PUT"])] if reloads else []
    access = Middleware(Access, guard=guard, for_scrapers=scrapers.by_path)
    return Starlette(routes=[*direct, Mount("", _AtFirstRequest(build))], middleware=[access], lifespan=lifespan)


def _failures(guard: Guard, reloads: Reloads | None) -> list[str]:
    """Say why configurations and sources of servers are not used as they are now."""
    return [*([guard.why] if guard.why else []), *(reloads.failures if reloads else [])]


async def _reload(reloads: Reloads, guard: Guard, request: Request) -> Response:
    """Read configuration, targets, collectors and the web configuration again; 500 says why they cannot be used."""
    if request.method not in ("POST", "PUT"):  # else it were a page that there is not
        return PlainTextResponse("a reload is asked for by POST or PUT\n", 405, {"Allow": "POST, PUT"})
    why = "\n".join(filter(None, [await guard.reload(), await reloads.reload()]))
    return PlainTextResponse(f"{why}\n", 500) if why else PlainTextResponse("read again\n")


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
