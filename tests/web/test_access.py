"""Who is let in: users, tokens, networks, and what is open to all; over HTTP in this process, without a server."""

import asyncio
import base64
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
import yaml
from patience import until, wait_until
from serving import environment, run, serving
from starlette.types import Scope

from exporter.demo.cluster import free_port
from exporter.errors import SettingsError
from exporter.settings import Settings
from exporter.web.access import _is_local
from exporter.web.app import create_app
from exporter.web.guard import Guard
from exporter.web.rate_limit import Bucket
from exporter.web.server import _listeners
from exporter.web.users import Users

HASH = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
TOKEN = "0123456789abcdef-token"
FAR = "192.0.2.7"


def settings(folder: Path, web: dict[str, Any] | None = None, **more: Any) -> Settings:
    """Settings with a web configuration."""
    if web is not None:
        (folder / "web.yml").write_text(yaml.safe_dump(web))
        more["web_config_file"] = folder / "web.yml"
    return Settings(targets=(), **more)


@asynccontextmanager
async def client(of: Settings, address: str = FAR, guard: Guard | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client at an address."""
    transport = httpx.ASGITransport(create_app({}, of, guard or Guard(of)), client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://exporter:9187") as found:
        yield found


async def statuses(of: Settings, address: str = FAR, host: str = "exporter:9187", **how: Any) -> dict[str, int]:
    """The status of each kind of route."""
    paths = ("/metrics", "/", "/statements", "/api/v1/now", "/static/pgvigil.css", "/healthz", "/readyz")
    async with client(of, address) as asking:
        return {path: (await asking.get(path, headers={"Host": host}, **how)).status_code for path in paths}


OPEN = {"/metrics": 200, "/healthz": 200, "/readyz": 200}
ALL = {**OPEN, "/": 200, "/statements": 200, "/api/v1/now": 200, "/static/pgvigil.css": 200}


def closed(status: int) -> dict[str, int]:
    """What is left where pages are refused."""
    return {path: OPEN.get(path, status) for path in ALL}


@pytest.mark.parametrize(
    ("address", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:9187", ALL),
        ("127.0.0.9", "localhost:9187", ALL),
        ("::1", "[::1]:9187", ALL),
        ("::ffff:127.0.0.1", "localhost", ALL),
        (FAR, "127.0.0.1:9187", closed(403)),
        ("::ffff:192.0.2.7", "localhost", closed(403)),
        ("127.0.0.1", "192.0.2.2:9187", closed(403)),
        ("10.1.2.3", "exporter.example.com", ALL),
        ("10.1.2.3", "192.0.2.2:9187", ALL),
        ("fd00::7", "exporter.example.com", ALL),
        ("127.0.0.1", "evil.example.com:9187", closed(403)),
        ("127.0.0.1", "localhost.evil.example.com", closed(403)),
        ("127.0.0.1", "", closed(403)),
        ("127.0.0.1", "[::1].evil.example.com", closed(403)),
        ("127.0.0.1", "[::1]", ALL),
    ],
)
async def test_without_users_pages_are_for_this_machine_and_the_networks_named(
    address: str, host: str, expected: dict[str, int], tmp_path: Path
) -> None:
    found = settings(tmp_path, pages_from="10.0.0.0/8, fd00::/8")
    assert await statuses(found, address, host) == expected


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "Forwarded",
        "X-Real-IP",
        "Via",
        "X-Envoy-External-Address",
        "X-Request-Id",
    ],
)
async def test_what_a_proxy_passes_on_is_not_local(name: str, tmp_path: Path) -> None:
    async with client(settings(tmp_path, pages_from="10.0.0.0/8"), "127.0.0.1") as asking:
        passed_on = await asking.get("/", headers={"Host": "localhost", name: "10.0.0.1"})
        own = await asking.get("/", headers={"Host": "localhost"})
    assert (passed_on.status_code, own.status_code) == (403, 200)


def asked(**more: Any) -> Scope:
    """A request of this machine, as the server hands it over."""
    client, server = ("127.0.0.1", 1), ("127.0.0.1", 9187)
    return {"http_version": "1.1", "client": client, "server": server, "headers": [(b"host", b"localhost")], **more}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked(), True),
        (asked(http_version="1.0"), False),
        (asked(client=None, server=("/run/pgvigil.sock", None)), True),
        (asked(client=None, server=("/run/pgvigil.sock", None), headers=[(b"host", b"db1.example.com")]), False),
        (asked(client=None), False),
    ],
    ids=["here", "by the HTTP of proxies", "by a Unix socket", "by one with a proxy before it", "gone already"],
)
def test_who_asks_by_what_a_proxy_speaks_is_not_local(request_: Scope, expected: bool) -> None:
    assert _is_local(request_, ()) is expected


async def test_a_refusal_says_what_to_set_and_is_counted(tmp_path: Path) -> None:
    async with client(settings(tmp_path)) as asking:
        page, answer = await asking.get("/"), await asking.get("/api/v1/now")
        metrics = (await asking.get("/metrics")).text
    assert "pages_from" in page.text
    assert "pages_from" in answer.json()["detail"]
    assert 'pgvigil_http_refused_total{reason="pages"} 2' in metrics
    assert "pgvigil_web_config_success 1" in metrics


@pytest.mark.parametrize(
    ("pages", "web", "local", "far"),
    [
        ("off", None, closed(404), closed(404)),
        ("authenticated", None, closed(403), closed(403)),
        ("authenticated", {"basic_auth_users": {"alice": HASH}}, ALL, ALL),
        ("local", {"basic_auth_users": {"alice": HASH}}, ALL, closed(403)),
        (None, {"basic_auth_users": {"alice": HASH}}, ALL, ALL),
    ],
)
async def test_the_policy_for_pages(
    pages: Any, web: dict[str, Any] | None, local: dict[str, int], far: dict[str, int], tmp_path: Path
) -> None:
    found = settings(tmp_path, web, pages=pages)
    auth = ("alice", "right")
    assert await statuses(found, "127.0.0.1", "localhost", auth=auth) == local
    assert await statuses(found, FAR, auth=auth) == far


def basic(text: bytes) -> str:
    """The header of basic authentication."""
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (basic(b"alice:right"), 200),
        (basic(b"bob:a:b\xc3\xa9"), 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer  {TOKEN} ", 200),
        (basic(b"alice:wrong"), 401),
        (basic(b"alice:right\0"), 401),
        (basic(b"Alice:right"), 401),
        (basic(b"nobody:right"), 401),
        (basic(b"nobody:" + b"x" * 9000), 401),
        (basic(b"alice"), 401),
        (basic(b""), 401),
        ("Basic !!!", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer", 401),
        (f"Digest {TOKEN}", 401),
        ("", 401),
    ],
)
async def test_credentials(header: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"# Prometheus\n{TOKEN}\n\n")
    other = bcrypt.hashpw("a:bé".encode(), bcrypt.gensalt(4, b"2a")).decode()
    web = {"basic_auth_users": {"alice": HASH, "bob": other}}
    found = settings(tmp_path, web, bearer_token_file=tmp_path / "tokens")
    async with client(found) as asking:
        answer = await asking.get("/metrics", headers={"Authorization": header} if header else {})
        open_to_all = await asking.get("/healthz")
    assert (answer.status_code, open_to_all.status_code) == (status, 200)
    assert answer.headers.get("WWW-Authenticate") == ("Basic" if status == 401 else None)
    if status == 401:
        assert ("the credentials are wrong" if header else "credentials are needed") in answer.text


async def test_an_unknown_user_costs_as_much_as_a_wrong_password_and_a_right_one_is_remembered() -> None:
    users = Users({"alice": bcrypt.hashpw(b"right", bcrypt.gensalt(9)).decode()})
    took: dict[str, list[float]] = {"alice:wrong": [], "nobody:wrong": [], "alice:right": []}
    for _ in range(7):
        for text, seconds in took.items():
            began = time.process_time()
            await users.judge(basic(text.encode()))
            seconds.append(time.process_time() - began)
    median = {text: statistics.median(seconds) for text, seconds in took.items()}
    assert 0.5 < median["nobody:wrong"] / median["alice:wrong"] < 2
    assert median["alice:right"] < median["alice:wrong"] / 5


async def test_users_whose_hashes_cost_less_cost_as_much() -> None:
    costs = {"cheap": 4, "dear": 9}
    users = Users({name: bcrypt.hashpw(b"right", bcrypt.gensalt(cost)).decode() for name, cost in costs.items()})
    took: dict[str, list[float]] = {"cheap:wrong": [], "dear:wrong": [], "nobody:wrong": []}
    for _ in range(7):
        for text, seconds in took.items():
            began = time.process_time()
            await users.judge(basic(text.encode()))
            seconds.append(time.process_time() - began)
    medians = [statistics.median(seconds) for seconds in took.values()]
    assert max(medians) < 2 * min(medians)


async def test_what_was_right_is_remembered_over_a_change_of_files_and_forgotten_with_its_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashes = {"alice": bcrypt.hashpw(b"right", bcrypt.gensalt(9)).decode()}
    before = Users(hashes)
    assert await before.judge(basic(b"alice:right")) == "allowed"
    checks = Counter[str]()
    monkeypatch.setattr("exporter.web.users._is_right", lambda *_: checks.update(["one"]) or True)
    assert await Users(hashes, (), before).judge(basic(b"alice:right")) == "allowed"
    assert not checks
    monkeypatch.undo()
    changed = {"alice": bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()}
    assert await Users(changed, (), before).judge(basic(b"alice:right")) == "refused"
    assert await Users({}, ["0123456789abcdef"], before).judge(basic(b"alice:right")) == "refused"


async def test_guesses_are_checked_one_at_a_time_and_keep_out_nobody_who_is_known() -> None:
    users = Users({"alice": bcrypt.hashpw(b"right", bcrypt.gensalt(8)).decode()})
    assert await users.judge(basic(b"alice:right")) == "allowed"
    guesses = [asyncio.create_task(users.judge(basic(f"alice:{number}".encode()))) for number in range(100)]
    await asyncio.sleep(0)
    assert await users.judge(basic(b"alice:right")) == "allowed"
    verdicts = await asyncio.gather(*guesses)
    assert verdicts.count("refused") == 16
    assert verdicts.count("busy") == 84


async def test_headers_are_on_every_answer_and_the_rate_is_limited(tmp_path: Path) -> None:
    web = {
        "http_server_config": {"headers": {"X-Frame-Options": "sameorigin", "Content-Security-Policy": ""}},
        "rate_limit": {"interval": "1h", "burst": 3},
    }
    async with client(settings(tmp_path, web), "127.0.0.1") as asking:
        answers = [await asking.get(path) for path in ("/metrics", "/", "/healthz", "/metrics", "/metrics")]
    assert [answer.status_code for answer in answers] == [200, 403, 200, 200, 429]  # the health check takes no token
    assert {answer.headers["X-Frame-Options"] for answer in answers} == {"sameorigin"}


def test_a_bucket_fills_up_again() -> None:
    now = 0.0
    bucket = Bucket(2.0, 3, lambda: now)
    assert [bucket.allows() for _ in range(4)] == [True, True, True, False]
    now = 3.9
    assert [bucket.allows() for _ in range(2)] == [True, False]
    now = 100.0
    assert [bucket.allows() for _ in range(4)] == [True, True, True, False]
    assert not Bucket(1.0, 0, lambda: now).allows()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no token"),
        ("# none\n", "has no token"),
        ("0123456789abcdef\nshort\n", "line 2: is no token"),
        ("with blanks 0123456789", "line 1: is no token"),
        ("\n".join(f"{number:016}" for number in range(101)), "has more than 100 tokens"),
    ],
)
def test_tokens_that_cannot_be_used_are_said_without_them(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(SettingsError) as found:
        Guard(settings(tmp_path, bearer_token_file=file))
    assert str(found.value).startswith(f"{file}: ")
    assert said in str(found.value)
    assert "0123456789" not in str(found.value)


def test_a_token_where_a_file_is_to_be_named_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as found:
        Guard(settings(tmp_path, bearer_token_file=Path("s3cret-token-of-prometheus")))
    assert str(found.value).startswith("bearer_token_file: cannot be read: No such file or directory.")


async def test_users_and_tokens_change_with_their_files_and_a_broken_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("exporter.web.guard._LOOK_SECONDS", 0.05)
    found = settings(tmp_path, {"basic_auth_users": {"alice": HASH}})
    guard = Guard(found)
    watching = asyncio.create_task(guard.watch())

    async def status(user: str) -> int:
        async with client(found, guard=guard) as asking:
            return (await asking.get("/metrics", auth=(user, "right"))).status_code

    async def becomes(user: str, wanted: int) -> None:
        await until(lambda: _is(status(user), wanted))

    async def success() -> float:
        return next(each.values[0] or 0.0 for each in guard.families() if each.metric.name.endswith("config_success"))

    assert (await status("alice"), await status("bob")) == (200, 401)
    (tmp_path / "web.yml").write_text(yaml.safe_dump({"basic_auth_users": {"bob": HASH}}))
    await becomes("bob", 200)
    assert await status("alice") == 401
    (tmp_path / "web.yml").write_text("basic_auth_users: {carol: plain}")
    await until(lambda: _is(success(), 0.0))
    (tmp_path / "web.yml").write_text("tls_server_config: {key_file: other.key}")
    await until(lambda: _is(_reasons(caplog), 2))
    said = [getattr(each, "reason", "") for each in caplog.records]
    assert [any(words in each for each in said) for words in ("carol", "neither cert nor cert_file")] == [True, True]
    assert await status("bob") == 200
    for text in (
        "",
        "{}",
        "http_server_config: {headers: {X-Frame-Options: deny}}",
    ):  # for a moment, while it is written
        (tmp_path / "web.yml").write_text(text)
        await asyncio.sleep(0.2)
        assert (await status("bob"), await status("nobody")) == (200, 401)
    before = yaml.safe_dump({"basic_auth_users": {"bob": HASH}})
    (tmp_path / "web.yml").write_text(before)
    await until(lambda: _is(success(), 1.0))
    (tmp_path / "web.yml").rename(tmp_path / "away")
    await until(lambda: _is(success(), 0.0))
    assert await status("bob") == 200
    (tmp_path / "away").rename(tmp_path / "web.yml")  # the same file
    await until(lambda: _is(success(), 1.0))
    (tmp_path / "web.yml").write_text(yaml.safe_dump({"basic_auth_users": {"carol": HASH}}))
    await becomes("carol", 200)
    assert await success() == 1
    watching.cancel()


async def _reasons(caplog: pytest.LogCaptureFixture) -> int:
    """How many reasons the log has."""
    return len([each for each in caplog.records if getattr(each, "reason", "")])


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


def test_a_real_exporter_listens_on_several_addresses_and_knows_its_users(tmp_path: Path) -> None:
    web = tmp_path / "web.yml"
    web.write_text(yaml.safe_dump({"basic_auth_users": {"alice": HASH}}))
    with serving(web_config_file=str(web), targets="[]") as exporter:
        assert httpx.get(f"{exporter.url}/metrics").status_code == 401
        wait_until(lambda: httpx.get(f"{exporter.url}/metrics", auth=("alice", "right")).status_code == 200)
        assert httpx.get(f"{exporter.url}/collectors", auth=("alice", "right"), timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("hosts", "families"),
    [
        (["::"], [{socket.AF_INET, socket.AF_INET6}]),
        (["0.0.0.0", "::"], [{socket.AF_INET}, {socket.AF_INET6}]),
        (["::", "127.0.0.1"], [{socket.AF_INET6}, {socket.AF_INET}]),
        (["::1"], [{socket.AF_INET6}]),
    ],
)
def test_all_addresses_of_ipv6_take_ipv4_where_it_has_none_of_its_own(
    hosts: list[str], families: list[set[socket.AddressFamily]]
) -> None:
    """Two addresses of one port are no clash."""
    port = free_port()
    with ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in _listeners([(host, port) for host in hosts])]
        found = [
            {each.family} | ({socket.AF_INET} if each.family == socket.AF_INET6 and not _only_v6(each) else set())
            for each in listeners
        ]
        stack.enter_context(socket.create_connection(("::1", port), 5))
        if socket.AF_INET in set().union(*families):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
    assert found == families


def _only_v6(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def test_a_plain_password_in_the_file_is_an_error_that_does_not_repeat_it(tmp_path: Path) -> None:
    web = tmp_path / "web.yml"
    web.write_text("basic_auth_users: {alice: my plain word}")
    done = run("serve", web_config_file=str(web), targets="[]", listen="127.0.0.1:0")
    assert done.returncode == 1
    assert "alice: its password is not hashed with bcrypt" in done.stderr
    assert "plain word" not in done.stdout + done.stderr


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Hands a socket over as systemd does, and becomes the program."""


def test_addresses_and_the_file_come_as_flags_too_and_sockets_from_systemd(tmp_path: Path) -> None:
    web = tmp_path / "web.yml"
    web.write_text(yaml.safe_dump({"basic_auth_users": {"alice": HASH}}))
    ports = [free_port(), free_port()]
    flags = ["--web.config.file", str(web), *(f"--web.listen-address=127.0.0.1:{port}" for port in ports)]
    command = [sys.executable, "-m", "exporter", "serve", *flags]
    with socket.create_server(("127.0.0.1", 0)) as handed:
        place = handed.getsockname()[1]
        for program, pass_fds, served in (
            (command, (), ports),
            ([sys.executable, "-c", HAND_OVER, str(handed.fileno()), *command], (handed.fileno(),), [place]),
        ):
            with subprocess.Popen(program, env=environment(targets="[]"), pass_fds=pass_fds) as process:
                try:
                    for port in served:
                        wait_until(partial(_is_served, port), every=0.2)
                finally:
                    process.terminate()


def _is_served(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=2).status_code == 401
    except httpx.TransportError:
        return False
