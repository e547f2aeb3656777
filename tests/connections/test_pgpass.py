"""The password file, line by line as libpq reads it."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from pages import MONITOR
from pydantic import SecretStr

from exporter.connections.pgpass import password_in
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster

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
    assert password_in(file, [("db", "5432")], "shop", "ann") == password


def test_the_first_server_that_a_line_is_for_counts(tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    file.write_text("two:*:*:*:of two\none:1:*:*:of one\n")
    file.chmod(0o600)
    servers = [("one", "2"), ("two", "5432"), ("one", "1")]
    assert password_in(file, servers, "shop", "ann") == "of two"
    file.chmod(0o640)
    assert password_in(file, servers, "shop", "ann") is None
    assert password_in(tmp_path / "nowhere", servers, "shop", "ann") is None
    assert password_in(Path("/proc/self/mem"), servers, "shop", "ann") is None  # nobody can read its beginning


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
