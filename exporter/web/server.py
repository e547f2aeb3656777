"""Serves the targets over HTTP until it is stopped."""

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import uvicorn

from exporter import __version__
from exporter.assembly import catalog_of, targets_of
from exporter.errors import PortInUseError
from exporter.settings import Settings
from exporter.web.app import create_app
from exporter.web.clients import HEAD_BYTES, ClientProtocol, Clients, Limits, Seldom, connections_within, files_for
from exporter.web.garbage_collection import GarbageCollection

_log = logging.getLogger(__name__)

_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Signals that ask other programs to read their settings again, or to turn logs, and end those that expect none."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then answer who is still waiting, and stop."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    catalog = catalog_of(settings)
    for note in catalog.notes:
        _log.info("%s", note)
    targets = targets_of(settings, catalog)
    listener = _listener(settings)
    named = ", ".join(f"{name}={target.address}" if name else target.address for name, target in targets.items())
    _log.info("pgvigil %s listens on %s", __version__, settings.listen, extra={"targets": named or "none"})
    config = uvicorn.Config(
        create_app(targets, settings),
        log_config=None,
        access_log=False,
        http=ClientProtocol,
        h11_max_incomplete_event_size=HEAD_BYTES,
        loop="uvloop",
        ws="none",  # nobody speaks WebSocket here
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=120,  # longer than scrapes are apart, so that Prometheus keeps its connection
    )
    config.load()
    logging.getLogger("uvicorn.error").addFilter(Seldom())
    garbage = GarbageCollection()
    garbage.begin()
    signal.signal(signal.SIGTERM, _end)
    with listener, suppress(KeyboardInterrupt):  # uvicorn passes Ctrl-C and SIGTERM on when all has been answered
        _Server(config, _limits(settings), garbage).run(sockets=[listener])


def _end(*_: object) -> NoReturn:
    """End as after Ctrl-C: the last lines of the log are written, and an orderly end is no failure."""
    raise SystemExit(0)


def _say_ignored(number: signal.Signals) -> None:
    _log.warning(
        "%s is ignored: settings and collectors are read at the start. Restart to read them again", number.name
    )


def _limits(settings: Settings) -> Limits:
    """Leave the connections to the servers enough of the files that may be open, whatever clients do."""
    for_targets = len(settings.servers) * settings.max_connections_per_target
    return Limits(connections_within(files_for(for_targets), for_targets))


_TICK_SECONDS = 1.0
"""Seconds between two ticks while a client has a deadline, or the process works."""

_RESTING_SECONDS = 5.0
"""Seconds between two ticks otherwise, and so the most that the Date header is behind."""


class _Server(uvicorn.Server):
    """Ticks when there is a reason: uvicorn's ten ticks a second were most of an idle exporter's CPU."""

    def __init__(self, config: uvicorn.Config, limits: Limits, garbage: GarbageCollection) -> None:
        super().__init__(config)
        self._garbage = garbage
        self.server_state = self._clients = Clients(limits)
        self._exit = asyncio.Event()
        """Set by a signal to end."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and to say what comes of signals that would end other programs."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for number in _IGNORED:
            self._loop.add_signal_handler(number, _say_ignored, number)

    async def main_loop(self) -> None:
        """Keep the Date header fresh, drop clients that have had their time, and collect garbage, until it is over."""
        while not self.should_exit:
            await self.on_tick(0)
            is_waited_for = self._clients.drop_overdue(asyncio.get_running_loop().time())
            has_worked = self._garbage.step()
            await self._exit_within(_TICK_SECONDS if is_waited_for or has_worked else _RESTING_SECONDS)

    async def _exit_within(self, seconds: float) -> None:
        """Wait, but no longer than until a signal to end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._exit.wait(), seconds)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End at once, not at the next tick; a second Ctrl-C does not wait for those who are still answered."""
        super().handle_exit(sig, frame)
        if self._loop:
            self._loop.call_soon_threadsafe(self._exit.set)


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
