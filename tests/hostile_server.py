"""A server that speaks PostgreSQL's protocol in bad faith, as it is told to, until its client leaves."""

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

Behaviour = Callable[[Stream], Awaitable[None]]

ROW_DESCRIPTION = struct.pack("!H", 1) + b"n\0" + struct.pack("!IhIhih", 0, 0, 23, 4, -1, 0)
"""One column `n`, an integer."""

ROWS = 4096
"""Rows that are sent in one piece."""


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Write one message."""
    return kind + struct.pack("!I", len(body) + 4) + body


def request(code: int, rest: bytes = b"") -> bytes:
    """Ask for authentication; code 0 asks for nothing more."""
    return message(b"R", struct.pack("!I", code) + rest)


READY = message(b"Z", b"I")

WELCOME = b"".join(
    (
        request(0),
        message(b"S", b"server_version\00018.0\0"),
        message(b"S", b"server_encoding\0UTF8\0"),
        message(b"S", b"client_encoding\0UTF8\0"),
        message(b"K", struct.pack("!II", 4711, 1)),
        READY,
    )
)

ROW = message(b"D", struct.pack("!HI", 1, 4) + struct.pack("!I", 7))


async def read_startup(stream: Stream) -> None:
    """Read the first message; a request for TLS is declined."""
    reader, writer = stream
    while True:
        [length] = struct.unpack("!I", await reader.readexactly(4))
        if (await reader.readexactly(length - 4))[:4] != struct.pack("!I", 80877103):
            return
        writer.write(b"N")


async def _flood(stream: Stream, piece: bytes) -> None:
    while True:
        stream[1].write(piece)
        await stream[1].drain()


async def _answer(stream: Stream, answer: Callable[[], bytes], pause: float = 0.0) -> None:
    """Let the client in, answer a simple query as PostgreSQL would, and any other one with this, again and again."""
    reader, writer = stream
    writer.write(WELCOME)
    while True:
        kind, length = struct.unpack("!cI", await reader.readexactly(5))
        await reader.readexactly(length - 4)
        if kind == b"Q":
            writer.write(message(b"C", b"SELECT 1\0") + READY)
        if kind == b"D":
            writer.write(message(b"1") + message(b"t", b"\0\0") + message(b"T", ROW_DESCRIPTION))
        if kind == b"E":
            writer.write(message(b"2"))
            while True:
                writer.write(answer())
                await writer.drain()
                await asyncio.sleep(pause)


async def _scram(stream: Stream, iterations: int, challenges: int) -> None:
    reader, writer = stream
    writer.write(request(10, b"SCRAM-SHA-256\0\0"))
    _, length = struct.unpack("!cI", await reader.readexactly(5))
    nonce = (await reader.readexactly(length - 4)).rpartition(b"r=")[2]
    challenge = b"r=" + nonce + b"x,s=" + b"c2FsdA==" + b",i=%d" % iterations
    writer.write(request(11, challenge) * challenges)
    await reader.read()


async def scram_without_end(stream: Stream) -> None:
    """Ask for two billion iterations."""
    await _scram(stream, 2_000_000_000, 1)


async def scram_again_and_again(stream: Stream) -> None:
    """Ask for as many iterations as are allowed, a hundred times."""
    await _scram(stream, 1_000_000, 100)


async def a_login_of_a_gigabyte(stream: Stream) -> None:
    """Announce a message of a gigabyte, and send it."""
    stream[1].write(b"R" + struct.pack("!I", 2**30))
    await _flood(stream, b"\0" * 65536)


async def a_login_without_end(stream: Stream) -> None:
    """Send settings without end."""
    await _flood(stream, message(b"S", b"a\0b\0") * ROWS)


async def rows_without_end(stream: Stream) -> None:
    """Send rows without end in answer to any query."""
    await _answer(stream, lambda: ROW * ROWS)


async def a_console_without_end(stream: Stream) -> None:
    """Send rows without end in answer to any simple query."""
    reader, writer = stream
    writer.write(WELCOME)
    await reader.readexactly(5)
    writer.write(message(b"T", ROW_DESCRIPTION))
    await _flood(stream, message(b"D", struct.pack("!HI", 1, 1) + b"7") * ROWS)


async def a_row_of_a_gigabyte(stream: Stream) -> None:
    """Announce a row of a gigabyte, and send it."""
    first = iter((b"D" + struct.pack("!I", 2**30),))
    await _answer(stream, lambda: next(first, b"\0" * 65536))


async def notices_without_end(stream: Stream) -> None:
    """Send notices without end."""
    notice = message(b"N", b"SNOTICE\0C00000\0Mno\0\0")
    await _answer(stream, lambda: notice * ROWS)


async def ready_without_end(stream: Stream) -> None:
    """End the answer without end."""
    await _answer(stream, lambda: READY * ROWS)


async def lengths_of_nothing(stream: Stream) -> None:
    """Send messages that say they are shorter than their head."""
    await _answer(stream, lambda: b"D\0\0\0\0" * ROWS)


async def one_row_a_second(stream: Stream) -> None:
    """Send a row from time to time, so that the answer never ends."""
    await _answer(stream, lambda: ROW, pause=1)


ASK_FOR: dict[str, bytes] = {"password": request(3), "md5": request(5, b"salt"), "none": WELCOME}
"""A method of authentication -> what asks for it."""


def asking_for(method: str, heard: list[bytes]) -> Behaviour:
    """Ask for a proof, and note what comes."""

    async def ask(stream: Stream) -> None:
        stream[1].write(ASK_FOR[method])
        heard.append(await stream[0].read())

    return ask


@asynccontextmanager
async def listening(behaviour: Behaviour, *, startup: bool = True) -> AsyncIterator[str]:
    """Such a server; gives its DSN. Without `startup` the behaviour reads the first message itself."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if startup:
                    await read_startup((reader, writer))
                await behaviour((reader, writer))
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"postgresql://anyone:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}/anywhere"
    finally:
        server.close()


@contextmanager
def running(behaviour: Behaviour, *, startup: bool = True) -> Iterator[str]:
    """Such a server in a thread of its own; gives its DSN."""
    loop, dsn, over = asyncio.new_event_loop(), list[str](), asyncio.Event()
    started = threading.Event()

    async def listen() -> None:
        async with listening(behaviour, startup=startup) as found:
            dsn.append(found)
            started.set()
            await over.wait()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
        await asyncio.sleep(0.1)  # the sockets close

    thread = threading.Thread(target=loop.run_until_complete, args=(listen(),))
    thread.start()
    started.wait()
    try:
        yield dsn[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
