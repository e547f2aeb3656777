"""The routes of scrapers and of the probes of a platform: none of them needs FastAPI."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from exporter.exposition.compression import gzip_accepted
from exporter.exposition.negotiation import Format, negotiate
from exporter.exposition.page import Pages, page_of
from exporter.exposition.process_metrics import process_families
from exporter.exposition.self_metrics import up_families
from exporter.report import Report
from exporter.samples.model import Family
from exporter.scrape.target import Target
from exporter.settings import Settings
from exporter.web.service_discovery import ServiceDiscovery

Endpoint = Callable[[Request], Awaitable[Response]]

_MANY_SAMPLES = 5_000
"""Samples from which a page is written in a thread: more would stop the event loop, and so all targets, too long."""

_OWN_SAMPLES = 10
"""Own samples about each collector in each database, which are written anew for each page."""


class ScraperRoutes:
    """One method a route."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        settings: Settings,
        also: Callable[[], Sequence[Family]] = list,
        is_complete: Callable[[], bool] = lambda: True,
    ) -> None:
        self._targets = targets
        self._also = also
        """Families of this process beside those of every Prometheus client."""
        self._settings = settings
        self._discovery = ServiceDiscovery(targets, is_complete)
        self._writers = WeakKeyDictionary[Target, _Writer]()
        self._thread = ThreadPoolExecutor(1, "pages")

    @property
    def by_path(self) -> dict[str, Endpoint]:
        """The routes by their path."""
        return {
            "/metrics": self.metrics,
            "/probe": self.probe,
            "/sd": self.service_discovery,
            "/healthz": self.alive,
            "/readyz": self.ready,
            "/primary": self.primary,
            "/replica": self.replica,
        }

    async def metrics(self, request: Request) -> Response:
        """Serve the one target with the exporter's own metrics; with several, who is up."""
        if "" in self._targets:
            return await self._scraped(request, "", [*process_families(), *self._also()])
        seconds = seconds_of(request, self._settings)
        reports = await of_all(self._targets, lambda target: target.ping(seconds))
        families = [family for name, report in reports.items() for family in up_families(report, {"target": name})]
        families += [*process_families(), *self._also()]
        return _answer(request, lambda form, gzip: page_of(families, form, gzip))

    async def probe(self, request: Request) -> Response:
        """Serve one of several targets, by its configured name; never a free address."""
        target = request.query_params.get("target", "")
        if target not in self._targets:
            return unknown(target, self._targets)
        return await self._scraped(request, target)

    async def service_discovery(self, request: Request) -> Response:
        """List the targets as `http_sd_configs` of Prometheus has it."""
        place = request.headers.get("Host", "")[:_LONGEST_PLACE] or f"{request.url.hostname}:{request.url.port}"
        groups = await self._discovery.groups(place, request.url.scheme, seconds_of(request, self._settings))
        if groups is None:
            return PlainTextResponse("some servers have not answered yet; ask again\n", 503)
        return JSONResponse(groups)

    async def alive(self, _: Request) -> Response:
        """The process lives: depends on nothing else, least of all on PostgreSQL."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """The process has read its settings and collectors and can be scraped."""
        return PlainTextResponse("ok\n")

    async def primary(self, request: Request) -> Response:
        """Say whether a server answers and is no standby, as a load balancer asks: by the status."""
        return await self._in_role(request, in_recovery=False)

    async def replica(self, request: Request) -> Response:
        """Say whether a server answers and is a standby, as a load balancer asks: by the status."""
        return await self._in_role(request, in_recovery=True)

    async def _in_role(self, request: Request, *, in_recovery: bool) -> Response:
        name = request.query_params.get("target", "")
        if name not in self._targets:
            return unknown(name, self._targets)
        report = await self._targets[name].ping(seconds_of(request, self._settings))
        found = {None: "unknown", True: "replica", False: "primary"}[report.in_recovery]
        is_so = report.up and report.in_recovery is in_recovery
        return PlainTextResponse(f"{found if report.up else report.down_reason}\n", 200 if is_so else 503)

    async def _scraped(self, request: Request, name: str, process: Iterable[Family] = ()) -> Response:
        started, seconds = time.monotonic(), seconds_of(request, self._settings)
        target = self._targets[name]
        if (writer := self._writers.get(target)) is None:
            pages = Pages(self._settings.max_samples, self._settings.compatibility_names)
            writer = self._writers[target] = _Writer(pages)
        report = await target.scrape(max(seconds - writer.seconds, seconds / 2))
        target.texts.read_newcomers()
        async with writer.lock:
            answer = await self._worked(
                report, lambda: _answer(request, lambda form, gzip: writer.pages.pieces(report, form, gzip, process))
            )
        took = time.monotonic() - started - report.seconds
        writer.seconds = max(took, 0.8 * writer.seconds)
        return answer

    async def _worked(self, report: Report, write: Callable[[], Response]) -> Response:
        """Write a page; a large one in a thread, beside the event loop."""
        samples = sum(job.samples.size for job in report.jobs if job.samples)
        if samples + _OWN_SAMPLES * len(report.jobs) < _MANY_SAMPLES:
            return write()
        return await asyncio.get_running_loop().run_in_executor(self._thread, write)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)


@dataclass
class _Writer:
    """Writes the pages of one target, one after another: each continues the one before."""

    pages: Pages
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    seconds: float = 0.0
    """Seconds to write a page after its collection: a decaying maximum of the last pages."""


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


async def of_all(targets: Mapping[str, Target], ask: Callable[[Target], Awaitable[Report]]) -> dict[str, Report]:
    """Ask all targets at once."""
    targets = dict(targets)
    return dict(zip(targets, await asyncio.gather(*map(ask, targets.values())), strict=True))


def seconds_of(request: Request, settings: Settings) -> float:
    """Return this request's timeout in seconds: the scraper's header, else the setting, less the offset."""
    try:
        said = float(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        said = 0.0
    limit = said if 0 < said < 3600 else settings.scrape_timeout
    return max(limit - settings.scrape_timeout_offset, limit / 2)


MOST_REPEATED = 100
"""Characters of a wrong name that an answer repeats."""

_LONGEST_PLACE = 300
"""Characters of host and port that a list repeats."""


def unknown(target: str, targets: Mapping[str, Target]) -> Response:
    """Say that no target has this name, and which names there are."""
    only = "none by name: there is one target, at /metrics" if targets else "none"
    configured = ", ".join(filter(None, targets)) or only
    what = f"no target is named {target[:MOST_REPEATED]!r}" if target else "name a target with ?target="
    return PlainTextResponse(f"{what}; configured: {configured}\n", 404)
