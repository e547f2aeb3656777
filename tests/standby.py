"""Servers of the tests as no demo needs them: streaming standbys, restarts, and starts that are not waited for."""

import asyncio
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import asyncpg

from exporter.demo.build import hand_over
from exporter.demo.cluster import HOST, SUPERUSER, Cluster

NOT_COPIED = ("postmaster.pid", "postmaster.opts", "pg_wal", "pg_replslot", "pgsql_tmp*")


def restart(server: Cluster) -> None:
    """Stop and start."""
    server.stop()
    server.start()


def launch(server: Cluster) -> None:
    """Start a server that may take no connections for a long time."""
    server._launch()


def clone_standby(
    primary: Cluster,
    folder: Path | None = None,
    *,
    port: int | None = None,
    application_name: str = "standby",
    slot: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Cluster:
    """A streaming standby of a running primary, not started yet. A slot must exist."""
    like = {"settings": primary.settings, "auth": primary.auth, "password": primary.password}
    standby = Cluster(primary.build, folder, port=port, **like)  # type: ignore[arg-type]  # they are its own
    with ThreadPoolExecutor(1) as thread:  # the caller's may already run a loop
        thread.submit(asyncio.run, _backup(primary, standby.data)).result()
    (standby.data / "standby.signal").touch()
    standby.configure(_upstream(primary, application_name, slot) | dict(settings or {}))
    hand_over(standby.data)
    return standby


def _upstream(primary: Cluster, application_name: str, slot: str | None) -> dict[str, str]:
    """The settings of a standby that streams from there."""
    words = {"host": HOST, "port": str(primary.port), "user": SUPERUSER, "application_name": application_name}
    if primary.password:
        words["password"] = primary.password
    conninfo = " ".join(f"{key}={_quoted(value)}" for key, value in words.items())
    return {"primary_conninfo": conninfo} | ({"primary_slot_name": slot} if slot else {})


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


async def _backup(primary: Cluster, target: Path) -> None:
    """Copy the data folder of the running server, as pg_basebackup does, which not every build has."""
    session = await asyncpg.connect(primary.dsn(), ssl="disable")
    try:
        old = session.get_server_version().major < 15
        await session.execute(
            "SELECT pg_start_backup('clone', true, false)" if old else "SELECT pg_backup_start('clone', true)"
        )
        ignore = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(primary.data, target, symlinks=True, ignore=ignore, copy_function=_copy)
        (target / "pg_replslot").mkdir()
        label = await session.fetchval(
            f"SELECT labelfile FROM {'pg_stop_backup(false, false)' if old else 'pg_backup_stop(false)'}"
        )
        (target / "backup_label").write_text(label)
        shutil.copytree(primary.data / "pg_wal", target / "pg_wal", copy_function=_copy)
    finally:
        await session.close()


def _copy(source: str, target: str) -> None:
    """Copy a file of a running server; one that is gone by now was not needed."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target, follow_symlinks=False)
