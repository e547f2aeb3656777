"""Puts the parts together as the settings say, and runs them."""

import asyncio
import ctypes
import gc
import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn

from exporter.app import create_app
from exporter.catalog import BUILT_IN, COMPATIBILITY, Catalog, load
from exporter.databases import Choice
from exporter.errors import PortInUseError, SettingsError
from exporter.postgres import Postgres
from exporter.scrape import Options, Target
from exporter.session import Connector
from exporter.settings import Connection, Settings
from exporter.watch import WatchOptions

if TYPE_CHECKING:
    from exporter.pgbouncer import PgBouncer

_log = logging.getLogger(__name__)

_CONSOLES = 2
"""Connections to the console of a PgBouncer at most, each of which counts there as a client."""


def catalog_of(settings: Settings) -> Catalog:
    """Load the built-in collectors, those of compatibility where asked for, and the user's, as the settings say."""
    compatible = [COMPATIBILITY] if settings.compatibility_names else []
    own = [settings.collectors_dir] if settings.collectors_dir else []
    return settings.applied_to(load(BUILT_IN, *compatible, *own, runs=settings.runs))


def targets_of(settings: Settings, catalog: Catalog) -> dict[str, Target]:
    """Make the targets by name; the only one of a plain configuration has the empty name."""
    return {
        name: Target(catalog, server_of(connection, settings), options_of(connection, settings), name)
        for name, connection in settings.servers
    }


def choice_of(connection: Connection, settings: Settings) -> Choice:
    """Look into the databases that a target's own patterns choose, else those of all targets."""
    return Choice(
        connection.include_databases or settings.include_databases,
        connection.exclude_databases or settings.exclude_databases,
    )


def options_of(connection: Connection, settings: Settings) -> Options:
    """Treat a target as the settings say; PgBouncer gets two connections and no looks between scrapes."""
    kind = connection.kind
    watch = WatchOptions(
        interval=settings.sample_interval,
        cost_budget=settings.cost_budget,
        lock_wait=settings.incident_lock_wait,
        connections=settings.incident_connections,
        literals=settings.incident_literals,
    )
    return Options(
        max_connections=settings.max_connections_per_target if kind == "postgresql" else _CONSOLES,
        last_good=settings.last_good,
        max_samples=settings.max_samples,
        databases=choice_of(connection, settings) if kind == "postgresql" else Choice(),
        cost_budget=settings.cost_budget,
        watch=watch if settings.sample_interval and kind == "postgresql" else None,
    )


def server_of(connection: Connection, settings: Settings) -> Connector:
    """Address one server of whatever kind."""
    return pgbouncer_of(connection, settings) if connection.kind == "pgbouncer" else postgres_of(connection, settings)


def pgbouncer_of(connection: Connection, settings: Settings) -> "PgBouncer":
    """Address one PgBouncer; its driver is loaded only here, so that nobody else needs it."""
    try:
        from exporter.pgbouncer import PgBouncer
    except ImportError as error:
        raise SettingsError(f"kind: pgbouncer needs a driver: pip install 'pgvigil[pgbouncer]' ({error})") from error
    password_file = connection.password_file or settings.password_file
    return PgBouncer(connection.dsn_file or connection.dsn, password_file, settings.connect_timeout)


def postgres_of(connection: Connection, settings: Settings) -> Postgres:
    """Address one server; its DSN may stand in a file."""
    password_file = connection.password_file or settings.password_file
    return Postgres(connection.dsn_file or connection.dsn, password_file, settings.connect_timeout)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then answer who is still waiting, and stop."""
    catalog = catalog_of(settings)
    for note in catalog.notes:
        _log.info("%s", note)
    listener = _listener(settings)
    config = uvicorn.Config(
        create_app(targets_of(settings, catalog), settings),
        log_config=None,
        access_log=False,
        http="httptools",
        loop="uvloop",
        ws="none",  # nobody speaks WebSocket here
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=120,  # longer than scrapes are apart, so that Prometheus keeps its connection
    )
    config.load()
    _give_back_memory()
    with listener, suppress(KeyboardInterrupt):  # uvicorn passes Ctrl-C on when all has been answered
        _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, but looking up once a second instead of ten times, which costs an idle exporter most of its CPU."""

    async def main_loop(self) -> None:
        """Keep the Date header fresh until it is time to stop."""
        while not self.should_exit:
            await self.on_tick(0)
            await asyncio.sleep(1)


def _listener(settings: Settings) -> socket.socket:
    host, port = settings.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise PortInUseError(
            f"cannot listen on {settings.listen}: {why}; set PGVIGIL_LISTEN to another address"
        ) from error


def _give_back_memory() -> None:
    """Return what importing and loading needed for a moment; what is left stays, so the collector may skip it."""
    gc.collect()
    gc.freeze()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another libc: nothing to give back
