"""The healthy control: a server under steady load, with backups, vacuum, reports and planned index builds."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from exporter.demo.cluster import SUPERUSER, Cluster
from exporter.demo.shop import MONITOR

DATABASE = "bench"
SCALE = 10
CLIENTS = 4
TRANSACTIONS_PER_SECOND = 40

PREPARE = f"""
    CREATE ROLE {MONITOR} LOGIN PASSWORD '{{password}}';
    GRANT pg_monitor TO {MONITOR};
    CREATE ROLE app LOGIN SUPERUSER PASSWORD '{{password}}';
"""

# It reads the whole table slowly, as a report over a cold disk does: five minutes and more.
REPORT = "SELECT bid, count(*), sum(abalance), count(pg_sleep(0.0003)) FROM pgbench_accounts GROUP BY bid"


@asynccontextmanager
async def at_work(server: Cluster, *, jobs: bool) -> AsyncIterator[None]:
    """A server, which runs and is empty, under load; with jobs, all that is done to a server in good hands."""
    await asyncio.to_thread(server.execute, PREPARE.format(password=server.password))
    await asyncio.to_thread(server.execute, f"CREATE DATABASE {DATABASE}")
    await asyncio.to_thread(server.execute, "CREATE EXTENSION pg_stat_statements", DATABASE)
    await _run(server, "pgbench", "--initialize", f"--scale={SCALE}", "--quiet", DATABASE)
    works = [_forever(_bench(server), 1)]
    if jobs:
        works += [_forever(job, pause) for job, pause in _jobs(server)]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
        ended = [task for task in tasks if task.done()]
        assert not ended, f"part of the load ended: {ended}"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Work = Any
"""Makes a coroutine that does it once."""


def _jobs(server: Cluster) -> list[tuple[Work, float]]:
    """What is done again and again, and how many seconds lie between."""
    folder = server.folder / "backup"
    return [
        (lambda: _backup(server, folder), 120),
        (lambda: _run(server, "pg_dump", "--file=/dev/null", DATABASE), 90),
        (lambda: _sql(server, "vacuum", "VACUUM (ANALYZE) pgbench_accounts"), 60),
        (lambda: _sql(server, "report", REPORT), 30),
        (lambda: _index(server), 75),
    ]


def _bench(server: Cluster) -> Work:
    options = [f"--client={CLIENTS}", f"--rate={TRANSACTIONS_PER_SECOND}", "--time=36000", "--no-vacuum"]
    return lambda: _run(server, "pgbench", *options, DATABASE, user="app")


async def _backup(server: Cluster, folder: Path) -> None:
    await _run(server, "pg_basebackup", f"--pgdata={folder}", "--checkpoint=fast", "--wal-method=stream")
    await asyncio.to_thread(_delete, folder)


async def _index(server: Cluster) -> None:
    await _sql(server, "deploy", "CREATE INDEX CONCURRENTLY accounts_balance ON pgbench_accounts (abalance)")
    await asyncio.sleep(20)
    await _sql(server, "deploy", "DROP INDEX CONCURRENTLY accounts_balance")


async def _sql(server: Cluster, application: str, sql: str) -> None:
    names = {"application_name": application}
    session = await asyncpg.connect(server.dsn(DATABASE), ssl="disable", server_settings=names)
    try:
        await session.execute(sql)
    finally:
        session.terminate()


async def _run(server: Cluster, name: str, *arguments: str, user: str = SUPERUSER) -> None:
    """Run a program of the server's build to its end; it ends with us."""
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": user, "PGPASSWORD": server.password or ""}
    libraries = {"LD_LIBRARY_PATH": str(server.build.lib)} if server.build.lib else {}
    process = await asyncio.create_subprocess_exec(
        str(server.build.bin / name),
        *arguments,
        env=os.environ | where | libraries,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{name}: {said.decode()}"


async def _forever(work: Work, pause: float) -> None:
    while True:
        await work()
        await asyncio.sleep(pause)


def _delete(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()
