"""The password file, line by line as libpq reads it."""

from collections.abc import Callable
from pathlib import Path

import hostile_server
import psycopg
import pytest
from pages import MONITOR
from pydantic import SecretStr
from standby import clone_standby

from exporter.connections.driver_arguments import driver_arguments, each_server
from exporter.connections.dsn import parameters
from exporter.connections.pgpass import password_in
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster, free_port
from exporter.errors import ConnectError

RIGHT = "db:5432:shop:ann:right"

LINES: list[tuple[bytes, str | None]] = [
    (RIGHT.encode(), "right"),
    (b"*:*:*:*:right", "right"),
    (b"db:5432:shop:bob:wrong\n*:*:*:ann:right\n*:*:*:*:wrong", "right"),
    (b"# a comment\n\ntoo:few:fields\n" + RIGHT.encode(), "right"),
    (b"\xff:\xfe\n*:*:shop\xff:ann:wrong\n" + RIGHT.encode() + b"\r\n", "right"),
    (b"*:*:*:*:ri\\:g\\\\ht", "ri:g\\ht"),
    (b"*:*:*:*:x:y", "x"),
    (b"*:*:*:a\\nn:right", "right"),
    (b"*:*:*:*:", ""),
    (b"other:5432:shop:ann:wrong", None),
    (b"*:*:*:ann", None),
    (b"", None),
]


@pytest.mark.parametrize(("text", "password"), LINES)
def test_a_line_is_read_as_libpq_reads_it(tmp_path: Path, text: bytes, password: str | None) -> None:
    file = tmp_path / "pgpass"
    file.write_bytes(text)
    file.chmod(0o600)
    assert password_in(file, ("db", "5432"), "shop", "ann") == password


def test_a_file_that_libpq_ignores_has_no_password(tmp_path: Path) -> None:
    file, server = tmp_path / "pgpass", ("db", "5432")
    file.write_text("*:*:*:*:right")
    file.chmod(0o640)
    assert password_in(file, server, "shop", "ann") is None
    assert password_in(tmp_path / "nowhere", server, "shop", "ann") is None
    assert password_in(Path("/proc/self/mem"), server, "shop", "ann") is None  # nobody can read its beginning


ROLES = {
    "any": "primary",
    "primary": "primary",
    "standby": "standby",
    "prefer-standby": "standby",
    "read-write": "primary",
    "read-only": "standby",
}
"""Value of target_session_attrs -> the server that is taken."""

BY_HOST = """
localhost:5432:*:*:of localhost
/var/run/postgresql:*:*:*:never
/run/postgresql:*:*:*:of the other folder
/tmp/x:5433:*:*:of a folder
one:1:*:*:of one
192.0.2.1:*:*:*:of an address
"""


@pytest.mark.parametrize(
    ("dsn", "passwords"),
    [
        ("", ["of localhost"]),
        ("host=localhost", ["of localhost"]),
        ("host=/var/run/postgresql", ["of localhost"]),
        ("host=/run/postgresql", ["of the other folder"]),
        ("host=/tmp/x", [None]),
        ("host=/tmp/x port=5433", ["of a folder"]),
        ("hostaddr=192.0.2.1", ["of an address"]),
        ("host=one,two,localhost port=1,1,5432", ["of one", None, "of localhost"]),
        ("host=one,/tmp/x,/var/run/postgresql port=2,5433,", [None, "of a folder", "of localhost"]),
        ("host=two,one port=1", [None, "of one"]),
        ("host=one,two port=1 password=given", ["given", "given"]),
    ],
)
def test_each_host_has_the_password_that_libpq_looks_up_for_it(
    tmp_path: Path, dsn: str, passwords: list[str | None]
) -> None:
    file = tmp_path / "pgpass"
    file.write_text(BY_HOST)
    file.chmod(0o600)
    servers = each_server(parameters(f"{dsn} user=ann passfile={file}", {}))
    assert [driver_arguments(server).get("password") for server in servers] == passwords


@pytest.mark.parametrize("password", ["a:b", "a\\b", "plain"])
async def test_libpq_and_we_get_in_with_the_same_file(
    cluster: Callable[..., Cluster], tmp_path: Path, password: str
) -> None:
    server = cluster(auth="scram-sha-256", password="right")
    server.execute(f"CREATE ROLE {MONITOR}_2 LOGIN PASSWORD '{password}'")
    file = tmp_path / "pgpass"
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    file.write_text(f"no line of libpq's\n*:{server.port}:*:{MONITOR}_2:{escaped}\n")
    file.chmod(0o600)
    dsn = f"host=127.0.0.1 port={server.port} user={MONITOR}_2 dbname=postgres passfile={file}"
    psycopg.connect(dsn).close()
    async with await Postgres(SecretStr(dsn)).connect() as session:
        assert session.is_usable


async def test_no_host_is_sent_the_password_of_another(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """The first host is down, as in the middle of a failover."""
    server, down = cluster(auth="scram-sha-256", password="right"), free_port()
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{down}:*:postgres:of another\n127.0.0.1:{server.port}:*:postgres:right\n")
    file.chmod(0o600)
    dsn = f"host=127.0.0.1,127.0.0.1 port={down},{server.port} user=postgres dbname=postgres passfile={file}"
    psycopg.connect(dsn).close()
    async with await Postgres(SecretStr(dsn)).connect() as session:
        assert session.is_usable


async def test_the_host_that_rejects_a_login_is_named_and_ends_the_search(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    server, down = cluster(auth="scram-sha-256", password="right"), free_port()
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:postgres:s3cret\n")
    file.chmod(0o600)
    hosts = f"host=127.0.0.1,127.0.0.1,127.0.0.1 port={down},{server.port},{down}"
    with pytest.raises(ConnectError) as caught:
        await Postgres(SecretStr(f"{hosts} user=postgres dbname=postgres passfile={file}")).connect()
    assert caught.value.reason == "authentication"
    assert str(caught.value).startswith(f"127.0.0.1:{server.port}: password authentication failed")


async def test_a_password_of_the_file_that_a_server_echoes_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    file.write_text("*:*:*:*:s3cret\n")
    file.chmod(0o600)

    async def echo(stream: hostile_server.Stream) -> None:
        stream[1].write(hostile_server.request(3))
        said = await stream[0].read(100)
        fields = b"SFATAL\0C28P01\0Mno " + said[5:].rstrip(b"\0") + b"\0\0"
        stream[1].write(hostile_server.message(b"E", fields))
        await stream[1].drain()

    async with hostile_server.listening(echo) as dsn:
        with pytest.raises(ConnectError, match=r"^no \*\*\* \(SQLSTATE 28P01\)"):
            await Postgres(SecretStr(f"{dsn.replace(':s3cret', '')}?passfile={file}")).connect()


async def test_of_several_hosts_the_one_in_the_role_that_is_asked_for_is_taken(server18: Cluster) -> None:
    standby = clone_standby(server18)
    standby.start()
    ports = {"primary": server18.port, "standby": standby.port}
    try:
        for attributes, expected in ROLES.items():
            dsn = f"host=127.0.0.1,127.0.0.1 port={','.join(map(str, ports.values()))} user=postgres dbname=postgres"
            async with await Postgres(SecretStr(f"{dsn} target_session_attrs={attributes}")).connect() as session:
                [row] = await session.rows("SELECT current_setting('port')::int AS port", 5)
            assert row["port"] == ports[expected], attributes
        alone = server18.dsn() + "?host=127.0.0.1,127.0.0.1&target_session_attrs="
        async with await Postgres(SecretStr(f"{alone}prefer-standby")).connect() as session:
            assert session.is_usable
        with pytest.raises(ConnectError, match="None of the hosts match"):
            await Postgres(SecretStr(f"{alone}standby")).connect()
    finally:
        standby.remove()
