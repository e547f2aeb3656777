"""The application of FastAPI: every route, and the pages for users; imported when the first of them is asked for."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from markupsafe import Markup
from starlette.staticfiles import StaticFiles

from exporter import __version__
from exporter.diagnosis.findings import duration
from exporter.diagnosis.recorded import earlier, recorded
from exporter.history.historian import Historian
from exporter.scrape.target import Target
from exporter.settings import Settings
from exporter.watch.incidents import KINDS
from exporter.web import asked
from exporter.web.activity import Choice, activity
from exporter.web.answers import TargetStatements
from exporter.web.api import JSON_HEADERS, PREFIX, ApiHeaders, in_thread, router_of
from exporter.web.incident_chart import incident_chart
from exporter.web.runbooks import runbook, runbooks
from exporter.web.scraper_routes import MOST_REPEATED, Endpoint, ScraperRoutes, of_all, seconds_of, unknown

_TEMPLATES = Path(__file__).parent / "templates"
_STATIC = Path(__file__).parent / "static"

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every page: only what we ship runs on it, and no copy of it is kept."""


def create_user_app(
    targets: Mapping[str, Target],
    settings: Settings,
    scrapers: ScraperRoutes,
    historian: Historian,
    failures: Callable[[], Sequence[str]] = list,
) -> FastAPI:
    """Serve the pages for users, and the scrapers' routes for requests that are not answered without FastAPI.

    Args:
        targets: the targets of the moment.
        settings: as read at the start.
        scrapers: the routes for scrapers.
        historian: keeps the history of the targets.
        failures: says why configuration and sources of servers are not used as they are now.

    """
    app = FastAPI(title="pgvigil", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)

    async def document(_: Request) -> Response:
        return await in_thread(app.openapi)

    routes = _UserRoutes(targets, settings, historian, failures)
    for path, route in {**routes.by_path, **scrapers.by_path}.items():
        # Plain routes without typed parameters or response models: HTML has no schema to check.
        app.add_route(path, route, methods=["GET"])
    app.include_router(router_of(targets, settings, historian))
    app.add_route(f"{PREFIX}/openapi.json", document)
    app.add_middleware(ApiHeaders)
    app.mount("/static", StaticFiles(directory=_STATIC))
    return app


_MOST_EARLIER = 10
"""Upper bound on the earlier incidents of the same culprit that are listed."""

_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks of direction, by which a name could change how the rest of its line reads."""


def _visible(value: Any) -> Any:
    """Write out marks of direction: names and texts are data."""
    if isinstance(value, str) and not isinstance(value, Markup) and _DIRECTIONS.search(value):
        return _DIRECTIONS.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    return value


class _UserRoutes:
    """One method a route."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        settings: Settings,
        historian: Historian,
        failures: Callable[[], Sequence[str]],
    ) -> None:
        self._targets = targets
        self._settings = settings
        self._historian = historian
        loader = jinja2.FileSystemLoader(_TEMPLATES)
        self._templates = jinja2.Environment(loader=loader, autoescape=True, finalize=_visible)
        self._templates.globals |= {"duration": duration, "failures": failures}

    @property
    def by_path(self) -> dict[str, Endpoint]:
        """The routes by their path."""
        return {
            "/": self.now,
            "/collectors": self.collectors,
            "/runbooks/{name}": self.runbook,
            "/statements": self.statements,
            "/incidents": self.incidents,
            "/incidents/{id}": self.incident,
        }

    async def statements(self, request: Request) -> Response:
        """Show the statements of the last scrape with their normalised texts, for users."""
        target = request.query_params.get("target", "")
        if not target and "" not in self._targets:
            names = [name for name, each in self._targets.items() if each.kind == "postgresql"]
            return self._html("statements_of.html", names=names)
        if target not in self._targets:
            return unknown(target, self._targets)
        found = await self._targets[target].statements(seconds_of(request, self._settings))
        return self._html("statements.html", listed=TargetStatements.of(target, found))

    async def now(self, request: Request) -> Response:
        """Show what is wrong now, whose fault it is and what helps; of several servers, which is the worst."""
        target = request.query_params.get("target", "")
        is_choice = not target and "" not in self._targets
        if not is_choice and target not in self._targets:
            return unknown(target, self._targets)
        chosen = self._targets if is_choice else {target: self._targets[target]}
        found = await asked.situations(chosen, self._historian, seconds_of(request, self._settings))
        if is_choice:
            return self._html("targets.html", situations=found)
        clock = datetime.now(UTC).strftime("%H:%M:%S")
        here = f"./?{request.url.query}" if request.url.query else "./"
        past = await activity(self._historian.of(target), Choice.of_query(request.query_params))
        return self._html("now.html", now=found[0], clock=clock, here=here, past=past, target=target)

    async def runbook(self, request: Request) -> Response:
        """Show the runbook of an alert."""
        name = request.path_params["name"]
        if name not in runbooks():
            return PlainTextResponse(f"no alert is named {name[:MOST_REPEATED]!r}\n", 404)
        return self._html("runbook.html", root="../", name=name, text=Markup(runbook(name, request.query_params)))  # noqa: S704  # ours

    async def collectors(self, request: Request) -> Response:
        """Show how each collector did, when it runs next and why, as collected so far; what is down comes first."""
        seconds, targets = seconds_of(request, self._settings), dict(self._targets)
        reports = await of_all(targets, lambda target: target.current(seconds))

        def page() -> Response:
            servers = asked.collectors(targets, reports, self._settings.max_samples)
            return self._html("collectors.html", version=__version__, servers=servers)

        return await asyncio.to_thread(page)  # hundreds of databases take a second

    async def incidents(self, request: Request) -> Response:
        """List the recent incidents, for users; for programs as JSON."""
        found = asked.incidents(self._targets)
        if _wants_json(request):
            return JSONResponse([incident.line() for incident in found], headers=JSON_HEADERS)

        def page() -> Response:
            return self._html("incidents.html", incidents=[(each, recorded(each)) for each in found])

        return await asyncio.to_thread(page)  # a day may have hundreds

    async def incident(self, request: Request) -> Response:
        """Show one incident with all that was recorded of it."""
        wanted = request.path_params["id"]
        incident = asked.incident(self._targets, wanted)
        if not incident:
            missing = f"no incident is named {wanted!r}; those remembered are listed at /incidents\n"
            return PlainTextResponse(missing, 404)
        if _wants_json(request):
            return JSONResponse(incident.whole(), headers=JSON_HEADERS)

        def page() -> Response:
            before = earlier(incident, asked.incidents(self._targets))[:_MOST_EARLIER]
            values = {"incident": incident, "told": recorded(incident), "kinds": KINDS, "earlier": before}
            return self._html("incident.html", root="../", course=incident_chart(incident), **values)

        return await asyncio.to_thread(page)

    def _html(self, template: str, *, root: str = "", **values: Any) -> Response:
        """Render a page; links of a page below the first level need the way up to the root."""
        return HTMLResponse(self._templates.get_template(template).render(root=root, **values), headers=_HEADERS)


def _wants_json(request: Request) -> bool:
    """Return whether the client wants JSON: only browsers ask for HTML."""
    said = request.query_params.get("format")
    return said == "json" if said else "text/html" not in request.headers.get("Accept", "")
