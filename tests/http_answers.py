"""An HTTP server on loopback that answers as it is told, for what is no PostgreSQL: APIs and metadata services."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """What it answers."""

    body: bytes | Iterator[bytes]
    """All of it, or what comes bit by bit and ends with the connection."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def answering(answer: Callable[[str, Mapping[str, str]], Answer]) -> Iterator[str]:
    """A server whose answers follow from path and headers; gives host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            found = answer(self.path, dict(self.headers))
            self.send_response(found.status)
            length = {"Content-Length": str(len(found.body))} if isinstance(found.body, bytes) else {}
            for name, value in {**found.headers, **length}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # whoever asked has gone
                for part in [found.body] if isinstance(found.body, bytes) else found.body:
                    self.wfile.write(part)
                    self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
