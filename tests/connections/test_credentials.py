"""Passwords that a file, a command or a cloud gives: fresh ones, expired ones, and none."""

import asyncio
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from http_answers import Answer, answering
from pages import read
from patience import until
from pydantic import SecretStr
from serving import run

from exporter.connections.cloud_tokens import from_cloud
from exporter.connections.credentials import COMMAND_SECONDS, FromCommand, FromFile, from_command
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster
from exporter.errors import ConnectError, SettingsError

SECRET = "pass word'\"ü"


@pytest.fixture
def guarded(cluster: Callable[..., Cluster]) -> Cluster:
    """A server that asks for a password."""
    return cluster(auth="scram-sha-256", password=SECRET)


def program(folder: Path, text: str) -> str:
    """Write a program in Python."""
    file = folder / "give"
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def counting(folder: Path, secret: str = SECRET) -> list[str]:
    """A command that prints what its file holds, and notes each run."""
    (folder / "secret").write_text(secret)
    text = (
        "import pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "with (here / 'runs').open('a') as runs: runs.write('x')\n"
        "print((here / 'secret').read_text(), file=sys.stdout)\n"
        "print('told on stderr: ' + (here / 'secret').read_text(), file=sys.stderr)\n"
    )
    return [program(folder, text)]


def runs(folder: Path) -> int:
    """How often it ran."""
    file = folder / "runs"
    return len(file.read_text()) if file.exists() else 0


async def logs_in(postgres: Postgres) -> bool:
    """Whether it opens a session."""
    async with await postgres.connect() as session:
        return session.is_usable


async def test_a_command_gives_the_password_and_is_not_run_for_each_login(guarded: Cluster, tmp_path: Path) -> None:
    postgres = Postgres(SecretStr(guarded.dsn(password="")), FromCommand(counting(tmp_path), 60))
    assert await logs_in(postgres)
    assert await logs_in(postgres)
    assert runs(tmp_path) == 1


async def test_what_has_expired_is_asked_for_again(tmp_path: Path) -> None:
    now = [0.0]
    command = FromCommand(counting(tmp_path, "one"), 60, lambda: now[0])
    assert await command.password({}, 30) == "one"
    (tmp_path / "secret").write_text("two")
    now[0] = 59
    assert await command.password({}, 30) == "one"
    now[0] = 61
    assert await command.password({}, 30) == "two"


async def test_a_kept_password_that_is_refused_is_asked_for_again_at_once(guarded: Cluster, tmp_path: Path) -> None:
    postgres = Postgres(SecretStr(guarded.dsn(password="")), FromCommand(counting(tmp_path), 3600))
    assert await logs_in(postgres)
    guarded.execute("ALTER ROLE CURRENT_USER PASSWORD 'another'")
    (tmp_path / "secret").write_text("another")
    assert await logs_in(postgres)
    assert runs(tmp_path) == 2


async def test_one_that_is_wrong_is_asked_for_once_more(guarded: Cluster, tmp_path: Path) -> None:
    postgres = Postgres(SecretStr(guarded.dsn(password="")), FromCommand(counting(tmp_path, "wrong"), 0))
    with pytest.raises(ConnectError) as caught:
        await postgres.connect()
    assert caught.value.reason == "authentication"
    assert runs(tmp_path) == 2, "it may have been changed since"
    assert "wrong" not in str(caught.value)


async def test_files_are_read_again_where_the_password_was_changed_during_the_login(
    guarded: Cluster, tmp_path: Path
) -> None:
    class Late(FromFile):
        """Reads the file as it was before."""

        def __init__(self, file: Path) -> None:
            super().__init__(file)
            self.times = 0

        async def password(self, server: Mapping[str, Any], patience: float) -> str:
            self.times += 1
            return "of yesterday" if self.times == 1 else await super().password(server, patience)

    file = tmp_path / "password"
    file.write_text(SECRET)
    late = Late(file)
    assert await logs_in(Postgres(SecretStr(guarded.dsn(password="")), late))
    assert late.times == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print('s3cret', flush=True); raise SystemExit(3)", "ended with exit code 3. Run it by hand"),
        ("print()", "printed no password"),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", "printed no password"),
        ("while True: print('x' * 65536)", "printed no password"),
        ("print('a' + chr(0))", "printed no password"),
    ],
    ids=["fails", "nothing", "no text", "no end", "a zero"],
)
async def test_a_command_that_gives_none_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await FromCommand(
            [program(tmp_path, f"print('s3cret', flush=True)\n{text}" if "3" in text else text)], 60
        ).password({}, 30)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_command_that_fails_rests_and_one_that_is_refused_again_and_again_does(tmp_path: Path) -> None:
    now = [0.0]
    fails = FromCommand([program(tmp_path, "raise SystemExit(3)")], 60, lambda: now[0])
    with pytest.raises(SettingsError, match="exit code 3"):
        await fails.password({}, 30)
    program(tmp_path, "print('mended')")
    with pytest.raises(SettingsError, match="exit code 3"):
        await fails.password({}, 30)
    now[0] = 1.5
    assert await fails.password({}, 30) == "mended"
    refused = FromCommand(counting(tmp_path, "wrong"), 3600, lambda: now[0])
    for tenth in range(600):
        now[0] = 100 + tenth / 10
        await refused.password({}, 30)
        refused.forget("wrong")
    assert runs(tmp_path) == 7, "the first, then after 0, 1, 3, 7, 15 and 31 seconds"


async def test_a_rotation_costs_no_login_of_those_that_share_a_command(guarded: Cluster, tmp_path: Path) -> None:
    """All are refused with the password of before: one has it printed again, and all take what comes."""
    command = counting(tmp_path)
    made = [Postgres(SecretStr(guarded.dsn(password="")), from_command(command, 3600)) for _ in range(10)]
    assert all(await asyncio.gather(*map(logs_in, made)))
    guarded.execute("ALTER ROLE CURRENT_USER PASSWORD 'another'")
    (tmp_path / "secret").write_text("another")
    assert all(await asyncio.gather(*map(logs_in, made)))
    assert runs(tmp_path) == 2


async def test_targets_with_the_same_command_share_it(tmp_path: Path) -> None:
    command = counting(tmp_path)
    made = [from_command(command, 60) for _ in range(100)]
    assert set(await asyncio.gather(*(each.password({}, 30) for each in made))) == {SECRET}
    assert runs(tmp_path) == 1
    assert from_command(command, 61) is not made[0]


async def test_a_command_that_there_is_not_is_named_unless_it_may_be_the_password_itself(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"password_command: {tmp_path}/give: No such file or directory\."):
        await FromCommand([f"{tmp_path}/give"], 60).password({}, 30)
    for word in (SECRET, f"/{SECRET}"):
        with pytest.raises(SettingsError, match=r"password_command: its first word: No such file or directory\. Name"):
            await FromCommand([word], 60).password({}, 30)


async def test_a_slow_command_holds_up_no_login_and_is_there_for_the_next(tmp_path: Path) -> None:
    slow = f"import time\ntime.sleep(1)\nprint({SECRET!r})"
    command = FromCommand([program(tmp_path, slow)], 60)
    with pytest.raises(SettingsError, match="has not ended within"):
        await command.password({}, 0.1)
    assert await until(lambda: command._known) is not None
    assert await command.password({}, 0.1) == SECRET


async def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.connections.credentials.COMMAND_SECONDS", 1.0)
    text = "import subprocess, pathlib\nchild = subprocess.Popen(['sleep', '600'])\n"
    text += "(pathlib.Path(__file__).parent / 'child').write_text(str(child.pid))\nchild.wait()"
    with pytest.raises(SettingsError, match="was killed"):
        await FromCommand([program(tmp_path, text)], 60).password({}, 30)
    child = int((tmp_path / "child").read_text())
    await until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    assert COMMAND_SECONDS == 30


@pytest.mark.parametrize("is_apart", [False, True], ids=["of its group", "of a session of its own"])
async def test_a_child_that_it_leaves_behind_keeps_no_password_back(tmp_path: Path, *, is_apart: bool) -> None:
    text = f"import subprocess, pathlib\nchild = subprocess.Popen(['sleep', '600'], start_new_session={is_apart})\n"
    text += f"(pathlib.Path(__file__).parent / 'child').write_text(str(child.pid))\nprint({SECRET!r}, flush=True)"
    command = FromCommand([program(tmp_path, text)], 60)
    open_files, began = psutil.Process().num_fds(), time.monotonic()
    try:
        assert await command.password({}, COMMAND_SECONDS) == SECRET
        assert time.monotonic() - began < COMMAND_SECONDS / 2
        await until(lambda: psutil.Process().num_fds() <= open_files)
        if not is_apart:
            await until(lambda: not lives(tmp_path))
    finally:
        if lives(tmp_path):
            psutil.Process(int((tmp_path / "child").read_text())).kill()


def lives(folder: Path) -> bool:
    """Whether the child that a command left behind runs."""
    child = int((folder / "child").read_text())
    return psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE


async def test_logins_at_once_share_one_run(tmp_path: Path) -> None:
    command = FromCommand(counting(tmp_path), 60)
    assert set(await asyncio.gather(*(command.password({}, 30) for _ in range(10)))) == {SECRET}
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("given", ["shell", "json"])
def test_it_is_given_as_words_or_as_a_list(guarded: Cluster, tmp_path: Path, given: str) -> None:
    [file] = counting(tmp_path)
    words = f"'{file}' --for pgvigil" if given == "shell" else json.dumps([file, "--for", "pgvigil"])
    done = run("scrape", dsn=guarded.dsn(password=""), password_command=words, log_level="debug")
    assert read(done.stdout).value("pg_up") == 1
    assert SECRET not in done.stderr
    assert "told on stderr" not in done.stderr


def test_only_one_source_is_given(tmp_path: Path) -> None:
    done = run("check", dsn="host=h", password_command="give", password_file=str(tmp_path))
    assert (done.returncode, "PGVIGIL_PASSWORD_FILE and PGVIGIL_PASSWORD_COMMAND: give one of them" in done.stderr) == (
        2,
        True,
    )


@contextmanager
def metadata(answer: Callable[[str, Mapping[str, str]], Any]) -> Iterator[str]:
    """A metadata service of a cloud, as far as its library asks it; gives host and port."""

    def said(path: str, headers: Mapping[str, str]) -> Answer:
        found = answer(path, headers)
        kind = "text/plain" if isinstance(found, str) else "application/json"
        body = found if isinstance(found, str) else json.dumps(found)
        return Answer(body.encode(), headers={"Metadata-Flavor": "Google", "Content-Type": kind})

    with answering(said) as place:
        yield place


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Leave the machine's own accounts out."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "GCE_", "AZURE_", "IDENTITY_", "MSI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


SERVER = {"host": "shop.cluster-x.eu-central-1.rds.amazonaws.com", "port": 5433, "user": "pgvigil"}


async def test_aws_signs_a_token_for_this_host_and_user(nobody: pytest.MonkeyPatch) -> None:
    nobody.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    nobody.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    token = await from_cloud("aws").password(SERVER, 60)
    asked = parse_qs(urlsplit(f"https://{token}").query)
    assert token.startswith(f"{SERVER['host']}:5433/?")
    assert (asked["Action"], asked["DBUser"]) == (["connect"], ["pgvigil"])
    assert asked["X-Amz-Credential"][0].split("/")[0::2] == ["AKIDEXAMPLE", "eu-central-1", "aws4_request"]
    assert "s3cret" not in token


async def test_aws_without_an_account_says_so(nobody: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"password_source: aws: no token: NoCredentialsError: "):
        await from_cloud("aws").password(SERVER, 60)


async def test_aws_needs_a_region(nobody: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"db\.example names no region\. Set AWS_REGION"):
        await from_cloud("aws").password({**SERVER, "host": "db.example"}, 60)
    nobody.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    nobody.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    nobody.setenv("AWS_REGION", "us-gov-west-1")
    assert "us-gov-west-1" in await from_cloud("aws").password({**SERVER, "host": "db.example"}, 60)
    assert "eu-central-1" in await from_cloud("aws").password(SERVER, 60), "where the server is"


async def test_google_fetches_a_token_of_the_machine_and_again_when_it_expires(nobody: pytest.MonkeyPatch) -> None:
    given = list[str]()

    def answer(path: str, _: Mapping[str, str]) -> Any:
        if "/token" in path:
            assert "sqlservice.login" in path
            given.append(path)
            return {"access_token": f"token {len(given)}", "expires_in": 1, "token_type": "Bearer"}
        return {"email": "pgvigil@project", "scopes": [], "aliases": []} if "recursive" in path else "project"

    with metadata(answer) as place:
        nobody.setenv("GCE_METADATA_HOST", place)
        nobody.setenv("GCE_METADATA_IP", place)
        source = from_cloud("google")
        assert [await source.password(SERVER, 60) for _ in range(2)] == ["token 1", "token 2"]


async def test_azure_fetches_a_token_of_the_managed_identity(nobody: pytest.MonkeyPatch) -> None:
    def answer(path: str, headers: Mapping[str, str]) -> Any:
        asked = parse_qs(urlsplit(path).query)
        assert asked["resource"] == ["https://ossrdbms-aad.database.windows.net"]
        assert {name.upper(): value for name, value in headers.items()}["X-IDENTITY-HEADER"] == "known"
        until = str(int(time.time()) + 3600)
        return {"access_token": "token of azure", "expires_on": until, "resource": "r", "token_type": "Bearer"}

    with metadata(answer) as place:
        nobody.setenv("IDENTITY_ENDPOINT", f"http://{place}/msi/token")
        nobody.setenv("IDENTITY_HEADER", "known")
        assert await from_cloud("azure").password(SERVER, 60) == "token of azure"


async def test_a_cloud_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(SettingsError, match=r"pip install 'pgvigil\[aws\]'"):
        from_cloud("aws")


async def test_each_login_has_a_token_of_its_own(guarded: Cluster) -> None:
    class Counted:
        """Tokens that the server knows one after another."""

        def __init__(self) -> None:
            self.asked = list[Mapping[str, Any]]()

        async def password(self, server: Mapping[str, Any], _: float) -> str:
            self.asked.append(server)
            guarded.execute(f"ALTER ROLE app PASSWORD 'token {len(self.asked)}'")
            return f"token {len(self.asked)}"

        def forget(self, _: str) -> bool:
            return False

    guarded.execute("CREATE ROLE app LOGIN")
    tokens = Counted()
    postgres = Postgres(SecretStr(guarded.dsn(user="app", password="")), tokens)
    assert await logs_in(postgres)
    assert await logs_in(postgres)
    assert [each["port"] for each in tokens.asked] == [guarded.port] * 2
