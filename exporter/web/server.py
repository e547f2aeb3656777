"""Serves the targets over HTTP until it is stopped."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from exporter import __version__
from exporter.assembly import catalog_of
from exporter.errors import PortInUseError
from exporter.fleet import Fleet
from exporter.reloads import Reloads
from exporter.settings import Settings
from exporter.web.access import CERTIFIED
from exporter.web.app import create_app
from exporter.web.clients import HEAD_BYTES, ClientProtocol, Clients, Limits, Seldom, connections_within, files_for
from exporter.web.garbage_collection import GarbageCollection
from exporter.web.guard import Guard

if TYPE_CHECKING:
    from exporter.web.tls import ServerTls
    from exporter.web.tls_gate import TlsGate

_log = logging.getLogger(__name__)

_IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Signals that ask other programs to turn logs, say, and end those that expect none."""


def serve(settings: Settings, file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then answer who is still waiting, and stop.

    Args:
        settings: as they were read at the start.
        file: the configuration file, which is read again when it changes.

    """
    for number in (signal.SIGHUP, *_IGNORED):
        signal.signal(number, signal.SIG_IGN)
    catalog = catalog_of(settings)
    for note in catalog.notes:
        _log.info("%s", note)
    targets = Fleet(settings, catalog)
    reloads = Reloads(targets, settings, catalog, file)
    guard = Guard(settings)
    limits = partial(_limits, targets, settings.max_connections_per_target)
    clients = Clients(limits())
    listeners = _handed_over() or _listeners(settings.addresses)
    named = ", ".join(f"{name}={target.address}" if name else target.address for name, target in targets.items())
    places = ", ".join(map(_place, listeners))
    _log.info("pgvigil %s listens on %s", __version__, places, extra={"targets": named or "none"})
    config = _config(create_app(targets, settings, guard, reloads, clients.families), guard)
    logging.getLogger("uvicorn.error").addFilter(Seldom())
    garbage = GarbageCollection()
    garbage.begin()
    signal.signal(signal.SIGTERM, _end)
    with (
        ExitStack() as stack,
        suppress(KeyboardInterrupt),
    ):  # uvicorn passes Ctrl-C and SIGTERM on when all has been answered
        for listener in listeners:
            stack.enter_context(listener)
        _Server(config, clients, limits, garbage, reloads).run(sockets=listeners)


def _config(app: ASGIApp, guard: Guard) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=ClientProtocol,
        h11_max_incomplete_event_size=HEAD_BYTES,
        loop="uvloop",
        ws="none",  # nobody speaks WebSocket here
        server_header=False,
        proxy_headers=False,  # whoever is on this machine could call himself another
        timeout_graceful_shutdown=10,
        timeout_keep_alive=120,  # longer than scrapes are apart, so that Prometheus keeps its connection
    )
    config.load()
    if guard.tls:
        config.http_protocol_class = partial(_behind_tls, guard, guard.tls)  # type: ignore[assignment]  # makes one
    return config


def _behind_tls(
    guard: Guard, tls: "ServerTls", *, server_state: Clients, app_state: dict[str, Any], **how: Any
) -> "TlsGate":
    """Make the protocol of a connection that begins with TLS."""
    from exporter.web.tls_gate import TlsGate

    def refuse() -> None:
        guard.refused["tls"] += 1

    def make(is_certified: bool) -> ClientProtocol:
        state = {**app_state, CERTIFIED: is_certified}
        return ClientProtocol(server_state=server_state, app_state=state, **how)

    return TlsGate(tls.connection(), make, server_state, refuse, verifies=tls.verifies)


def _end(*_: object) -> NoReturn:
    """End as after Ctrl-C: the last lines of the log are written, and an orderly end is no failure."""
    raise SystemExit(0)


def _say_ignored(number: signal.Signals) -> None:
    _log.warning("%s is ignored. SIGHUP has the configuration read again", number.name)


def _limits(targets: Fleet, connections: int) -> Limits:
    """Leave the connections to the servers enough of the files that may be open, whatever clients do."""
    for_targets = len(targets) * connections
    return Limits(connections_within(files_for(for_targets), for_targets))


_TICK_SECONDS = 1.0
"""Seconds between two ticks while a client has a deadline, or the process works."""

_RESTING_SECONDS = 5.0
"""Seconds between two ticks otherwise, and so the most that the Date header is behind."""


class _Server(uvicorn.Server):
    """Ticks when there is a reason: uvicorn's ten ticks a second were most of an idle exporter's CPU."""

    def __init__(
        self,
        config: uvicorn.Config,
        clients: Clients,
        limits: Callable[[], Limits],
        garbage: GarbageCollection,
        reloads: Reloads,
    ) -> None:
        super().__init__(config)
        self._garbage, self._reloads = garbage, reloads
        self._limits = limits
        self.server_state = self._clients = clients
        self._exit = asyncio.Event()
        """Set by a signal to end."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and to say what comes of signals that would end other programs."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._loop.add_signal_handler(signal.SIGHUP, self._reloads.ask)
        for number in _IGNORED:
            self._loop.add_signal_handler(number, _say_ignored, number)

    async def main_loop(self) -> None:
        """Keep the Date header fresh, drop clients that have had their time, and collect garbage, until it is over."""
        while not self.should_exit:
            await self.on_tick(0)
            self._clients.limits = self._limits()  # targets may have come
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


def _place(listener: socket.socket) -> str:
    name = listener.getsockname()
    host, port = name[:2] if isinstance(name, tuple) else (name, 0)
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


_FIRST_SOCKET = 3


def _handed_over() -> list[socket.socket]:
    """Take the sockets that systemd listens on for us (sd_listen_fds); none where it does not."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "0")
    return [socket.socket(fileno=_FIRST_SOCKET + number) for number in range(int(count) if count.isdecimal() else 0)]


def _listeners(addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """Listen on each address; `::` takes IPv4 as well, as exporters in Go have it, unless that has its own."""
    both = {port for host, port in addresses if host == "::" and socket.has_dualstack_ipv6()}
    both -= {port for host, port in addresses if ":" not in host}
    return [_listener(host, port, both=host == "::" and port in both) for host, port in addresses]


def _listener(host: str, port: int, *, both: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=both)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise PortInUseError(f"cannot listen on {host}:{port}: {why}; set PGVIGIL_LISTEN to another address") from error
