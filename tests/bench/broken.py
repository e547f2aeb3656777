"""Ten servers that are broken in ten ways, for the measurement of many targets."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `servers` and `bench` are found in tests/

import asyncpg
import hostile_server  # needs the line above
import psutil
from programs import end
from servers import NEWEST, build

from exporter.demo.cluster import FAST, Cluster, free_port

HOSTILE = (
    hostile_server.rows_without_end,
    hostile_server.a_login_without_end,
    hostile_server.one_row_a_second,
)

_CONNECTIONS = 10


@contextmanager
def broken(whole: Cluster, folder: Path) -> Iterator[dict[str, Mapping[str, str]]]:
    """The servers; gives how each is reached, by how it is broken.

    Args:
        whole: a server that answers, for what is wrong on our side of it.
        folder: a place for a pipe.

    """
    dsn = whole.dsn("postgres", "pgvigil")
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    with ExitStack() as stack:
        stopped, full = (stack.enter_context(_server()) for _ in range(2))
        stack.enter_context(_stopped(stopped))
        stack.enter_context(_full(full))
        found = {
            "refuses": f"postgresql://pgvigil@127.0.0.1:{free_port()}/postgres",
            "takes connections in silence": stack.enter_context(_silent()),
            "is stopped": stopped.dsn("postgres", "pgvigil"),
            "has no connection left": full.dsn("postgres", "pgvigil"),
            "has no such role": whole.dsn("postgres", "nobody"),
            "has no such database": whole.dsn("nowhere", "pgvigil"),
            **dict(zip((each.__name__.replace("_", " ") for each in HOSTILE), _hostile(stack), strict=True)),
        }
        yield {
            **{how: {"dsn": f"{each}?sslmode=disable"} for how, each in found.items()},
            "password file is a pipe": {"dsn": f"{dsn}?sslmode=disable", "password_file": str(pipe)},
        }


def _server() -> Cluster:
    settings = {**FAST, "shared_buffers": "16MB", "max_connections": str(_CONNECTIONS)}
    return Cluster(build(NEWEST), settings=settings)


@contextmanager
def _stopped(server: Cluster) -> Iterator[None]:
    server.execute("CREATE ROLE pgvigil LOGIN; GRANT pg_monitor TO pgvigil")
    postmaster = psutil.Process(server.pid)
    postmaster.suspend()
    try:
        yield
    finally:
        postmaster.resume()


@contextmanager
def _full(server: Cluster) -> Iterator[None]:
    """Take all connections; they last as long as this process."""
    server.execute("CREATE ROLE pgvigil LOGIN; GRANT pg_monitor TO pgvigil")
    loop = asyncio.new_event_loop()
    sessions = [loop.run_until_complete(asyncpg.connect(server.dsn())) for _ in range(_CONNECTIONS)]
    try:
        yield
    finally:
        for session in sessions:
            session.terminate()
        loop.close()


@contextmanager
def _silent() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"postgresql://pgvigil@127.0.0.1:{listener.getsockname()[1]}/postgres"


def _hostile(stack: ExitStack) -> list[str]:
    """Start those that speak in bad faith, in a process of their own: they flood whoever asks."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE)
    stack.callback(end, process)
    assert process.stdout
    dsns: list[str] = json.loads(process.stdout.readline())
    return dsns


def main() -> None:
    """Be the servers that speak in bad faith, until ended."""
    with ExitStack() as stack:
        dsns = [stack.enter_context(hostile_server.running(each)) for each in HOSTILE]
        print(json.dumps(dsns), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
