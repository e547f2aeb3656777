"""Where the password of a login comes from, beside the DSN and what libpq reads: a file, a command, a cloud."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

from exporter.backoff import Backoff
from exporter.connections.off_loop import HANGING_FILE, OffLoop
from exporter.connections.secret_file import is_path, secret_in
from exporter.errors import SettingsError

COMMAND_SECONDS = 30.0
"""Time limit of a command that prints a password; a login waits for it no longer than for files."""

_LOOK_SECONDS = 0.05
"""Interval at which a command that is not done is looked at."""

_LAST_SECONDS = 1.0
"""Time for a command that was killed to be gone."""

AGAIN = Backoff(first=1.0, longest=60.0)
"""Pauses of a command that fails, or whose passwords are refused: it may be one that counts how often it is asked."""

_MOST_BYTES = 64 * 1024
"""Upper bound on what a command prints: tokens have a few kilobytes."""


class Credentials(Protocol):
    """Gives the password for a login."""

    async def password(self, server: Mapping[str, Any], patience: float) -> str:
        """Return the password; SettingsError says why there is none, and nothing of what was read.

        Args:
            server: host, port and user of the login.
            patience: seconds to wait for it.

        """

    def forget(self, refused: str) -> bool:
        """Forget a password that was refused; return whether another one may be had at once."""


class FromFile:
    """A password in a file, which is read for each login."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._calls = OffLoop()

    async def password(self, _: Mapping[str, Any], patience: float) -> str:
        """Read the file."""
        try:
            return await self._calls.call("password_file", lambda: secret_in(self._file, "password_file"), patience)
        except TimeoutError as error:
            raise SettingsError(f"{error}. {HANGING_FILE}") from None

    def forget(self, _: str) -> bool:
        """Return True: the file may have been written since it was read."""
        return True


class FromCommand:
    """A password that a command prints. It is kept for a while, or until it is refused.

    Args:
        arguments: program and arguments; no shell is involved.
        keep_seconds: seconds for which a password is kept.
        clock: monotonic time.

    """

    def __init__(
        self, arguments: Sequence[str], keep_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._arguments, self._keep, self._clock = tuple(arguments), keep_seconds, clock
        self._known: tuple[float, str] | None = None
        self._running: asyncio.Task[str] | None = None
        self._fails, self._refusals, self._why = _Rest(), _Rest(), ""

    async def password(self, _: Mapping[str, Any], patience: float) -> str:
        """Run the command, once for all who wait for it; one that takes longer is there for the next login."""
        if self._known and self._clock() - self._known[0] < self._keep:
            return self._known[1]
        if self._running is None or self._running.done():
            if self._clock() < self._fails.until:
                raise SettingsError(self._why)
            self._running = asyncio.create_task(self._run(), name="password_command")
            self._running.add_done_callback(_retrieve)
        running = self._running
        await asyncio.wait([running], timeout=patience)
        if not running.done():
            raise SettingsError(f"password_command: {self._arguments[0]}: has not ended within {patience:.1f} s.")
        return running.result()

    def forget(self, refused: str) -> bool:
        """Forget it, as it may have expired: at once, and then with pauses, where servers go on to refuse it.

        Several targets have it: where one of them has it printed again, the others take what comes.
        """
        now = self._clock()
        if self._known is None or self._known[1] != refused:
            return True
        if now < self._refusals.until:
            return False
        self._refusals.begin(now)
        self._known = None
        return True

    async def _run(self) -> str:
        started = self._clock()
        try:
            password = await _printed(self._arguments)
        except SettingsError as error:
            self._fails.begin(self._clock())
            self._why = str(error)
            raise
        self._known = started, password
        return password


class _Rest:
    """Pauses that grow from one to the next, and begin anew after a long one without."""

    def __init__(self) -> None:
        self.until = 0.0
        self._times = 0

    def begin(self, now: float) -> None:
        """Begin one."""
        self._times = 1 if now > self.until + AGAIN.longest else self._times + 1
        self.until = now + AGAIN.pause(self._times)


_COMMANDS: WeakValueDictionary[tuple[object, ...], FromCommand] = WeakValueDictionary()


def from_command(arguments: Sequence[str], keep_seconds: float) -> FromCommand:
    """Return what runs a command: the same for all targets that have it, so that it runs once for all of them."""
    key = (*arguments, keep_seconds)
    return _COMMANDS.get(key) or _COMMANDS.setdefault(key, FromCommand(arguments, keep_seconds))


def _retrieve(task: asyncio.Task[str]) -> None:
    """Retrieve the error of a command that nobody waits for any more; the next login runs it again."""
    if not task.cancelled():
        task.exception()


async def _printed(arguments: Sequence[str]) -> str:
    """Return what a command prints, less the newline at its end. Nothing of it is ever shown."""
    name = f"password_command: {arguments[0]}"
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "is no command"
        what = arguments[0] if is_path(Path(arguments[0])) else "its first word"  # which may be the password itself
        raise SettingsError(f"password_command: {what}: {why}. Name a program, with its path or in PATH.") from None
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            read, code = await _output(process)
    except TimeoutError:
        raise SettingsError(f"{name}: has not ended within {COMMAND_SECONDS:.0f} s, and was killed.") from None
    finally:
        await _end(process)
    if code:
        raise SettingsError(f"{name}: ended with exit code {code}. Run it by hand, as the same user, to see why.")
    try:
        password = read.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        password = ""
    if not password or len(read) > _MOST_BYTES or "\0" in password:
        raise SettingsError(f"{name}: printed no password: one to standard output, in UTF-8, is expected.")
    return password


async def _output(process: Process) -> tuple[bytes, int | None]:
    """Return what a process prints, up to one byte beyond the bound, and its exit code."""
    assert process.stdout  # noqa: S101  # asked for
    read = bytearray()
    reading = asyncio.create_task(_read(process.stdout, read), name="output of password_command")
    try:
        while not reading.done() and process.returncode is None:
            await asyncio.wait([reading], timeout=_LOOK_SECONDS)
        await asyncio.wait([reading], timeout=_LAST_SECONDS)  # a child may keep the output open, and print no more
        is_whole = reading.done() and len(read) <= _MOST_BYTES
        return bytes(read), await process.wait() if is_whole else process.returncode
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read(stream: asyncio.StreamReader, into: bytearray) -> None:
    while len(into) <= _MOST_BYTES and (piece := await stream.read(_MOST_BYTES + 1 - len(into))):
        into += piece


async def _end(process: Process) -> None:
    """Kill what is left of it, with whatever it has started as well."""
    assert process.stdout  # noqa: S101  # asked for
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(_LAST_SECONDS):
            while await process.stdout.read(_MOST_BYTES):  # asyncio learns of its end when all has been read
                pass
            await process.wait()
    except TimeoutError:  # a child that left its group keeps the pipe open
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  # asyncio has no other way
        await asyncio.sleep(0)  # closes the pipes, before the loop may be


class FromCloud:
    """A token that the library of a cloud signs or fetches, afresh for each login; the library keeps what it may.

    Args:
        name: what the setting calls it.
        token: gives the token for a server. Blocking.

    """

    def __init__(self, name: str, token: Callable[[Mapping[str, Any]], str]) -> None:
        self._name, self._token = name, token
        self._calls = OffLoop()

    async def password(self, server: Mapping[str, Any], patience: float) -> str:
        """Return a token, from a thread."""
        what = f"{self._name} of {server.get('host', '')}"
        try:
            return await self._calls.call(what, lambda: self._token(server), patience)
        except TimeoutError as error:
            raise SettingsError(f"password_source: {error}. Is its metadata service within reach?") from None
        except SettingsError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever these libraries raise
            why = f"{type(error).__name__}: {error}"
            raise SettingsError(f"password_source: {self._name}: no token: {why}") from None

    def forget(self, _: str) -> bool:
        """Return False: the token was made for the login that was refused."""
        return False
