"""`pgvigil now`: the page in a terminal, in which names stay data; its exit codes and its errors."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pages import MONITOR
from patience import wait_until
from pydantic import TypeAdapter
from queues import queue
from serving import environment, run, serving

from exporter.commands.now import Address, now
from exporter.commands.situation_lines import Line, brief, whole
from exporter.demo.cluster import SUPERUSER, Cluster, free_port
from exporter.diagnosis.findings import Finding, Remedy
from exporter.diagnosis.lock_tree import Node
from exporter.diagnosis.situation import Situation, Vital
from exporter.errors import ExporterError

URL = "http://db.example:9187"

HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]x[/red]<script>\n\u202egro.live\x9b"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J[red]x[/red]<script>\n\u202egro.live\x9b"

NOW = Situation(
    target="shop",
    address="10.0.0.5:5432",
    product="PostgreSQL",
    is_up=True,
    down_reason="",
    version="18.1",
    role="primary",
    up_seconds=3 * 86_400.0,
    age=4.0,
    vitals=(
        Vital("connections", "23 of 97", "good", "alert from 80% used"),
        Vital("longest lock wait", "3 min", "critical", "alert from 10 s"),
    ),
    findings=(
        Finding(
            "PostgreSQLLockQueue",
            "critical",
            "pid 9148 (reporting, notebook, active) blocks 12 sessions",
            200.0,
            "UPDATE orders\n\tSET paid = ?",
            (
                Remedy("stops its statement", "SELECT pg_cancel_backend(9148);"),
                Remedy("ends its session", "SELECT pg_terminate_backend(9148);"),
            ),
        ),
        Finding("PostgreSQLDeadTuples", "warning", "table public.carts in shop has 10 dead rows", can_wait=True),
    ),
    locks=(
        Node(0, ("9148",), "reporting, notebook", "active", "client backend", 240.0, "UPDATE orders SET paid = ?", 12),
        Node(1, ("1", "2"), "web, shop", "active, waits for Lock relation", "client backend", None, "", 0),
    ),
)

WELL = replace(NOW, findings=(), locks=(), vitals=NOW.vitals[:1])

NOT_ASKED = replace(WELL, is_up=False, version="", role="", up_seconds=None, age=None)


def text(*lines: Line) -> str:
    return "\n".join("".join(part for part, _ in line).rstrip() for line in lines)


def test_all_of_a_server_is_told() -> None:
    assert (
        text(*whole(NOW, URL))
        == f"""\
shop  10.0.0.5:5432
PostgreSQL 18.1 is up, primary, started 3 days ago. Newest reading 4 s ago.

What is wrong now
  critical  pid 9148 (reporting, notebook, active) blocks 12 sessions
            for 3 min, runbook {URL}/runbooks/PostgreSQLLockQueue
              UPDATE orders
                      SET paid = ?
            1. stops its statement
               SELECT pg_cancel_backend(9148);
            2. ends its session
               SELECT pg_terminate_backend(9148);

What can wait for the day
  warning   table public.carts in shop has 10 dead rows
            runbook {URL}/runbooks/PostgreSQLDeadTuples

How near to its limits
  good      connections        23 of 97  alert from 80% used
  critical  longest lock wait  3 min     alert from 10 s

Who waits for whom
  pid 9148 reporting, notebook  active, 4 min, 12 behind it
    UPDATE orders SET paid = ?
    2 sessions web, shop  active, waits for Lock relation"""
    )


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (WELL, "PostgreSQL 18.1 is up, primary, started 3 days ago. Newest reading 4 s ago."),
        (NOT_ASKED, "PostgreSQL was not asked yet. Nothing is known yet."),
        (replace(NOT_ASKED, down_reason="hung"), "PostgreSQL is down: hung. Nothing is known yet."),
    ],
)
def test_the_state_of_a_server_is_said(now: Situation, expected: str) -> None:
    assert text(*whole(now, URL)).splitlines()[1] == expected


def test_only_of_a_server_that_answers_it_is_said_that_nothing_is_wrong() -> None:
    assert "  Nothing that is known." in text(*whole(WELL, URL)).splitlines()
    assert "Nothing that is known." not in text(*whole(NOT_ASKED, URL))
    waits = replace(WELL, findings=NOW.findings[1:])
    assert "  Nothing that is known, but what can wait for the day." in text(*whole(waits, URL)).splitlines()
    other = replace(WELL, product="PgBouncer", vitals=())
    assert "  It answers; nothing else of it is judged here." in text(*whole(other, URL)).splitlines()


def test_what_is_not_judged_is_told() -> None:
    young = replace(WELL, unjudged=("statements (not read yet)",))
    assert "  Nothing that is known so far.\n  Not judged: statements (not read yet)." in text(*whole(young, URL))
    rest = "shop  10.0.0.5:5432  nothing is wrong that is known. Not judged: statements (not read yet)"
    assert text(brief(young)) == f"  good      {rest}", "as the exit code says: this server can never tell it"
    assert text(brief(replace(young, is_judged=False))) == f"  unknown   {rest}"


def test_of_several_servers_the_worst_of_each_is_told() -> None:
    assert text(brief(NOW), brief(WELL), brief(NOT_ASKED)) == (
        "  critical  shop  10.0.0.5:5432  pid 9148 (reporting, notebook, active) blocks 12 sessions and 1 more\n"
        "  good      shop  10.0.0.5:5432  nothing is wrong that is known\n"
        "  unknown   shop  10.0.0.5:5432  was not asked yet"
    )


EVIL = replace(
    NOW,
    target=HOSTILE,
    address=HOSTILE,
    version=HOSTILE,
    role=HOSTILE,
    vitals=(Vital(HOSTILE, HOSTILE, "good", HOSTILE),),
    findings=(
        Finding(HOSTILE, "critical", HOSTILE, None, HOSTILE, (Remedy(HOSTILE, f"ROLLBACK PREPARED '{HOSTILE}';"),)),
    ),
    locks=(Node(0, (HOSTILE,), HOSTILE, HOSTILE, "", None, HOSTILE, 0),),
)


def test_names_that_attack_a_terminal_are_escaped() -> None:
    found = text(*whole(EVIL, URL), brief(EVIL))
    assert all(line.isprintable() for line in found.split("\n"))
    assert f"PostgreSQL {ESCAPED} is up, {ESCAPED}, started 3 days ago." in found
    assert f"  critical  {ESCAPED}\n" in found
    assert "characters that are escaped here: copy it from the page" in found
    assert f"ROLLBACK PREPARED '{ESCAPED}';" in found
    assert "[red]x[/red]<script>" in found


@dataclass
class Answers:
    """What a stand-in for an exporter answers, and what it was asked."""

    body: bytes
    status: int = 200
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and authorization of each request."""


@contextmanager
def answering(body: object, status: int = 200) -> Iterator[Answers]:
    """A stand-in for an exporter: situations, or bytes."""
    data = body if isinstance(body, bytes) else TypeAdapter(list[Situation]).dump_json(body)  # type: ignore[arg-type]
    answers = Answers(data, status)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            answers.asked.append((self.path, self.headers["Authorization"]))
            self.send_response(answers.status)
            self.send_header("Content-Length", str(len(answers.body)))
            self.end_headers()
            self.wfile.write(answers.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answers.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("situations", "code"),
    [
        ([NOW], 1),
        ([WELL], 0),
        ([NOT_ASKED], 2),
        ([replace(NOT_ASKED, down_reason="hung")], 1),
        ([WELL, NOW], 1),
        ([WELL, NOT_ASKED], 2),
        ([], 2),
    ],
    ids=["wrong", "well", "not asked", "down", "one of two", "one of two not asked", "none"],
)
def test_the_exit_code_says_whether_something_is_wrong(situations: list[Situation], code: int) -> None:
    with answering(situations) as exporter:
        done = run("now", "--url", exporter.url)
    assert (done.returncode, done.stderr) == (code, "")
    if len(situations) == 1:
        assert done.stdout.splitlines() == text(*whole(situations[0], exporter.url)).splitlines()
    else:
        last = "One of them: pgvigil now --target NAME" if situations else "The exporter watches no server: "
        assert done.stdout.splitlines()[-1].startswith(last)


def test_the_user_in_the_url_and_the_target_are_sent_and_a_link_from_the_browser_is_taken() -> None:
    with answering([WELL]) as exporter:
        place = exporter.url.removeprefix("http://")
        assert run("now", "--url", f"http://op:s%2F3@{place}/", "--target", "a&b").returncode == 0
        assert run("now", "--url", f"{place}/?target=shop").returncode == 0
    assert exporter.asked == [
        ("/api/v1/now?target=a%26b", "Basic b3A6cy8z"),
        ("/api/v1/now?target=shop", None),
    ]


def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.commands.now._MOST_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ExporterError, match="not answered within 1 s"):
            now(place, "")


def test_whoever_reads_may_have_seen_enough() -> None:
    with answering([WELL]) as exporter:
        command = f"{sys.executable} -m exporter now --url {exporter.url}"
        done = subprocess.run(
            ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
        )
        full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")
    assert (full.returncode, full.stderr.splitlines()) == (2, ["pgvigil: standard output: No space left on device"])


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret-of-a-robot\n")
    with answering([WELL]) as exporter:
        assert run("now", "--url", exporter.url, "--token-file", f"{tmp_path}/token").returncode == 0
    assert exporter.asked == [("/api/v1/now", "Bearer s3cret-of-a-robot")]


def test_a_user_and_a_token_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    done = run("now", "--url", "http://op:s3cret@127.0.0.1:1", "--token-file", f"{tmp_path}/token")
    assert (done.returncode, "the URL has a user as well. Give one of them" in done.stderr) == (2, True)
    assert "s3cret" not in done.stderr


ENCRYPTED = subprocess.run(
    ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:s3cret", "-subj", "/CN=op", "-keyout", "-"],
    capture_output=True, text=True, check=True,
).stdout  # fmt: skip
"""A certificate whose key has a passphrase: nobody is there to be asked for it."""


@pytest.mark.parametrize(
    ("content", "option", "said"),
    [
        ("", "--token-file", "expected one token, and nothing else"),
        ("s3cret and more", "--token-file", "expected one token, and nothing else"),
        ("s3cr\u00e9t", "--token-file", "is no text in ASCII"),
        ("s3cret", "--ca-file", "is no certificate in PEM"),
        ("s3cret", "--cert-file", "certificate and key are none, or do not belong together"),
        (ENCRYPTED, "--cert-file", "certificate and key are none, or do not belong together"),
        ("s3cret", "--key-file", "has no certificate. Give --cert-file as well"),
    ],
)
def test_a_file_that_is_no_credential_is_said_without_its_content(
    tmp_path: Path, content: str, option: str, said: str
) -> None:
    (tmp_path / "file").write_text(content)
    done = run("now", "--url", "https://127.0.0.1:1", option, f"{tmp_path}/file")
    assert (done.returncode, done.stdout, said in done.stderr) == (2, "", True), done.stderr
    assert "s3cr" not in done.stderr


def test_colours_are_for_terminals_and_what_attacks_one_does_not_reach_it() -> None:
    ours, its = pty.openpty()
    with answering([EVIL]) as exporter:
        command = [sys.executable, "-m", "exporter", "now", "--url", exporter.url]
        variables = {**environment(), "TERM": "xterm-256color"}
        variables.pop("NO_COLOR", None)
        with subprocess.Popen(command, stdout=its, stderr=subprocess.PIPE, env=variables) as process:
            os.close(its)
            shown = b""
            try:
                while piece := os.read(ours, 65536):
                    shown += piece
            except OSError:  # the other end is closed
                os.close(ours)
        assert process.returncode == 1
    assert b"\x1b[1;31m" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")
    assert plain.rstrip("\n") == text(*whole(EVIL, exporter.url))


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"<html>", 200, "is not the answer of a pgvigil. Say where it serves with --url"),
        (b'[{"target": "x"}]', 200, "is not the answer of a pgvigil. Say where it serves with --url"),
        (b'{"detail": "no target is named \'\\u001b[2J\'"}', 404, "no target is named '\\x1b[2J'"),
        (b"Not Found", 404, "404 Not Found. Is it a pgvigil? Say where it serves with --url"),
        (
            b"",
            401,
            (
                "401 Unauthorized. Write USER:PASSWORD@ before the host in --url,"
                " or give --token-file, which nobody sees in ps"
            ),
        ),
    ],
)
def test_an_answer_that_is_none_is_said_in_one_line(body: bytes, status: int, told: str) -> None:
    with answering(body, status) as exporter:
        done = run("now", "--url", exporter.url.replace("://", "://op:s3cret@"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"pgvigil: {exporter.url}/api/v1/now: {told}\n"


def test_an_exporter_that_does_not_run_is_said_with_what_to_do() -> None:
    place = f"127.0.0.1:{free_port()}"
    done = run("now", "--url", f"http://op:s3cret@{place}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"pgvigil: http://{place}/api/v1/now: cannot be read: Connection refused. Start the exporter there (pgvigil"
        " serve), or say where it serves with --url\n"
    )


@pytest.mark.parametrize(
    "url",
    [
        "ftp://op:s3cret@db.example",
        "file:///etc/passwd",
        "http://op:s3cret/x@db.example",
        "http://op:12#s3cret@db.example",
        "http://op:s3cret@[db.example",
        "http://",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ExporterError, match=r"^--url: is no address of an exporter\. Write http://HOST:PORT") as error:
        Address.of(url)
    assert "s3cret" not in str(error.value)


def test_a_lock_queue_is_told_as_the_page_tells_it(server18: Cluster) -> None:
    with (
        serving(dsn=server18.dsn(user=MONITOR), incident_lock_wait="1") as exporter,
        queue(server18, "[b]x[/b]") as pid,
    ):
        sentence = f"pid {pid} ({SUPERUSER}, [b]x[/b], idle in transaction"
        done = wait_until(lambda: sentence in (found := run("now", "--url", exporter.url)).stdout and found, every=0.5)
        missing = run("now", "--url", exporter.url, "--target", "nowhere")
        page = json.loads(exporter.get("/api/v1/now").text)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"SELECT pg_terminate_backend({pid});" in done.stdout
    assert f"\n  pid {pid} {SUPERUSER}, [b]x[/b]  idle in transaction" in done.stdout
    assert "\x1b" not in done.stdout
    assert f"{exporter.url}/runbooks/{page[0]['findings'][0]['alert']}" in done.stdout
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == (
        f"pgvigil: {exporter.url}/api/v1/now: no target is named 'nowhere'; there is one, without a name: leave out"
        " ?target=\n"
    )
