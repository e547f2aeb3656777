"""What attackers of an exporter do: endless questions, readers that do not read, names that hang."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

from patience import SECONDS
from serving import Exporter, Surroundings

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
"""The beginning of a request."""

WITHOUT_LIMIT = """
name: own
help: A query that has no limit.
sql: SELECT generate_series(1, 20000000) AS id, 1 AS value
labels: [id]
metrics:
  - {name: pg_own, type: gauge, help: One., column: value}
"""
"""A collector whose query has no limit: twenty million rows."""


def connected(to: Exporter, *, small: bool = False) -> socket.socket:
    """A connection that speaks HTTP by hand; a small one takes in little that has not been read."""
    made = socket.socket()
    if small:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(SECONDS)
    made.connect(("127.0.0.1", int(to.url.rpartition(":")[2])))
    return made


@contextmanager
def without_end(running: Exporter, head: bytes, piece: bytes, times: int) -> Iterator[list[int]]:
    """Clients that send a head, then a piece again and again; gives how many bytes each got rid of."""
    over, sent = Event(), [0] * times

    def send(number: int) -> None:
        while not over.is_set():
            with closing(connected(running)) as client:
                try:
                    client.sendall(head)
                    while not over.is_set():
                        client.sendall(piece)
                        sent[number] += len(piece)
                except OSError:
                    over.wait(0.1)

    threads = [Thread(target=send, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def silent_dns(folder: Path) -> Iterator[Surroundings]:
    """Surroundings in whose sight the only server of names never answers; without root, an OSError or the like."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.77", 53))
        subprocess.run(["unshare", "-m", "true"], check=True, capture_output=True)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.77\noptions timeout:10 attempts:2\n")
        mount = f'mount --bind {folder}/resolv.conf /etc/resolv.conf && exec "$@"'
        yield Surroundings(within=("unshare", "-m", "sh", "-c", mount, "sh"))
