"""The image, built from the Dockerfile and run as a careful person runs it: read-only, without root or capabilities."""

import json
import os
import re
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from image.engine import REPOSITORY, Engine, engine, make_base
from pages import MONITOR, read
from programs import running
from servers import MissingError, do_without

from exporter import __version__
from exporter.demo.cluster import Cluster, free_port

pytestmark = pytest.mark.timeout(900)  # the first test waits for base and image

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"].keys()
PUT_IN = sorted(EXTRAS - {"demo"})  # the image has what a server in earnest may need

LOOK = """
import importlib.metadata as m, importlib.util as u, json, os, pathlib, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
root = next(line.split()[3] for line in open("/proc/self/mounts") if line.split()[1] == "/")
code = pathlib.Path(sys.prefix, "lib").rglob("*.py")
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "capabilities": int(status["CapEff"], 16),
    "root": root.split(",")[0],
    "packages": sorted(d.name.lower().replace("_", "-") for d in m.distributions()),
    "uncompiled": [str(f) for f in code if not os.path.exists(u.cache_from_source(f))],
    "library compiled": os.path.exists(u.cache_from_source(json.__file__)),
    "writable": [d for top in ("/opt", "/usr", "/etc", "/var") for d, _, _ in os.walk(top) if os.access(d, os.W_OK)],
    "pip": any(pathlib.Path("/usr/local").glob("lib/python3*/site-packages/pip")),
}))
"""


@dataclass(frozen=True)
class Image:
    """Our image and what it was built on."""

    engine: Engine
    tag: str
    base: str

    def command(self, *options: str, **environment: str) -> list[str]:
        """What runs it."""
        return self.engine.run_command(self.tag, *options, environment=environment)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Our image on the base that TEST_IMAGE_PYTHON names, or on one made here; what was made is removed."""
    tag = f"localhost/pgvigil-{uuid4().hex}"
    own = os.environ.get("TEST_IMAGE_PYTHON")
    try:
        made = Image(engine(), tag, own or f"{tag}-base")
        seconds = 0.0 if own else _seconds(lambda: make_base(made.engine, tmp_path_factory.mktemp("base"), made.base))
    except MissingError as missing:
        do_without(missing)
    try:
        building = _seconds(lambda: made.engine.build(tag, PYTHON=made.base, VERSION=__version__))
        mib = (made.engine.inspect(tag)["Size"] - made.engine.inspect(made.base)["Size"]) / 2**20
        print(f"\nbase: {seconds:.1f} s; build: {building:.1f} s; {mib:.0f} MiB over its base")
        yield made
    finally:
        made.engine.call("image", "rm", "--force", tag, *([] if own else [made.base]))


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@contextmanager
def container(image: Image, log: Path, dsn: str) -> Iterator[tuple[str, str]]:
    """The image's own command in a running container: its name and the address it serves at."""
    name, address = f"pgvigil-{uuid4().hex}", f"127.0.0.1:{free_port()}"
    command = image.command(f"--name={name}", PGVIGIL_LISTEN=address, PGVIGIL_DSN=dsn)
    with running(command, log, f"http://{address}/readyz"):
        yield name, f"http://{address}"


def test_it_serves_what_it_reads_from_a_server(image: Image, server18: Cluster, tmp_path: Path) -> None:
    started = time.monotonic()
    with container(image, tmp_path / "log", server18.dsn(user=MONITOR)) as (_, url):
        ready = time.monotonic()
        page = read(httpx.get(f"{url}/metrics", timeout=30).text)
        answered = time.monotonic()
    assert page.value("pg_up") == 1
    assert page.value("pgvigil_build_info", version=__version__) == 1
    assert [labels for labels, value in page.series("pgvigil_collector_success") if value != 1] == []
    rss = page.value("process_resident_memory_bytes") / 2**20
    samples = sum(map(len, page.samples.values()))
    print(f"\nready: {ready - started:.2f} s; page: {answered - ready:.2f} s, {samples} samples; RSS: {rss:.0f} MiB")


def test_the_health_check_says_whether_it_answers(image: Image, tmp_path: Path) -> None:
    known = image.engine.inspect(image.tag)
    kind, *check = (known["Config"].get("Healthcheck") or known["Healthcheck"])["Test"]
    assert kind == "CMD"  # and not CMD-SHELL
    with container(image, tmp_path / "log", "host=/nowhere user=u") as (name, _):
        image.engine.call("exec", name, *check)
        elsewhere = [*image.engine.command, "exec", "--env=PGVIGIL_LISTEN=0.0.0.0:1", name, *check]
        assert subprocess.run(elsewhere, capture_output=True, check=False).returncode == 1


def test_sigterm_ends_it_at_once_and_well(image: Image, server18: Cluster, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = image.command(PGVIGIL_LISTEN=address, PGVIGIL_DSN=server18.dsn(user=MONITOR))
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        give_up = time.monotonic() + 30
        while not _answers(f"http://{address}/metrics"):
            assert time.monotonic() < give_up, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        seconds = _seconds(lambda: process.wait(20))
    print(f"\nSIGTERM to exit: {seconds:.2f} s")
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert seconds < 5  # docker kills after 10


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def test_it_has_nothing_but_what_it_runs_on(image: Image) -> None:
    look = [*image.command("--entrypoint=python"), "-c", LOOK]
    seen = json.loads(subprocess.run(look, capture_output=True, text=True, check=True).stdout)
    assert seen == {
        "ids": [65532, 65532],
        "capabilities": 0,
        "root": "ro",
        "packages": sorted({"pgvigil", *runtime_dependencies()}),
        "uncompiled": [],
        "library compiled": True,
        "writable": [],
        "pip": False,
    }


def test_it_needs_no_shell_and_says_what_it_is(image: Image) -> None:
    config = image.engine.inspect(image.tag)["Config"]
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == (["pgvigil"], ["serve"], "65532:65532")
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert (labels["version"], labels["licenses"], labels["base.name"]) == (__version__, "Apache-2.0", image.base)
    assert {"title", "description", "source", "documentation", "revision"} <= labels.keys()


@pytest.mark.parametrize("platform", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"])
def test_no_compiler_is_needed_on_either_architecture(platform: str, tmp_path: Path) -> None:
    """The slim base has none, so each dependency has to be there as a wheel."""
    (tmp_path / "requirements.txt").write_text(exported())
    target = ["--python-platform", platform, "--python-version", "3.13", "--target", str(tmp_path / "target")]
    command = ["uv", "pip", "install", "--dry-run", "--only-binary", ":all:", *target, "-r", "requirements.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Would install {len(runtime_dependencies())} packages" in done.stderr


def runtime_dependencies() -> set[str]:
    """What uv.lock names for a server on Linux."""
    lines = exported("--no-hashes", "--no-annotate", "--no-header").splitlines()
    return {re.split("[=;]", line)[0] for line in lines if "win32" not in line}


def exported(*options: str) -> str:
    """The requirements of a server with our optional extras, as uv.lock has them."""
    extras = [option for extra in PUT_IN for option in ("--extra", extra)]
    command = ["uv", "export", "--frozen", "--quiet", "--no-dev", "--no-emit-project", *extras, *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
