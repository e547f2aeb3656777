"""The servers and programs that tests ask for, started when the first one asks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from debian import newer
from servers import MAJORS, NEWEST, MissingError, build, do_without, program

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


def _cluster(major: int, settings: Mapping[str, str], **options: Any) -> Cluster:
    try:
        return Cluster(build(major), settings={**SETTINGS, **settings}, **options)
    except MissingError as missing:
        do_without(missing)


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"pg{major}")
def major(request: pytest.FixtureRequest) -> int:
    """Each supported major version in turn."""
    number: int = request.param
    return number


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[int], Cluster]]:
    """Gives the shared server of a major version, which runs until the tests end. Leave it as you found it."""
    with ExitStack() as running:

        @cache
        def server_of(major: int) -> Cluster:
            server = running.enter_context(_cluster(major, {}))
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


@pytest.fixture
def cluster() -> Iterator[Callable[..., Cluster]]:
    """Makes servers of the test's own: cluster(major=18, settings={}, **options of Cluster), set up like the shared."""
    with ExitStack() as running:

        def started(major: int = NEWEST, settings: Mapping[str, str] | None = None, **options: Any) -> Cluster:
            server = running.enter_context(_cluster(major, settings or {}, **options))
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


@pytest.fixture(scope="session", params=["installed", "newest"])
def each_tool(request: pytest.FixtureRequest, tool: Callable[..., Path]) -> Callable[..., Path]:
    """Finds a program as `tool` does, and for a second round of the test the one of a newer Debian."""

    def path_of(name: str, _: str, *also: str) -> Path:
        try:
            return newer(name, *also)
        except MissingError as missing:
            do_without(missing)

    return tool if request.param == "installed" else path_of
