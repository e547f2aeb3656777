"""Secrets in every place that takes one, good and refused, are on no page, in no line of the log, in no file."""

import base64
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import httpx
import pytest
import yaml
from pages import MONITOR
from patience import SECONDS, wait_until
from serving import Exporter, run, serving
from web.authorities import Authorities

from exporter.demo.cluster import Cluster

MARK = "s3cret"
"""Part of every secret."""

TOKEN = f"{MARK}-of-prometheus-0123456789"

PASSWORD = f"{MARK}-of-somebody"

PATHS = (
    "/metrics",
    "/probe?target=good",
    "/probe?target=commanded",
    "/probe?target=wrong",
    "/sd",
    "/",
    "/?target=good",
    "/collectors",
    "/statements?target=good",
    "/incidents",
    "/api/v1/now",
    "/api/v1/targets",
    "/api/v1/collectors",
    "/api/v1/statements",
    "/api/v1/incidents",
    "/api/v1/openapi.json",
    "/nowhere",
)


class Planted:
    """An exporter with secrets in all its files."""

    def __init__(self, folder: Path, server: Cluster) -> None:
        self.folder, self.server = folder, server
        self.authorities = Authorities(folder)
        self.exporter: Exporter
        self._trust = ssl.create_default_context(cafile=str(self.authorities.ca))
        self.texts = list[str]()
        """What was seen of it."""
        command = folder / "give"
        command.write_text(f"#!/bin/sh\necho {MARK}-of-a-command\necho {MARK}-on-stderr >&2\n")
        command.chmod(0o755)
        (folder / "tokens").write_text(f"{TOKEN}\n")
        (folder / "password").write_text(f"{MARK}-in-a-file\n")
        self.hash = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        self.write(
            "web.yml", {"tls_server_config": self.authorities.config, "basic_auth_users": {"prometheus": self.hash}}
        )
        place = f"host=127.0.0.1 port={server.port} dbname=postgres"
        self.targets = [
            {
                "name": "good",
                "dsn": f"{server.dsn(user=MONITOR)}?application_name=x",
                "password_file": str(folder / "password"),
            },
            {
                "name": "commanded",
                "dsn": f"{place} user={MONITOR}",
                "password_command": [str(command), f"--key={MARK}-key"],
            },
            {"name": "wrong", "dsn": f"postgresql://nobody:{MARK}-in-a-dsn@127.0.0.1:1/postgres"},
        ]
        self.write("targets.yml", self.targets)
        self.write("pgvigil.yml", {"targets_files": [str(folder / "targets.yml")], "state_dir": str(folder / "state")})

    def write(self, name: str, content: object) -> None:
        """Write a file."""
        (self.folder / name).write_text(yaml.safe_dump(content))

    def ask(self, path: str, method: str = "GET", *, authorization: str = f"Bearer {TOKEN}") -> httpx.Response:
        """Ask for a page, and keep it with its headers."""
        answer = httpx.request(
            method,
            self.exporter.url.replace("http://", "https://") + path,
            verify=self._trust,
            headers={"Authorization": authorization},
            timeout=SECONDS,
        )
        self.texts += [answer.text, str(answer.headers)]
        return answer


@contextmanager
def planted(folder: Path, server: Cluster) -> Iterator[Planted]:
    """Run it, at its most talkative."""
    made = Planted(folder, server)
    files = {"web_config_file": str(folder / "web.yml"), "bearer_token_file": str(folder / "tokens")}
    with serving(
        "--config", str(folder / "pgvigil.yml"), log_level="debug", log_format="json", **files
    ) as made.exporter:
        yield made


@pytest.mark.full
def test_no_secret_is_found_anywhere(server18: Cluster, tmp_path: Path) -> None:
    with planted(tmp_path, server18) as exporter:
        wait_until(lambda: exporter.ask("/sd").is_success, every=0.5)
        for path in PATHS:
            assert exporter.ask(path).status_code in (200, 404), path
        assert "pg_up 1" in exporter.ask("/probe?target=commanded").text
        _is_refused(exporter)
        _reads_what_is_wrong(exporter)
        time.sleep(6)  # the history is written
        exporter.exporter.process.terminate()
        exporter.texts += exporter.exporter.process.communicate()[1].splitlines()
    for file in (tmp_path / "state").rglob("*"):
        exporter.texts.append(file.read_bytes().decode("latin-1") if file.is_file() else "")
    command = run("check", "--config", str(tmp_path / "pgvigil.yml"))
    exporter.texts += [command.stdout, command.stderr]
    assert len(exporter.texts) > 50
    key = exporter.authorities.server.key.read_text().splitlines()[1]
    for secret in (MARK, exporter.hash, base64.b64encode(PASSWORD.encode()).decode().strip("="), key):
        assert [text for text in exporter.texts if secret in text] == []


def _is_refused(exporter: Planted) -> None:
    """Credentials that are wrong are as secret: somebody mistyped."""
    basic = base64.b64encode(f"prometheus:{PASSWORD}x".encode()).decode()
    for wrong in (f"Bearer {TOKEN}x", f"Basic {basic}", f"Basic {MARK}", f"{MARK} {MARK}"):
        assert exporter.ask("/metrics", authorization=wrong).status_code == 401
        assert exporter.ask(f"/probe?target={MARK[:3]}", authorization=wrong).status_code == 401


def _reads_what_is_wrong(exporter: Planted) -> None:
    """Files that cannot be used, with secrets where the fault is."""
    wrong = [
        ("targets.yml", [*exporter.targets, {"name": "x", "dsn": f"host=a passwrd={MARK}"}]),
        ("targets.yml", [*exporter.targets, {"name": "x", "password": f"{MARK}"}]),
        ("targets.yml", f"- {{name: x, dsn: '{MARK}"),
        ("pgvigil.yml", {"targets_files": [str(exporter.folder / "targets.yml")], "dsn": f"password={MARK}"}),
        ("web.yml", {"basic_auth_users": {"prometheus": f"{MARK}-not-hashed"}}),
    ]
    for name, content in wrong:
        before = (exporter.folder / name).read_text()
        (exporter.folder / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        assert exporter.ask("/-/reload", "POST").status_code == 500, name
        exporter.exporter.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        (exporter.folder / name).write_text(before)
    assert exporter.ask("/-/reload", "POST").status_code == 200
