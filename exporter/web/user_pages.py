"""The application of FastAPI: every route, and the pages for users; imported when the first of them is asked for."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from exporter import __version__
from exporter.exposition.page_limit import limited
from exporter.kinds import PRODUCTS
from exporter.scrape.target import Target
from exporter.settings import Settings
from exporter.watch.incidents import KINDS
from exporter.web.scraper_routes import Endpoint, ScraperRoutes, of_all, seconds_of, unknown

_TEMPLATES = Path(__file__).parent / "templates"


def create_user_app(targets: Mapping[str, Target], settings: Settings, scrapers: ScraperRoutes) -> FastAPI:
    """Serve the pages for users, and the scrapers' routes for requests that are not answered without FastAPI."""
    app = FastAPI(title="pgvigil", docs_url=None, redoc_url=None, openapi_url=None)
    for path, route in {**_UserRoutes(targets, settings).by_path, **scrapers.by_path}.items():
        # Plain routes without typed parameters or response models: HTML has no schema to check.
        app.add_route(path, route, methods=["GET"])
    return app


class _UserRoutes:
    """One method a route."""

    def __init__(self, targets: Mapping[str, Target], settings: Settings) -> None:
        self._targets = targets
        self._settings = settings
        self._templates = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)

    @property
    def by_path(self) -> dict[str, Endpoint]:
        """The routes by their path."""
        return {
            "/": self.index,
            "/collectors": self.index,
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
        return self._html("statements.html", rows=found.statements, note=found.note, target=target)

    async def index(self, request: Request) -> Response:
        """Show how each collector did, when it runs next and why, as collected so far; what is down comes first."""
        seconds = seconds_of(request, self._settings)
        reports = await of_all(self._targets, lambda target: target.current(seconds))
        down_first = sorted(reports.items(), key=lambda named: named[1].up)
        shown = {name: limited(report, self._settings.max_samples) for name, report in down_first}
        values = {"version": __version__, "reports": shown, "products": PRODUCTS}
        return await asyncio.to_thread(self._html, "index.html", **values)  # hundreds of databases take a second

    async def incidents(self, request: Request) -> Response:
        """List the recent incidents, for users; for programs as JSON."""
        found = [incident for target in self._targets.values() for incident in target.incidents]
        found.sort(key=lambda incident: incident.started, reverse=True)
        if _wants_json(request):
            return JSONResponse([incident.line() for incident in found])
        return self._html("incidents.html", incidents=found, kinds=KINDS)

    async def incident(self, request: Request) -> Response:
        """Show one incident with all that was recorded of it."""
        wanted = request.path_params["id"]
        for target in self._targets.values():
            for incident in target.incidents:
                if incident.id == wanted:
                    if _wants_json(request):
                        return JSONResponse(incident.whole())
                    return self._html("incident.html", incident=incident, kinds=KINDS)
        return PlainTextResponse(f"no incident is named {wanted!r}; those remembered are listed at /incidents\n", 404)

    def _html(self, template: str, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(**values))


def _wants_json(request: Request) -> bool:
    """Return whether the client wants JSON: only browsers ask for HTML."""
    said = request.query_params.get("format")
    return said == "json" if said else "text/html" not in request.headers.get("Accept", "")
