"""The HTTP routes, nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from exporter import __version__
from exporter.exposition.compression import gzip_accepted
from exporter.exposition.negotiation import Format, negotiate
from exporter.exposition.page import Pages, page_of
from exporter.exposition.page_limit import limited
from exporter.exposition.process_metrics import process_families
from exporter.exposition.self_metrics import up_families
from exporter.kinds import PRODUCTS
from exporter.report import Report
from exporter.samples.model import Family
from exporter.scrape.target import Target
from exporter.settings import Settings
from exporter.watch.incidents import KINDS

_FIRST_LOGIN_SECONDS = 10.0
"""Timeout of the first login, in seconds: longer than most login timeouts, so the log has the server's reason."""

_TEMPLATES = Path(__file__).parent / "templates"


def create_app(targets: Mapping[str, Target], settings: Settings) -> FastAPI:
    """Serve one target (its name is empty) at `/metrics`, several at `/probe?target=NAME`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for target in targets.values():
            target.start()
        logins = [asyncio.create_task(target.ping(_FIRST_LOGIN_SECONDS)) for target in targets.values()]
        yield
        for login in logins:
            login.cancel()
        await asyncio.gather(*logins, return_exceptions=True)
        await asyncio.gather(*(target.close() for target in targets.values()), return_exceptions=True)

    app = FastAPI(title="pgvigil", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    routes = _Routes(targets, settings)
    for path, route in (
        ("/", routes.index),
        ("/collectors", routes.index),
        ("/metrics", routes.metrics),
        ("/probe", routes.probe),
        ("/statements", routes.statements),
        ("/incidents", routes.incidents),
        ("/incidents/{id}", routes.incident),
        ("/healthz", routes.alive),
        ("/readyz", routes.ready),
    ):
        # Plain routes without typed parameters or response models: metrics and HTML have no schema to check. Typed
        # routes add 2 to 3 MiB and 26 µs per request; FastAPI itself, over Starlette, adds 5.4 MiB and 0.25 s of CPU at
        # the start (FastAPI 0.165, Python 3.11).
        app.add_route(path, route, methods=["GET"])
    return app


class _Routes:
    """One method a route."""

    def __init__(self, targets: Mapping[str, Target], settings: Settings) -> None:
        self._targets = targets
        self._settings = settings
        self._pages = {name: Pages(settings.max_samples, settings.compatibility_names) for name in targets}
        self._writing: dict[str, float] = {}
        """Seconds to write each target's page after its collection: a decaying maximum of the last pages."""

    async def metrics(self, request: Request) -> Response:
        """Serve the one target with the exporter's own metrics; with several, who is up."""
        if "" in self._targets:
            return await self._scraped(request, "", process_families())
        reports = await self._of_all(lambda target: target.ping(self._seconds(request)))
        families = [family for name, report in reports.items() for family in up_families(report, {"target": name})]
        return _answer(request, lambda form, gzip: page_of([*families, *process_families()], form, gzip))

    async def probe(self, request: Request) -> Response:
        """Serve one of several targets, by its configured name; never a free address."""
        target = request.query_params.get("target", "")
        if target not in self._targets:
            return _unknown(target, self._targets)
        return await self._scraped(request, target)

    async def statements(self, request: Request) -> Response:
        """Show the statements of the last scrape with their normalised texts, for users."""
        target = request.query_params.get("target", "")
        if not target and "" not in self._targets:
            names = [name for name, each in self._targets.items() if each.kind == "postgresql"]
            return _html("statements_of.html", names=names)
        if target not in self._targets:
            return _unknown(target, self._targets)
        found = await self._targets[target].statements(self._seconds(request))
        return _html("statements.html", rows=found.statements, note=found.note, target=target)

    async def index(self, request: Request) -> Response:
        """Show how each collector did, when it runs next and why, as collected so far; what is down comes first."""
        reports = await self._of_all(lambda target: target.current(self._seconds(request)))
        down_first = sorted(reports.items(), key=lambda named: named[1].up)
        shown = {name: limited(report, self._settings.max_samples) for name, report in down_first}
        return _html("index.html", version=__version__, reports=shown, products=PRODUCTS)

    async def incidents(self, request: Request) -> Response:
        """List the recent incidents, for users; for programs as JSON."""
        found = [incident for target in self._targets.values() for incident in target.incidents]
        found.sort(key=lambda incident: incident.started, reverse=True)
        if _wants_json(request):
            return JSONResponse([incident.line() for incident in found])
        return _html("incidents.html", incidents=found, kinds=KINDS)

    async def incident(self, request: Request) -> Response:
        """Show one incident with all that was recorded of it."""
        wanted = request.path_params["id"]
        for target in self._targets.values():
            for incident in target.incidents:
                if incident.id == wanted:
                    if _wants_json(request):
                        return JSONResponse(incident.whole())
                    return _html("incident.html", incident=incident, kinds=KINDS)
        return PlainTextResponse(f"no incident is named {wanted!r}; those remembered are listed at /incidents\n", 404)

    async def alive(self, _: Request) -> Response:
        """The process lives: depends on nothing else, least of all on PostgreSQL."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """The process has read its settings and collectors and can be scraped."""
        return PlainTextResponse("ok\n")

    async def _of_all(self, ask: Callable[[Target], Awaitable[Report]]) -> dict[str, Report]:
        """Ask all targets at once."""
        return dict(zip(self._targets, await asyncio.gather(*map(ask, self._targets.values())), strict=True))

    async def _scraped(self, request: Request, name: str, process: Iterable[Family] = ()) -> Response:
        started, seconds = time.monotonic(), self._seconds(request)
        report = await self._targets[name].scrape(max(seconds - self._writing.get(name, 0.0), seconds / 2))
        pages = self._pages[name]
        answer = _answer(request, lambda form, gzip: pages.pieces(report, form, gzip, process))
        took = time.monotonic() - started - report.seconds
        self._writing[name] = max(took, 0.8 * self._writing.get(name, 0.0))
        return answer

    def _seconds(self, request: Request) -> float:
        """Return this scrape's timeout in seconds: the scraper's header, else the setting, less the offset."""
        try:
            said = float(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
        except ValueError:
            said = 0.0
        limit = said if 0 < said < 3600 else self._settings.scrape_timeout
        return max(limit - self._settings.scrape_timeout_offset, limit / 2)


class _Pieces(Response):
    """An answer whose body is sent in the pieces that it was made of, which other answers may share."""

    def __init__(self, pieces: Sequence[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "Content-Length": str(sum(map(len, pieces)))})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client that reads slowly holds up only this."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _answer(request: Request, write: Callable[[Format, bool], list[bytes]]) -> Response:
    form = negotiate(request.headers.get("Accept", ""))
    gzip = gzip_accepted(request.headers.get("Accept-Encoding", ""))
    headers = {"Content-Type": form.content_type, "Vary": "Accept, Accept-Encoding"}
    return _Pieces(write(form, gzip), headers | ({"Content-Encoding": "gzip"} if gzip else {}))


def _wants_json(request: Request) -> bool:
    """Return whether the client wants JSON: only browsers ask for HTML."""
    said = request.query_params.get("format")
    return said == "json" if said else "text/html" not in request.headers.get("Accept", "")


def _unknown(target: str, targets: Mapping[str, Target]) -> Response:
    only = "none by name: there is one target, at /metrics" if targets else "none"
    configured = ", ".join(filter(None, targets)) or only
    return PlainTextResponse(f"no target is named {target!r}; configured: {configured}\n", 404)


@cache
def _environment() -> Any:
    """Load the templates when the first user asks for a page: scrapers never do, and the library costs memory."""
    import jinja2

    return jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)


def _html(template: str, **values: Any) -> Response:
    return HTMLResponse(_environment().get_template(template).render(**values))
