"""The healthy control: a server under steady load, with backups, vacuum, reports and planned index builds."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

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
    await furnish(server)
    await run_program(server, "pgbench", "--initialize", f"--scale={SCALE}", "--quiet", DATABASE)
    async with working((_bench(server), 1), *(_jobs(server) if jobs else ())):
        yield


async def furnish(server: Cluster) -> None:
    """Give a server that runs its roles and its database."""
    await asyncio.to_thread(server.execute, PREPARE.format(password=server.password))
    await asyncio.to_thread(server.execute, f"CREATE DATABASE {DATABASE}")
    await asyncio.to_thread(server.execute, "CREATE EXTENSION pg_stat_statements", DATABASE)


Work = Callable[[], Awaitable[object]]
"""Makes a coroutine that does it once."""


@asynccontextmanager
async def working(*works: tuple[Work, float]) -> AsyncIterator[None]:
    """Meanwhile each work is done again and again, with so many seconds between; none may fail."""
    tasks = [asyncio.create_task(_forever(work, pause)) for work, pause in works]
    try:
        yield
        ended = [task for task in tasks if task.done()]
        assert not ended, f"part of the load ended: {ended}"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _jobs(server: Cluster) -> list[tuple[Work, float]]:
    """What is done again and again, and how many seconds lie between."""
    folder = server.folder / "backup"
    return [
        (lambda: _backup(server, folder), 120),
        (lambda: run_program(server, "pg_dump", "--file=/dev/null", DATABASE), 90),
        (lambda: sql(server, "vacuum", "VACUUM (ANALYZE) pgbench_accounts"), 60),
        (lambda: sql(server, "report", REPORT), 30),
        (lambda: _index(server), 75),
    ]


def _bench(server: Cluster) -> Work:
    options = [f"--client={CLIENTS}", f"--rate={TRANSACTIONS_PER_SECOND}", "--time=36000", "--no-vacuum"]
    return lambda: run_program(server, "pgbench", *options, DATABASE, user="app")


async def _backup(server: Cluster, folder: Path) -> None:
    await run_program(server, "pg_basebackup", f"--pgdata={folder}", "--checkpoint=fast", "--wal-method=stream")
    await asyncio.to_thread(_delete, folder)


async def _index(server: Cluster) -> None:
    """Build an index and drop it; one whose build met another in a deadlock is dropped at once."""
    with suppress(asyncpg.DeadlockDetectedError):
        await sql(server, "deploy", "CREATE INDEX CONCURRENTLY accounts_balance ON pgbench_accounts (abalance)")
        await asyncio.sleep(20)
    await drop_index(server, "deploy", "accounts_balance")


async def drop_index(server: Cluster, application: str, name: str) -> None:
    """Drop an index, again where that met a build in a deadlock."""
    while True:
        with suppress(asyncpg.DeadlockDetectedError):
            return await sql(server, application, f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


async def sql(server: Cluster, application: str, statement: str, database: str = DATABASE) -> None:
    """Run a statement in a session of its own, under the name of an application."""
    names = {"application_name": application}
    session = await asyncpg.connect(server.dsn(database), ssl="disable", server_settings=names)
    try:
        await session.execute(statement)
    finally:
        session.terminate()


async def run_program(
    server: Cluster, name: str, *arguments: str, user: str = SUPERUSER, port: int | None = None
) -> None:
    """Run a program of the server's build to its end, against the server or what listens at a port; it ends with us."""
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(port or server.port)}
    who = {"PGUSER": user, "PGPASSWORD": server.password or ""}
    libraries = {"LD_LIBRARY_PATH": str(server.build.lib)} if server.build.lib else {}
    process = await asyncio.create_subprocess_exec(
        str(server.build.bin / name),
        *arguments,
        env=os.environ | where | who | libraries,
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
