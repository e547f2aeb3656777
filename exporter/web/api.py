"""The API for programs, version 1: what the pages show, as JSON. Within a version fields are added, never changed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic_core import to_json
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.alert_rules import alert_rules
from exporter.diagnosis.situation import Situation
from exporter.history.historian import Historian
from exporter.history.summary import session_history, top_statements
from exporter.scrape.statement_list import StatementList
from exporter.settings import Settings
from exporter.web import asked
from exporter.web.activity import MEASURES, Past, past
from exporter.web.answers import (
    IncidentRecord,
    IncidentSummary,
    Problem,
    Runbook,
    RunbookSummary,
    TargetCollectors,
    TargetSessions,
    TargetStatements,
    TargetSummary,
)
from exporter.web.asked import Targets
from exporter.web.runbooks import markdown, runbooks
from exporter.web.scraper_routes import MOST_REPEATED, seconds_of

PREFIX = "/api/v1"

JSON_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of every answer as JSON: no copy of it is kept, and no browser takes it for a page."""

_TEXTS_MISSING = (
    "some texts are not known: they are read beside the scrapes while statement_text_length is not 0, and when"
    " /statements is opened"
)

Minutes = Annotated[int, Query(ge=1, le=24 * 60, description="Minutes before this one.")]
Target = Annotated[str, Query(description="Name of one target; all of them without it.")]


def router_of(targets: Targets, settings: Settings, historian: Historian) -> APIRouter:
    """Make the routes, each with the model of its answer; an error has a detail that says what to ask for instead."""
    api = _Api(targets, settings, historian)
    router = APIRouter(prefix=PREFIX, generate_unique_id_function=lambda route: route.name)
    missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "None has this name"}}
    router.get("/targets", response_model=list[TargetSummary], responses=missing)(api.targets)
    router.get("/now", response_model=list[Situation], responses=missing)(api.now)
    router.get("/statements", response_model=list[TargetStatements], responses=missing)(api.statements)
    router.get("/sessions/history", response_model=list[TargetSessions], responses=missing)(api.sessions)
    router.get("/incidents", response_model=list[IncidentSummary], responses=missing)(api.incidents)
    router.get("/incidents/{id}", response_model=IncidentRecord, responses=missing)(api.incident)
    router.get("/collectors", response_model=list[TargetCollectors], responses=missing)(api.collectors)
    router.get("/runbooks", response_model=list[RunbookSummary])(api.runbooks)
    router.get("/runbooks/{name}", response_model=Runbook, responses=missing)(api.runbook)
    return router


class _Api:
    """One method a route; its docstring is the description of the route.

    Answers are written in threads: FastAPI would write them in the event loop, which stops all targets meanwhile.
    """

    def __init__(self, targets: Targets, settings: Settings, historian: Historian) -> None:
        self._targets = targets
        self._settings = settings
        self._historian = historian

    async def targets(self, request: Request, target: Target = "") -> Response:
        """List the servers with the worst finding of each, the worst first."""
        chosen = self._chosen(target)
        found = await asked.situations(chosen, self._historian, seconds_of(request, self._settings))
        return await in_thread(lambda: [TargetSummary.of(now, chosen[now.target].kind) for now in found])

    async def now(self, request: Request, target: Target = "") -> Response:
        """Say what is wrong with each server, who is to blame and what helps; the worst server comes first."""
        found = await asked.situations(self._chosen(target), self._historian, seconds_of(request, self._settings))
        return await in_thread(lambda: found)

    async def statements(self, request: Request, target: Target = "") -> Response:
        """List the top statements of each PostgreSQL as last collected, those first that took most time."""
        chosen = {name: each for name, each in self._chosen(target).items() if target or each.kind == "postgresql"}
        await asked.known(chosen, seconds_of(request, self._settings))
        lists = {name: each.texts.known() for name, each in chosen.items()}
        return await in_thread(lambda: [_statements(name, found) for name, found in lists.items()])

    async def sessions(self, target: Target = "", minutes: Minutes = 60) -> Response:
        """Show the active sessions of each PostgreSQL minute by minute, who contributed, and the top statements."""
        names = [name for name, each in self._chosen(target).items() if target or each.kind == "postgresql"]
        known = await asyncio.gather(*(past(self._historian.of(name), minutes, minutes) for name in names))
        return await in_thread(lambda: [_sessions(name, of) for name, of in zip(names, known, strict=True)])

    async def incidents(self, target: Target = "") -> Response:
        """List the recent incidents, the newest first."""
        found = asked.incidents(self._chosen(target))
        return await in_thread(lambda: [*map(IncidentSummary.of, found)])

    async def incident(self, id: str) -> Response:  # noqa: A002  # the name in the path
        """Show one incident: its culprit, who waited for whom at its worst moment, and its snapshots."""
        found = asked.incident(self._targets, id)
        if not found:
            raise HTTPException(404, f"no incident is named {id!r}; those remembered are listed at {PREFIX}/incidents")
        return await in_thread(lambda: IncidentRecord.of(found))

    async def collectors(self, request: Request, target: Target = "") -> Response:
        """Show how each collector did, when it runs next and why; servers that are down come first."""
        seconds, chosen = seconds_of(request, self._settings), self._chosen(target)
        reports = await asked.known(chosen, seconds)
        return await in_thread(lambda: asked.collectors(chosen, reports, self._settings.max_samples))

    async def runbooks(self) -> Response:
        """List the alerts that have a runbook: all that a finding names."""
        return await in_thread(
            lambda: [RunbookSummary(name, alert_rules()[name].severity) for name in sorted(runbooks())]
        )

    async def runbook(self, name: str) -> Response:
        """Show the runbook of an alert."""
        if name not in runbooks():
            raise HTTPException(
                404, f"no alert is named {name[:MOST_REPEATED]!r}; all runbooks are listed at {PREFIX}/runbooks"
            )
        return await in_thread(lambda: Runbook(name, alert_rules()[name].severity, markdown(name)))

    def _chosen(self, target: str) -> Targets:
        """Return the targets that are asked for, as they are at this moment."""
        if not target:
            return dict(self._targets)
        if target not in self._targets:
            raise HTTPException(404, f"no target is named {target[:MOST_REPEATED]!r}; {self._named}")
        return {target: self._targets[target]}

    @property
    def _named(self) -> str:
        if "" in self._targets:
            return "there is one, without a name: leave out ?target="
        return f"configured: {', '.join(self._targets) or 'none'}"


def _sessions(target: str, of: Past) -> TargetSessions:
    top = top_statements(of.latest, of.before, MEASURES["time"])
    return TargetSessions(target, of.first, session_history(of.all), top, of.all.gauges, of.note)


def _statements(target: str, found: StatementList) -> TargetStatements:
    """Describe a list of statements, and say that texts are missing, which the page would have read."""
    said = TargetStatements.of(target, found)
    is_missing = any(not each.text and each.queryid.lstrip("-").isdecimal() for each in said.statements)
    return replace(said, note=_TEXTS_MISSING) if is_missing and not said.note else said


async def in_thread(make: Callable[[], object]) -> Response:
    """Make an answer and write it as JSON, in a thread; what is no number, such as infinity, is null."""
    body = await asyncio.to_thread(lambda: to_json(make(), inf_nan_mode="null"))
    return Response(body, media_type="application/json")


class ApiHeaders:
    """Adds JSON_HEADERS to all that is answered below `/api/`: errors and the OpenAPI document too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(JSON_HEADERS)
            await send(message)

        is_api = scope["type"] == "http" and scope["path"].startswith("/api/")
        await self._app(scope, receive, sent if is_api else send)
