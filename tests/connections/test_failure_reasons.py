"""Reasons do not depend on the language of the server's messages."""

import asyncio
import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest
from pydantic import SecretStr
from servers import MissingError, do_without

from exporter.connections.failure_reasons import OUT_OF_FILES_SENTENCE, query_reason, sentence
from exporter.connections.postgres import Postgres
from exporter.demo.build import Build, hand_over
from exporter.demo.cluster import FAST, Cluster, free_port
from exporter.errors import ConnectError, QueryError

BIN = Path("/usr/lib/postgresql/15/bin")
"""Debian's build. Those of the other majors have no translations."""

PROGRAM = """#!/bin/sh
export LOCPATH={locales} LC_ALL={ctype}
exec {bin}/postgres "$@"
"""


@pytest.fixture(params=["C", pytest.param("de_DE.utf8", marks=pytest.mark.full)])
def german(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server whose messages are German: in ASCII, in UTF-8."""
    if not (BIN.exists() and shutil.which("localedef") and Path("/usr/share/i18n/locales/de_DE").exists()):
        do_without(MissingError("German messages: Debian's postgresql-15, localedef and its sources are not here"))
    with TemporaryDirectory() as name:
        build = programs(Path(name), request.param)
        messages = "de_DE.utf8" if request.param == "C" else request.param
        with Cluster(build, settings={**FAST, "lc_messages": messages}) as server:
            yield server


def programs(folder: Path, ctype: str) -> Build:
    """The build, with a postgres that knows the German locales and has one of them as its own."""
    for name, charmap in (("de_DE.utf8", "UTF-8"), ("de_DE.iso88591", "ISO-8859-1")):
        subprocess.run(["localedef", "-c", "-i", "de_DE", "-f", charmap, str(folder / name)], check=True)
    for program in BIN.iterdir():
        (folder / program.name).symlink_to(program)
    (folder / "postgres").unlink()
    (folder / "postgres").write_text(PROGRAM.format(locales=folder, ctype=ctype, bin=BIN))
    (folder / "postgres").chmod(0o755)
    hand_over(folder)
    return Build(folder)


async def reason(dsn: str) -> str:
    """Why there is no session; empty when there is one."""
    try:
        async with await Postgres(SecretStr(dsn)).connect():
            return ""
    except ConnectError as error:
        return error.reason


async def test_a_german_server_that_shuts_down(german: Cluster) -> None:
    async with await Postgres(SecretStr(german.dsn())).connect() as session:
        os.kill(german.pid, signal.SIGTERM)
        while not (found := await reason(german.dsn())):
            await asyncio.sleep(0.02)
        assert found == "shutting_down"
        assert session.is_usable


async def test_a_german_server_that_refuses(german: Cluster) -> None:
    german.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 0; CREATE ROLE ordinary LOGIN")
    german.execute("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0")
    assert await reason(german.dsn(user="few")) == "too_many_connections"
    assert await reason(german.dsn(user="nobody_here")) == "authentication"
    refused = {"SELECT * FROM pg_authid": "permission", "SELECT pg_sleep(9)": "timeout", "SELECT 1/0": "query"}
    for database in ("postgres", "bytes"):
        async with await Postgres(SecretStr(german.dsn(database, "ordinary"))).connect() as session:
            for sql, why in refused.items():
                with pytest.raises(QueryError) as caught:
                    await session.fetch(sql, 0.2)
                assert caught.value.reason == why


async def test_the_reason_of_several_addresses_comes_from_their_error_numbers() -> None:
    assert await reason(f"postgresql://u@127.0.0.1:{free_port()},127.0.0.2:{free_port()}/d") == "refused"
    assert await reason(f"host=localhost port={free_port()} user=u") == "refused"
    assert await reason("postgresql://u@no-such-host.invalid/d") == "unreachable"


async def test_files_that_we_may_not_open_are_not_blamed_on_the_server(server18: Cluster) -> None:
    """As with a process of more clients than files; a name is looked up in files as well."""
    assert sentence(OSError(errno.EMFILE, "Too many open files")) == OUT_OF_FILES_SENTENCE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for host in ("127.0.0.1", "localhost"):
        dsn = server18.dsn().replace("127.0.0.1", host)
        connector = Postgres(SecretStr(dsn))
        os.close(next_one := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        try:
            with pytest.raises(ConnectError, match="the exporter may open no more files") as raised:
                await connector.connect()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert raised.value.reason == "out_of_files"
        async with await connector.connect():
            pass


async def test_a_database_that_is_gone_is_said(server18: Cluster) -> None:
    with pytest.raises(ConnectError) as raised:
        await Postgres(SecretStr(server18.dsn("gone"))).connect()
    assert raised.value.reason == "no_database"


async def test_the_value_that_a_query_stumbled_over_is_not_repeated(server18: Cluster) -> None:
    """The page has no login, and the log goes far."""
    async with await Postgres(SecretStr(server18.dsn())).connect() as session:
        for sql in ("SELECT ('4111' || 'x')::int AS x", "SELECT '4111x'::date AS x", "SELECT (4111 || '0000000')::int"):
            with pytest.raises(QueryError) as raised:
                await session.rows(sql, 5)
            assert "4111" not in str(raised.value)
            assert "SQLSTATE 22" in str(raised.value)


async def test_what_ends_with_its_connection_is_no_fault_of_the_query(server18: Cluster) -> None:
    """Where the driver was in the middle of something it has no SQLSTATE."""
    session = await Postgres(SecretStr(server18.dsn())).connect()
    assert query_reason(asyncpg.InternalClientError("unknown protocol state")) == "query"
    session.terminate()
    assert session._translated(asyncpg.InternalClientError("unknown protocol state")).reason == "connection"
