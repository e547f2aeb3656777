"""Runs Alertmanager with our routing on loopback, and a stand-in for PagerDuty that keeps what it is sent."""

import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml
from patience import SECONDS
from programs import running

from exporter.demo.cluster import free_port

ALERTS = Path(__file__).parents[1] / "alerts"
ROUTING = ALERTS / "alertmanager.yml"

HINT = "Debian's package is called prometheus-alertmanager"
ALERTMANAGER = ("alertmanager", HINT, "prometheus-alertmanager")
"""How to find the program, which Debian calls otherwise."""


@dataclass(frozen=True)
class Event:
    """One event as PagerDuty gets it."""

    at: float
    """Unix time of its arrival."""
    receiver: str
    """The receiver whose key it bears."""
    body: Mapping[str, Any]

    @property
    def action(self) -> str:
        """`trigger` or `resolve`."""
        return str(self.body["event_action"])

    @property
    def dedup_key(self) -> str:
        """What makes it the same incident as another event."""
        return str(self.body["dedup_key"])

    @property
    def payload(self) -> Mapping[str, Any]:
        """What the person who is woken reads."""
        payload: Mapping[str, Any] = self.body.get("payload") or {}
        return payload

    @property
    def alertname(self) -> str:
        """Which alert it is about."""
        return str(self.payload.get("class", ""))

    @property
    def source(self) -> str:
        """The instance it is about."""
        return str(self.payload.get("source", ""))

    @property
    def text(self) -> str:
        """All that it says."""
        return json.dumps(self.body)


@dataclass
class PagerDuty:
    """The stand-in: it takes everything and answers as PagerDuty does."""

    url: str
    events: list[Event] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    """When the dead man's switch was called."""

    def about(self, alertname: str, action: str = "trigger", since: float = 0.0) -> list[Event]:
        """The events of one alert."""
        return [e for e in self.events if e.alertname == alertname and e.action == action and e.at >= since]

    def wait(self, alertname: str, action: str = "trigger", seconds: float = SECONDS) -> Event:
        """The first event of an alert, which has to come in time."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if found := self.about(alertname, action):
                return found[0]
            time.sleep(0.05)
        had = [(e.alertname, e.action, e.receiver) for e in self.events]
        raise AssertionError(f"no {action} of {alertname} within {seconds:g} s; there were {had}")


@contextmanager
def pagerduty() -> Iterator[PagerDuty]:
    """A stand-in for PagerDuty and for the dead man's switch."""
    made = PagerDuty("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/ping":
                made.pings.append(time.time())
            else:
                made.events.append(Event(time.time(), str(body.pop("routing_key")), body))
            answer = b'{"status":"success","message":"Event processed","dedup_key":"-"}'
            self.send_response(202)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def routing(**changes: Any) -> dict[str, Any]:
    """Our routing; the changes are laid over its root route."""
    config: dict[str, Any] = yaml.safe_load(ROUTING.read_text())
    config["route"] |= changes
    return config


def on_loopback(config: dict[str, Any], folder: Path, stub: PagerDuty) -> Path:
    """Write a routing whose messages go to the stand-in; a receiver's key is its name, so that events tell theirs."""
    config["global"]["pagerduty_url"] = f"{stub.url}/v2/enqueue"
    for receiver in config["receivers"]:
        for integration in receiver.get("pagerduty_configs", ()):
            key = folder / receiver["name"]
            key.write_text(receiver["name"])
            integration["routing_key_file"] = str(key)
        for integration in receiver.get("webhook_configs", ()):
            integration["url"] = f"{stub.url}/ping"
    shutil.copytree(ALERTS / "templates", folder / "templates", dirs_exist_ok=True)
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass(frozen=True)
class Alertmanager:
    """A running Alertmanager."""

    address: str
    log: Path

    @property
    def problems(self) -> list[str]:
        """What it complained of."""
        quiet = ("level=info", "level=debug")
        return [line for line in self.log.read_text().splitlines() if not any(each in line.lower() for each in quiet)]

    def post(self, *alerts: Mapping[str, str], says: Mapping[str, str] | None = None, ended: bool = False) -> None:
        """Report alerts by their labels, as Prometheus does."""
        now = datetime.now(UTC).isoformat()
        body = [
            {
                "labels": labels,
                "annotations": says or {},
                "generatorURL": "http://prometheus.example.com/graph?g0.expr=up",
                **({"startsAt": "2026-01-01T00:00:00Z", "endsAt": now} if ended else {}),
            }
            for labels in alerts
        ]
        httpx.post(f"http://{self.address}/api/v2/alerts", json=body, timeout=10).raise_for_status()

    def inhibited(self) -> list[str]:
        """The names of the alerts that another one keeps quiet."""
        found = httpx.get(f"http://{self.address}/api/v2/alerts", timeout=10).json()
        return sorted(alert["labels"]["alertname"] for alert in found if alert["status"]["inhibitedBy"])


@contextmanager
def alertmanager(program: Path, config: Path, folder: Path) -> Iterator[Alertmanager]:
    """An Alertmanager with that configuration, which talks to no other."""
    address, log = f"127.0.0.1:{free_port()}", folder / "alertmanager.log"
    command = [
        str(program),
        f"--config.file={config}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with running(command, log, f"http://{address}/-/ready"):
        yield Alertmanager(address, log)
