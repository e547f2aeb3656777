"""The health check of the image: `python -m exporter.commands.alive` ends with 0 where the exporter answers.

It speaks TLS where there is a web configuration, and takes any certificate: it asks this machine for a sign of life.
Who turns it away for want of a certificate lives as well. Nothing is imported that takes long: it runs twice a minute.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Iterator

_SECONDS = 4.0


def main() -> int:
    """Ask for `/healthz`, as PGVIGIL_LISTEN and PGVIGIL_WEB_CONFIG_FILE say; return 0 where something answers."""
    host, _, port = (os.environ.get("PGVIGIL_LISTEN") or "0.0.0.0:9187").partition(",")[0].strip().rpartition(":")
    return int(not any(_answers(way) for name in _names(host.strip("[]")) for way in _ways(name, int(port))))


def _names(host: str) -> list[str]:
    """Return where this machine answers for an address; those of all its addresses are on loopback."""
    return {"": ["127.0.0.1", "::1"], "0.0.0.0": ["127.0.0.1"], "::": ["::1", "127.0.0.1"]}.get(host, [host])  # noqa: S104


def _ways(host: str, port: int) -> Iterator[http.client.HTTPConnection]:
    plain = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    encrypted = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    yield from (encrypted, plain) if os.environ.get("PGVIGIL_WEB_CONFIG_FILE") else (plain, encrypted)


def _answers(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except ssl.SSLError as error:
        return "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
