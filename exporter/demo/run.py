"""Runs the demo: a shop whose server is in trouble, the exporter beside it, and a screen that shows what it finds."""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import uvicorn
from rich.console import Console

from exporter.assembly import catalog_of
from exporter.commands.now import Address, ask
from exporter.configuration import load_settings
from exporter.demo.cluster import SUPERUSER, free_port
from exporter.demo.display import display, say
from exporter.demo.provisioning import provision
from exporter.demo.scenarios.repertoire import scenario_of
from exporter.demo.scenarios.scene import BEGINS_AFTER, LASTS, Scenario, perform
from exporter.demo.screen import Line, lines
from exporter.demo.shop import MONITOR, Shop, new_shop
from exporter.demo.workload import everybody, usual
from exporter.diagnosis.situation import Situation
from exporter.errors import ExporterError, PortInUseError, ProvisioningError
from exporter.fleet import Fleet
from exporter.logs import configure
from exporter.settings import Settings
from exporter.web.app import create_app

LOOK_EVERY = 3.0
PAGE_SECONDS = 10.0
WHAT_GOES_WRONG = (
    "",
    "What is wrong just now, and how near the server is to its limits (Ctrl-C ends it all and removes it):",
    "",
)

# By default dead rows are counted once a minute and indexes judged less often, which is long for a user who watches.
COLLECTORS = json.dumps(
    {"table_vacuum": {"cache": 10}, "statements": {"cache": 5}, "indexes": {"cache": 10}, "index_advice": {"cache": 10}}
)


@dataclass(frozen=True)
class Grafana:
    """The folder that a Grafana is provisioned from, and the Prometheus that it asks."""

    folder: Path
    prometheus: str


def demo(listen: str, seconds: float | None, incident: str | None = None, grafana: Grafana | None = None) -> None:
    """Run until Ctrl-C, or for some seconds, and leave nothing behind but what was asked for Grafana."""
    asyncio.run(_demo(listen, seconds, scenario_of(incident) if incident else None, grafana))


async def _demo(listen: str, seconds: float | None, incident: Scenario | None, grafana: Grafana | None) -> None:
    stop, console = _told_to_stop(), Console()
    with tempfile.TemporaryDirectory(prefix="pgvigil-demo-") as folder:
        shop = new_shop(Path(folder), free_port())
        settings = _settings(listen, shop.dsn(MONITOR))
        configure(settings.log_format, "error")  # lesser things would tear up the screen
        with _listener(settings, console) as listener:
            provisioned = _provisioned(grafana, _place(_address(listener)))
            say(console, "Starting PostgreSQL ...")
            with shop.cluster:
                shop.furnish()
                if not incident:
                    shop.neglect()
                async with _exporter(settings, listener), _workload(_work(shop, incident, console)):
                    say(console, *_where_to_look(_address(listener), shop), *provisioned, *WHAT_GOES_WRONG)
                    say(console, *_what_is_played(incident))
                    await _watch(_address(listener), console, stop, seconds)
            say(console, "Stopped; nothing is left behind.")


def _told_to_stop() -> asyncio.Event:
    """Set by Ctrl-C and its like. Whatever runs then ends in its order, however often they come."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop


def _settings(listen: str, dsn: str) -> Settings:
    """The exporter is set up by variables, as anywhere; those that speak of another server are forgotten."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    os.environ |= {"PGVIGIL_DSN": dsn, "PGVIGIL_LISTEN": listen, "PGVIGIL_COLLECTORS": COLLECTORS}
    return load_settings()


def _listener(settings: Settings, console: Console) -> socket.socket:
    """Listen on the address of the settings or, when that is taken, on a free port of the same host."""
    host, port = settings.addresses[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise PortInUseError(
                f"cannot listen on {settings.listen}: {error.strerror}; choose another --listen"
            ) from error
        say(console, f"{settings.listen} is taken; the exporter gets a free port instead.")
        return socket.create_server((host, 0), family=family)


def _address(listener: socket.socket) -> tuple[str, int]:
    """Return the address to reach it from this machine."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104  # asked for by --listen


@asynccontextmanager
async def _exporter(settings: Settings, listener: socket.socket) -> AsyncIterator[None]:
    """Serve from a thread: beside the main one, uvicorn leaves the signals to the demo, which ends it last."""
    app = create_app(Fleet(settings, catalog_of(settings)), settings)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    serving = asyncio.create_task(asyncio.to_thread(server.run, [listener]))
    try:
        yield
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the end may cut off a page: nobody's fault
        server.should_exit = True
        await serving


def _work(shop: Shop, incident: Scenario | None, console: Console) -> list[Coroutine[Any, Any, None]]:
    """Return the work to run: the usual trouble, or the usual work and one incident."""
    if not incident:
        return everybody(shop)
    return [*usual(shop), perform(incident, shop, partial(say, console))]


def _what_is_played(incident: Scenario | None) -> list[str]:
    if not incident:
        return []
    plan = f"It begins in {BEGINS_AFTER:.0f} seconds and is cured {LASTS:.0f} seconds later. Look for:"
    return [f"Incident {incident.number}. {incident.title}", plan, *(f"  {line}" for line in incident.look_for), ""]


@asynccontextmanager
async def _workload(works: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()


def _where_to_look(address: tuple[str, int], shop: Shop) -> list[str]:
    place = _place(address)
    return [
        "",
        f"  http://{place}/            what is wrong now, who is to blame, and what helps",
        f"  http://{place}/metrics     the page that Prometheus reads",
        f"  http://{place}/statements  the statements with their texts",
        f"  http://{place}/incidents   who blocked whom while something was wrong",
        f"  http://{place}/collectors  how each collector did, and when it runs next",
        "",
        f"  prometheus.yml   scrape_configs: [{{job_name: postgresql, static_configs: [{{targets: ['{place}']}}]}}]",
        f"  the server       psql {shop.dsn(SUPERUSER)}",
    ]


def _place(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _provisioned(grafana: Grafana | None, place: str) -> list[str]:
    """Write what Grafana and Prometheus need, if asked to, and return how to start them."""
    if not grafana:
        return []
    try:
        *_, scraping = provision(grafana.folder, grafana.prometheus, place)
    except OSError as error:
        raise ProvisioningError(f"{error.filename or grafana.folder}: {error.strerror}") from error
    return [
        "",
        f"  prometheus --config.file={scraping}   (it is asked at {grafana.prometheus})",
        f"  GF_PATHS_PROVISIONING={scraping.parent} grafana server ...   or copy that folder into Grafana's own",
    ]


async def _watch(address: tuple[str, int], console: Console, stop: asyncio.Event, seconds: float | None) -> None:
    """Show what is wrong, again and again, until stopped or the time is over."""
    with display(console) as show, suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not stop.is_set():
                found = await asyncio.to_thread(_situation, address)
                show([*lines(found)] if found else [Line("exporter", "bad", "does not answer")])
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY)


def _situation(address: tuple[str, int]) -> Situation | None:
    """Ask for the page as Prometheus does, then for what is wrong; None when there is no answer."""
    prometheus = HTTPConnection(*address, timeout=PAGE_SECONDS)
    try:
        prometheus.request("GET", "/metrics")
        prometheus.getresponse().read()
        [found] = ask(Address.of(f"http://{_place(address)}"))
    except (OSError, HTTPException, ExporterError):
        return None
    finally:
        prometheus.close()
    return found
