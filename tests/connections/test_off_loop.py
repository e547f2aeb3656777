"""What may block, names and files, holds up no other target and no page of its own."""

import asyncio
import json
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import psutil
import pytest
from attackers import silent_dns
from pages import MONITOR, Page, read
from patience import SECONDS, Stopwatch, wait_until
from serving import Exporter, Surroundings, serving, serving_in

from exporter.connections.driver_arguments import driver_arguments
from exporter.connections.name_lookup import Addresses
from exporter.connections.off_loop import OffLoop
from exporter.demo.cluster import Cluster
from exporter.errors import SettingsError

SCRAPE_TIMEOUT = 5.0


def probed(running: Exporter, target: str = "") -> Page:
    """One scrape of a target, which has to be there in time."""
    watch = Stopwatch(running.process.pid)
    path = f"/probe?target={target}" if target else "/metrics"
    found = read(running.get(path, {"X-Prometheus-Scrape-Timeout-Seconds": f"{SCRAPE_TIMEOUT:g}"}).text)
    assert watch.seconds < SCRAPE_TIMEOUT
    return found


def reason(found: Page) -> str:
    """Why the target is down."""
    [word] = [labels["reason"] for labels, value in found.series("pg_up_reason") if value]
    return word


@pytest.fixture
def without_dns(tmp_path: Path) -> Iterator[Surroundings]:
    """A process in whose sight the only server of names never answers."""
    try:
        with silent_dns(tmp_path) as surroundings:
            yield surroundings
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a server of names of our own takes root: {error}")


def test_names_that_hang_in_dns_cost_their_own_target_only(
    server18: Cluster, without_dns: Surroundings, tmp_path: Path
) -> None:
    """Each is down for its own reason, and holds one thread however often it is tried."""
    by_name = server18.dsn(user=MONITOR).replace("127.0.0.1", "localhost")
    dead = [{"name": f"dead{n}", "dsn": f"host=dead{n}.example dbname=postgres"} for n in range(30)]
    config = tmp_path / "pgvigil.yaml"
    config.write_text(json.dumps({"targets": [*dead, {"name": "well", "dsn": by_name}]}))
    with serving_in(without_dns, "--config", str(config)) as running:
        for _ in range(2):
            found = probed(running)
            assert [found.value("pg_up", target=f"dead{n}") for n in range(30)] == [0] * 30
        for _ in range(4):
            assert probed(running, "well").value("pg_up") == 1
            time.sleep(0.5)
        assert reason(probed(running, "dead7")) == "timeout"
        assert psutil.Process(running.process.pid).num_threads() < 30 + 10
        running.process.terminate()
        assert running.process.wait(SECONDS) in (0, -signal.SIGTERM)


def test_a_password_file_that_is_a_pipe_costs_its_own_target_only(server18: Cluster, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "password")
    config = tmp_path / "pgvigil.yaml"
    dsn = server18.dsn(user=MONITOR)
    stuck = {"name": "stuck", "dsn": dsn, "password_file": str(tmp_path / "password")}
    config.write_text(json.dumps({"targets": [stuck, {"name": "well", "dsn": dsn}]}))
    with serving("--config", str(config)) as running:
        for _ in range(3):
            assert probed(running, "well").value("pg_up") == 1
            assert reason(probed(running, "stuck")) == "settings"
        assert psutil.Process(running.process.pid).num_threads() < 10
        (tmp_path / "password").unlink()
        (tmp_path / "password").write_text("word")
        wait_until(lambda: probed(running, "stuck").value("pg_up") == 1)
        running.process.terminate()
        assert running.process.wait(SECONDS) in (0, -signal.SIGTERM)


def test_a_log_that_is_not_read_holds_up_nothing(cluster: Callable[..., Cluster]) -> None:
    """Standard error is a pipe that is full: pages come, and the process ends when told to."""
    server = cluster()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    with serving_in(Surroundings(stderr=writer), dsn=server.dsn(user=MONITOR), log_level="debug") as running:
        assert probed(running).value("pg_up") == 1
        server.stop("immediate")
        for _ in range(3):
            assert probed(running).value("pg_up") == 0
        server.start()
        wait_until(lambda: probed(running).value("pg_up") == 1)
        running.process.terminate()
        assert running.process.wait(SECONDS) in (0, -signal.SIGTERM)
    os.close(reader)
    os.close(writer)


async def test_a_call_that_hangs_is_joined_not_repeated() -> None:
    off_loop, go_on, calls = OffLoop(), Event(), []

    def work() -> int:
        calls.append(1)
        go_on.wait(SECONDS)
        return 7

    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"password_file: not read within 0.1 s"):
            await off_loop.call("password_file", work, 0.1)
    waiting = asyncio.create_task(off_loop.call("password_file", work, SECONDS))
    await asyncio.sleep(0)
    go_on.set()
    assert (await waiting, len(calls)) == (7, 1)
    assert await off_loop.call("password_file", work, SECONDS) == 7
    assert len(calls) == 2


async def test_the_error_of_a_call_is_that_of_its_work() -> None:
    with pytest.raises(FileNotFoundError):
        await OffLoop().call("a file", lambda: Path("/nowhere").read_text(), SECONDS)


async def test_addresses_are_remembered_while_dns_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is gone is an answer, which counts."""
    over = Event()
    answers = {"db": [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]}

    def look_up(host: str, *_: object, **__: object) -> object:
        if host in answers:
            return answers[host]
        if not over.is_set():
            over.wait(SECONDS)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    addresses = Addresses(OffLoop())
    assert await addresses.of("192.0.2.1", SECONDS) == ["192.0.2.1"]
    assert await addresses.of("db", SECONDS) == ["192.0.2.7"]
    answers.clear()
    assert await addresses.of("db", SECONDS) == ["192.0.2.7"]
    started = time.monotonic()
    assert await addresses.of("db", SECONDS) == ["192.0.2.7"]
    assert time.monotonic() - started < SECONDS / 2
    with pytest.raises(TimeoutError, match="the address of other"):
        await addresses.of("other", 0.1)
    over.set()
    await asyncio.sleep(0.1)
    with pytest.raises(socket.gaierror):
        await addresses.of("db", SECONDS)


def test_a_user_whom_the_system_does_not_know_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, whose uid has no name and whose HOME is not set."""

    def unknown(*_: object) -> None:
        raise KeyError("uid not found")

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(SettingsError, match="dsn: user: none is given"):
        driver_arguments({"host": "db"})
    assert driver_arguments({"host": "db", "user": "u"})["user"] == "u"
