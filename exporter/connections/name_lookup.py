"""Looks up the addresses of hosts: each name off the loop, one look-up at a time, its last answer remembered.

The look-up is the system's, so /etc/hosts and nsswitch.conf count. uvloop has four threads for all names of a process.
Which of several hosts is taken is the driver's choice.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from exporter.connections.off_loop import OffLoop

REMEMBERED_SECONDS = 1.0
"""Timeout of DNS for a name with a cached address, in seconds: after it the cached one is used."""


class Addresses:
    """The addresses of the hosts of one target."""

    def __init__(self, off_loop: OffLoop) -> None:
        self._off_loop = off_loop
        self._known: dict[str, Sequence[str]] = {}

    async def of(self, host: str, timeout: float) -> Sequence[str]:
        """Return the addresses of a host, in the order to try them; OSError for none, TimeoutError for none in time.

        While DNS does not answer they are those that it gave last. That a name is gone is an answer.
        """
        if _is_address(host):
            return [host]
        known = self._known.get(host)
        try:
            found = await self._off_loop.call(
                f"the address of {host}", lambda: _look_up(host), REMEMBERED_SECONDS if known else timeout
            )
        except OSError as error:
            if known and (isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN):
                return known
            raise
        self._known[host] = found
        return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _look_up(host: str) -> Sequence[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        os.close(os.dup(0))  # OSError that says so when the reason is that we may open no more files
        raise socket.gaierror(error.errno, f"{host}: {error.strerror}") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class ResolvingLoop:
    """The running loop as asyncpg uses it, but for its look-ups of names. A certificate is held against the name.

    Args:
        addresses: those of the target.
        timeout: seconds for a look-up.
        share: seconds for all addresses of a host but the last: one of them may be silent.
        only: the address to connect to; all of a host by default.

    """

    def __init__(self, addresses: Addresses, timeout: float, share: float, only: str = "") -> None:
        self._loop = asyncio.get_running_loop()
        self._addresses = addresses
        self._timeout = timeout
        self._share = share
        self._only = only
        self.address = ""
        """Address of the latest connection."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, **options: Any) -> Any:
        """Connect to the first address of a host that takes the connection."""
        if options.get("ssl"):
            options = {"server_hostname": host, **options}
        errors: list[OSError] = []
        addresses = [self._only] if self._only else await self._addresses.of(host, self._timeout)
        for i, address in enumerate(addresses, 1):
            try:
                async with asyncio.timeout(self._share / len(addresses) if i < len(addresses) else None):
                    made = await self._loop.create_connection(factory, address, port, **options)
                    self.address = address
                    return made
            except ssl.SSLError:
                raise
            except OSError as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        raise OSError(f"Multiple exceptions: {', '.join(map(str, errors))}")
