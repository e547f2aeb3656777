"""The servers and programs that tests ask for, started when the first one asks; and the tiers of a run."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import copies
import pytest
import tiers
from debian import newer
from servers import MAJORS, NEWEST, MissingError, do_without, has_room, program
from servers import cache as tests_cache
from tiers import Asked, Test

from exporter.demo.cluster import FAST, Cluster

SETTINGS: Mapping[str, str] = {
    **FAST,
    "autovacuum_naptime": "1d",  # on, but not in the middle of a test
    "max_connections": "60",
    "max_prepared_transactions": "10",
    "shared_buffers": "32MB",
    "shared_preload_libraries": "pg_stat_statements",
    "track_io_timing": "on",
    "wal_level": "logical",
}

PREPARE = """
    CREATE ROLE pgvigil LOGIN;
    GRANT pg_monitor TO pgvigil;
    CREATE EXTENSION pg_stat_statements;
    CREATE EXTENSION pg_buffercache;
"""


if (
    sys.dont_write_bytecode
):  # where none is to lie beside the sources, the dozens of processes of a run share it elsewhere
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(tests_cache() / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


MEMORY = Path("/dev/shm")
ROOM = 4 << 30
"""Bytes that the data of all servers at a time may take."""

if "TMPDIR" not in os.environ and has_room(MEMORY, ROOM):  # a new server costs half as much there as on a disk
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


LEFT_OUT_KEY = "left_out"

LEFT_OUT = pytest.StashKey[int]()
"""Number of tests that the default tier leaves out, of those that the command line asks for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose a tier and a server."""
    group = parser.getgroup("tiers")
    group.addoption("--full", action="store_true", help="run every test, on every PostgreSQL, as CI does")
    majors = [*map(str, MAJORS), "none"]
    group.addoption("--major", choices=majors, help="run the tests of one PostgreSQL only; none: those that need none")


def pytest_configure(config: pytest.Config) -> None:
    """Say which tier it is to whoever asks while tests are collected."""
    tiers.begin(full=config.option.full)


@pytest.hookimpl(trylast=True)  # a test that -k takes away is not left out by the tier
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the tier, file by file, the slowest files first."""
    asked = Asked.by(config)
    tests = {item: Test.of(item) for item in items}
    kept = [item for item in items if asked.runs(tests[item])]
    config.stash[LEFT_OUT] = sum(asked.of_full(tests[item]) for item in items) - len(kept)
    config.hook.pytest_deselected(items=[item for item in items if not asked.runs(tests[item])])
    items[:] = sorted(kept, key=lambda item: tests[item].start)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the number of tests left out from a worker: the controller collects none itself."""
    node.config.stash[LEFT_OUT] = node.workeroutput.get(LEFT_OUT_KEY, 0)  # none where there was nothing to collect


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give it to the controller."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[LEFT_OUT_KEY] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    """Say after all else how many tests the default tier leaves out."""
    yield
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"left out {left_out} tests that --full runs")


@pytest.fixture(scope="session")
def new_server() -> Callable[..., Cluster]:
    """Makes a server with our settings that is not started yet: new_server(major, settings, **options of Cluster)."""

    def made(major: int, settings: Mapping[str, str], **options: Any) -> Cluster:
        try:
            return copies.cluster(major, settings={**SETTINGS, **settings}, **options)
        except MissingError as missing:
            do_without(missing)

    return made


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"pg{major}")
def major(request: pytest.FixtureRequest) -> int:
    """Each supported major version in turn."""
    number: int = request.param
    return number


@pytest.fixture(scope="session")
def servers(new_server: Callable[..., Cluster]) -> Iterator[Callable[[int], Cluster]]:
    """Gives the shared server of a major version, which runs until the tests end. Leave it as you found it."""
    with ExitStack() as running:

        @cache
        def server_of(major: int) -> Cluster:
            server = running.enter_context(new_server(major, {}))
            server.execute(PREPARE)
            return server

        yield server_of


@pytest.fixture(scope="session")
def server(major: int, servers: Callable[[int], Cluster]) -> Cluster:
    """The shared server of each major version: a role pgvigil in pg_monitor, and the extensions in postgres."""
    return servers(major)


@pytest.fixture(scope="session")
def server18(servers: Callable[[int], Cluster]) -> Cluster:
    """The shared server of the newest major version, for tests that one version is enough for."""
    return servers(NEWEST)


@pytest.fixture(scope="module")
def database(server: Cluster) -> Iterator[Cluster]:
    """The shared server of each major version, with a database for the tests of one module."""
    from module_database import DATABASE

    server.execute(f"CREATE DATABASE {DATABASE}")
    yield server
    server.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture
def cluster(new_server: Callable[..., Cluster]) -> Iterator[Callable[..., Cluster]]:
    """Makes servers of the test's own: cluster(major=18, settings={}, **options of Cluster), set up like the shared."""
    with ExitStack() as running:

        def started(major: int = NEWEST, settings: Mapping[str, str] | None = None, **options: Any) -> Cluster:
            server = running.enter_context(new_server(major, settings or {}, **options))
            server.execute(PREPARE)
            return server

        yield started


@pytest.fixture(scope="session")
def tool() -> Callable[..., Path]:
    """Finds a program: tool("promtool", "it comes with Prometheus", *other names of it)."""

    def path_of(name: str, hint: str, *also: str) -> Path:
        try:
            return program(name, hint, *also)
        except MissingError as missing:
            do_without(missing)

    return path_of


@pytest.fixture(scope="session")
def newest_tool() -> Callable[..., Path]:
    """Finds a program as `tool` does, but that of a newer Debian."""

    def path_of(name: str, _: str, *also: str) -> Path:
        try:
            return newer(name, *also)
        except MissingError as missing:
            do_without(missing)

    return path_of


@pytest.fixture(scope="session", params=["installed", pytest.param("newest", marks=pytest.mark.full)])
def each_tool(
    request: pytest.FixtureRequest, tool: Callable[..., Path], newest_tool: Callable[..., Path]
) -> Callable[..., Path]:
    """Finds a program as `tool` does, and for a second round of the test as `newest_tool` does."""
    return tool if request.param == "installed" else newest_tool
