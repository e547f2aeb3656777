"""The wheel, built from the source distribution, in a fresh virtual environment far from the checkout."""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pages import MONITOR, read
from programs import running
from release.pythons import MINORS, python
from servers import MissingError, do_without

from exporter import __version__
from exporter.alert_rules import shipped
from exporter.commands import dashboards
from exporter.demo.cluster import Cluster, free_port

MARK = b"# Written by `pgvigil rules`, which overwrites or removes this file when it runs again.\n"

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)  # what is installed may have to be downloaded first


@dataclass(frozen=True)
class Installed:
    """The command as it is in a virtual environment, run in a folder without our sources."""

    command: Path
    folder: Path

    def run(self, *arguments: str, **settings: str) -> str:
        """What it prints; it has to succeed."""
        done = subprocess.run(
            [self.command, *arguments],
            cwd=self.folder,
            env=_environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _environment(settings: dict[str, str]) -> dict[str, str]:
    """Ours, without what would lead back to our sources."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGVIGIL_", "PG", "PYTHON"))}
    return kept | settings


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release builds it: the source distribution from the checkout, and the wheel from that."""
    folder = tmp_path_factory.mktemp("dist")
    _uv("build", "--quiet", "--out-dir", str(folder))
    [built] = folder.glob("*.whl")
    assert built.name == f"pgvigil-{__version__}-py3-none-any.whl"
    return built


@pytest.fixture(params=MINORS, ids=lambda minor: f"python3.{minor}")
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Installed:
    """The wheel with its demo, in a virtual environment of each Python that is here."""
    try:
        interpreter = python(request.param)
    except MissingError as missing:
        do_without(missing)
    locked = tmp_path / "constraints.txt"
    options = ["--frozen", "--quiet", "--no-dev", "--all-extras", "--no-emit-project", "--no-hashes"]
    _uv("export", *options, "--output-file", str(locked))
    _uv("venv", "--quiet", "--python", str(interpreter), str(tmp_path / "venv"))
    to = ["--python", str(tmp_path / "venv")]
    _uv("pip", "install", "--quiet", *to, "--constraint", str(locked), f"pgvigil[demo] @ {wheel.as_uri()}")
    return Installed(tmp_path / "venv" / "bin" / "pgvigil", tmp_path)


def _uv(*arguments: str) -> None:
    done = subprocess.run(["uv", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_serves_plays_the_demo_and_writes_out_what_it_carries(
    installed: Installed, server18: Cluster, tmp_path: Path
) -> None:
    assert installed.run("--version") == f"pgvigil, version {__version__}\n"
    assert _written(installed, "rules", MARK) == _files(shipped("rules"), "*.yml")
    if boards := _files(dashboards.built_in(), "*.json"):
        assert _written(installed, "dashboards") == boards
    assert (tmp_path / "venv/lib/systemd/system/pgvigil.service").is_file()
    carried = next((tmp_path / "venv").glob("lib/*/site-packages/exporter/collectors/README.md"))
    as_built, refused = carried.read_bytes(), _run(installed, "reference")
    assert refused.returncode == 1
    assert "is an installed package, whose files stay as they are" in refused.stderr
    assert carried.read_bytes() == as_built
    seconds = [_seconds(lambda: _serves(installed, server18, tmp_path)), _seconds(lambda: _demos(installed))]
    print("\nserve: {:.1f} s; demo of 3 s: {:.1f} s".format(*seconds))


def _run(installed: Installed, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed.command, *arguments],
        cwd=installed.folder,
        env=_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )


def _files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob(pattern)}


def _written(installed: Installed, command: str, mark: bytes = b"") -> dict[str, bytes]:
    folder = installed.folder / command
    assert f"files to {folder}" in installed.run(command, str(folder))
    return {name: text.removeprefix(mark) for name, text in _files(folder, "[!.]*").items()}


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _serves(installed: Installed, server: Cluster, folder: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = {"PGVIGIL_LISTEN": address, "PGVIGIL_DSN": server.dsn(user=MONITOR)}
    assignments = [f"{name}={value}" for name, value in settings.items()]
    command = ["env", f"--chdir={folder}", *assignments, str(installed.command)]
    with running(command, folder / "log", f"http://{address}/readyz"):
        page = read(httpx.get(f"http://{address}/metrics", timeout=30).text)
        front = httpx.get(f"http://{address}/", timeout=30).text
        runbook = httpx.get(f"http://{address}/runbooks/PostgreSQLDown", timeout=30)
        style = httpx.get(f"http://{address}/static/pgvigil.css", timeout=30)
    assert page.value("pg_up") == 1
    assert page.value("pgvigil_build_info", version=__version__) == 1
    assert [labels for labels, value in page.series("pgvigil_collector_success") if value != 1] == []
    assert " is up</b>, primary" in front  # its templates, rules, runbooks and styles are there as well
    assert (runbook.status_code, style.status_code) == (200, 200)


def _demos(installed: Installed) -> None:
    said = installed.run("demo", "--listen", f"127.0.0.1:{free_port()}", "--seconds", "3")
    assert "nothing is left behind" in said
