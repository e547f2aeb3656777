"""A server that stops, crashes, starts, changes its role or its version, fills its disk or sets its clock."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
import pytest
from clients import client, until
from faults.harness import both, exporting, failing, reason, timed, until_whole, witnessed
from pages import MONITOR, Page, read, uncached
from patience import SECONDS, Stopwatch
from serving import serving
from standby import clone_standby, launch

from exporter.catalog.load import BUILT_IN, load
from exporter.demo.build import run_as
from exporter.demo.cluster import Cluster

HOUR = 3600.0
DAY = 24 * HOUR


def check_down(found: Page, *why: str) -> None:
    """The page says why, and has what was known before with its age."""
    assert found.value("pg_up") == 0
    assert reason(found) in why
    assert found.value("pg_connections_max") == 60
    assert found.value("pgvigil_collector_success", collector="connections") == 0
    assert found.value("pgvigil_collector_age_seconds", collector="connections") > 0


def check_up(found: Page) -> None:
    """The page has everything, and new."""
    assert found.value("pg_up") == 1
    assert failing(found) == set()


def answers(server: Cluster) -> Callable[[], Awaitable[bool]]:
    """Tell whether the server takes connections."""

    async def asked() -> bool:
        try:
            connection = await asyncpg.connect(server.dsn(), ssl="disable", timeout=1)
        except (asyncpg.PostgresError, OSError, TimeoutError):
            return False
        await connection.close()
        return True

    return asked


async def test_an_immediate_shutdown_is_a_page_that_says_so_and_the_restart_brings_all_back(
    cluster: Callable[..., Cluster],
) -> None:
    server = cluster()
    async with exporting(server.dsn(user=MONITOR)) as target, witnessed(server):
        check_up((await timed(target, 9.5)).page)
        await asyncio.to_thread(server.stop, "immediate")
        for found in await both(target):
            check_down(found, "refused")
        await asyncio.to_thread(server.start)
        await until_whole(target, apart=3)


@pytest.fixture
def frozen() -> Iterator[Callable[[int], None]]:
    """Stops processes, which go on at the end of the test at the latest."""
    stopped: list[int] = []

    def freeze(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)

    yield freeze
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def processes(server: Cluster, title: str) -> list[int]:
    """The server's processes that have this in their title."""
    found = []
    for child in psutil.Process(server.pid).children():
        with suppress(psutil.NoSuchProcess):
            if title in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


async def startup_process(server: Cluster) -> int:
    """The process that replays WAL, as soon as there is one."""
    async with asyncio.timeout(SECONDS):
        while not (found := processes(server, "startup")):
            await asyncio.sleep(0.002)
    return found[0]


async def test_crash_recovery_is_starting_up(cluster: Callable[..., Cluster], frozen: Callable[[int], None]) -> None:
    """A backend is killed, all others go with it, and replay is held up for as long as we look."""
    server = cluster(settings={"max_wal_size": "2GB"})
    server.execute("CREATE TABLE bulk AS SELECT g, repeat('x', 100) FROM generate_series(1, 400000) AS g")
    async with exporting(server.dsn(user=MONITOR)) as target, witnessed(server):
        check_up((await timed(target, 9.5)).page)
        victim = await asyncpg.connect(server.dsn())
        os.kill(victim.get_server_pid(), signal.SIGKILL)
        replaying = await startup_process(server)
        frozen(replaying)
        for found in await both(target):
            check_down(found, "starting_up")
        os.kill(replaying, signal.SIGCONT)
        await until(answers(server))
        await until_whole(target, apart=3)
        victim.terminate()


async def test_a_fast_shutdown_that_waits_for_a_backend_is_shutting_down(
    cluster: Callable[..., Cluster], frozen: Callable[[int], None]
) -> None:
    server = cluster()
    async with exporting(server.dsn(user=MONITOR)) as target, witnessed(server):
        check_up((await timed(target, 9.5)).page)
        holder = await asyncpg.connect(server.dsn())
        frozen(holder.get_server_pid())
        os.kill(server.pid, signal.SIGINT)
        await until(lambda: not processes(server, f"postgres: {MONITOR} "))
        for found in await both(target):
            check_down(found, "shutting_down")
        os.kill(holder.get_server_pid(), signal.SIGCONT)
        holder.terminate()
        await asyncio.to_thread(server.stop)
        check_down((await timed(target, 9.5)).page, "refused", "shutting_down")
        await asyncio.to_thread(server.start)
        await until_whole(target, apart=4)


@pytest.mark.parametrize("major", [13, 18])
async def test_a_standby_that_takes_no_connections_is_starting_up(cluster: Callable[..., Cluster], major: int) -> None:
    """By an exporter that has never seen it before: there is nothing to show but the reason."""
    primary = cluster(major)
    standby = clone_standby(primary, settings={"hot_standby": "off"})
    try:
        launch(standby)
        await until(lambda: "consistent recovery state reached" in standby.log)
        async with exporting(standby.dsn(user=MONITOR)) as target:
            for found in await both(target):
                assert reason(found) == "starting_up"
            await asyncio.to_thread(standby.stop)
            with (standby.data / "postgresql.conf").open("a") as conf:
                conf.write("hot_standby = on\n")
            await asyncio.to_thread(standby.start)
            async with witnessed(standby):
                found = await until_whole(target, apart=3)
    finally:
        standby.remove()
    assert found.value("pg_replication_is_replica") == 1


@pytest.mark.parametrize("major", [13, 18])
async def test_a_promoted_standby_changes_over_without_a_restart(cluster: Callable[..., Cluster], major: int) -> None:
    primary = cluster(major)
    primary.execute("CREATE TABLE t ()")
    with clone_standby(primary) as standby:
        async with exporting(standby.dsn(user=MONITOR)) as target, witnessed(standby):
            before = await until_whole(target)
            standby.execute("SELECT pg_promote()")
            after = await until_whole(target)
    assert before.value("pg_replication_is_replica") == 1
    assert after.value("pg_replication_is_replica") == 0
    for of_standby in ("pg_replication_lag_seconds", "pg_wal_receiver_streaming"):
        assert before.series(of_standby) != []
        assert after.series(of_standby) == []
    for of_primary in ("pg_autovacuum_workers", "pg_table_live_tuples", "pg_xid_consumed"):
        assert after.series(of_primary) != []
    assert before.series("pg_table_live_tuples") == []
    assert after.series("pgvigil_collector_success", collector="recovery") == []


async def test_a_primary_that_returns_as_a_standby_changes_over_without_a_restart(
    cluster: Callable[..., Cluster],
) -> None:
    """A failover and back: another server, the standby of the new primary, answers at the old one's address."""
    old = cluster()
    with clone_standby(old) as new:
        async with exporting(old.dsn(user=MONITOR)) as target:
            check_up((await timed(target, 9.5)).page)
            await asyncio.to_thread(old.stop)
            new.execute("SELECT pg_promote()")
            check_down((await timed(target, 1.5)).page, "refused")
            with clone_standby(new, port=old.port) as demoted:
                async with witnessed(demoted):
                    found = await until_whole(target, apart=3)
    assert found.value("pg_replication_is_replica") == 1
    assert found.value("pg_server_timeline") == 2
    assert found.series("pg_replication_lag_seconds") != []
    assert found.series("pg_table_live_tuples") == []


@pytest.mark.parametrize(("first", "second"), [(13, 18), (18, 13)])
async def test_another_major_version_behind_the_same_address(
    cluster: Callable[..., Cluster], caplog: pytest.LogCaptureFixture, first: int, second: int
) -> None:
    """An upgrade, or going back from one: other data, other oids, other extension, other series."""
    old = cluster(first)
    for name in ("one", "two"):
        old.execute(f"CREATE DATABASE {name}")
    async with exporting(old.dsn(user=MONITOR), uncached("statements")) as target:
        before = await until_whole(target)
        await asyncio.to_thread(old.stop)
        await timed(target, 1.5)
        new = cluster(second, {"max_connections": "61"}, port=old.port)
        new.execute("CREATE DATABASE three")
        new.execute("; ".join(["SELECT 1"] * 3000))
        async with witnessed(new):
            after = await until_whole(target, scrapes=5, apart=3)  # within the 15 s that scrapes are apart
    of_new = {"pg_connections_reserved": 16, "pg_autovacuum_worker_slots": 18, "pg_statements_dealloc_total": 14}
    for name, since in of_new.items():
        assert bool(before.series(name)) == (first >= since)
        assert bool(after.series(name)) == (second >= since)
    assert after.value("pg_connections_max") == 61
    assert {labels["datname"] for labels, _ in after.series("pg_database_connections")} >= {"three"}
    assert after.series("pgvigil_collector_success", datname="one") == []
    assert after.series("pg_table_live_tuples", datname="one") == []
    assert after.series("pg_statements_all_calls_total") != []
    calls = [found.value("pg_statements_all_calls_total") for found in (before, after)]
    assert 0 <= calls[1] - calls[0] < 1000, "what the other server had counted before is no growth"
    assert "nobody foresaw" not in caplog.text


CONFLICTS = {"lock": ["TRUNCATE conflict"], "snapshot": ["DELETE FROM conflict", "VACUUM conflict"]}


@pytest.mark.parametrize(("major", "conflict"), [(13, "lock"), (18, "snapshot")])
async def test_a_query_of_ours_cancelled_by_replay_costs_only_its_collector_and_returns(
    cluster: Callable[..., Cluster], tmp_path: Path, major: int, conflict: str
) -> None:
    (tmp_path / "reader.yaml").write_text(
        "name: reader\nhelp: Reads a table slowly.\n"
        "sql: SELECT count(*) AS value FROM (SELECT c.*, pg_sleep(0.1) FROM public.conflict AS c) AS slow\n"
        "metrics:\n  - {name: pg_reader, type: gauge, help: Rows., column: value}\n"
    )
    primary = cluster(major, {"hot_standby_feedback": "off"})
    primary.execute("CREATE TABLE conflict AS SELECT generate_series(1, 10); GRANT SELECT ON conflict TO pgvigil")
    settings = {"max_standby_streaming_delay": "0"}
    with clone_standby(primary, settings=settings) as standby:
        end = str(primary.value("SELECT pg_current_wal_lsn()::text"))
        await until(lambda: standby.value("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end))
        async with exporting(standby.dsn(user=MONITOR), load(BUILT_IN, tmp_path)) as target, witnessed(standby):
            before = await until_whole(target)
            scrape = asyncio.create_task(timed(target, 9.5))
            reads = (
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pgvigil:reader%' AND wait_event = 'PgSleep'"
            )
            await until(lambda: bool(standby.value(reads)))
            for statement in CONFLICTS[conflict]:
                primary.execute(statement)
            hit = (await scrape).page
            after = await until_whole(target)
    assert before.value("pg_reader") == 10
    assert hit.value("pg_up") == 1
    assert failing(hit) == {"reader"}
    assert hit.value("pg_reader") == 10
    assert hit.value("pgvigil_collector_age_seconds", collector="reader") > 0
    assert after.value("pg_reader") == 0


@dataclass(frozen=True)
class Disk:
    """Where a server has its data, and how to fill it and to make room again."""

    folder: Path | None
    fill: Callable[[Cluster], None]
    free: Callable[[Cluster], None]


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small file system of the server's own, where one may be mounted, or a limit so that it can write nothing."""
    if request.param == "limit":
        yield Disk(None, lambda server: _limit(server, str(8 << 20)), lambda server: _limit(server, "unlimited"))
        return
    folder = Path(tempfile.mkdtemp(prefix="pgvigil-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m,mode=755", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield Disk(folder, lambda _: _ballast(folder), lambda _: (folder / "ballast").unlink())
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def _limit(server: Cluster, size: str) -> None:
    """Let no process of the server write a file beyond this size; those that start later inherit it."""
    if not server.running:
        return
    postmaster = psutil.Process(server.pid)
    for process in (postmaster, *postmaster.children()):
        subprocess.run(["prlimit", f"--pid={process.pid}", f"--fsize={size}:unlimited"], **run_as(), check=False)


def _ballast(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))


@pytest.mark.parametrize(("major", "disk"), [(13, "limit"), (18, "small")], indirect=["disk"])
async def test_a_full_disk_costs_no_page(disk: Disk, cluster: Callable[..., Cluster], major: int) -> None:
    """First a write of somebody else's fails, then the server falls over because it can write no WAL."""
    server = cluster(major, folder=disk.folder)
    async with exporting(server.dsn(user=MONITOR)) as target, witnessed(server):
        check_up((await timed(target, 9.5)).page)
        server.execute("SELECT pg_switch_wal()")
        disk.fill(server)
        for found in await both(target):
            check_up(found)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            server.execute(
                "SELECT pg_logical_emit_message(true, 'full', repeat('x', 1000000)) FROM generate_series(1, 99)"
            )
        await until(lambda: not server.running)  # it crashed, and cannot even recover
        for found in await both(target):
            check_down(found, "refused", "starting_up", "unreachable")
        disk.free(server)
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
        await until_whole(target, apart=3)


@dataclass(frozen=True)
class WallClock:
    """A clock that can be set; processes that are started while it is in the environment go by it."""

    file: Path
    environment: Mapping[str, str]

    def set(self, seconds: float) -> None:
        """Put it so far from the true time."""
        self.file.write_text(f"{seconds:+.0f}\n")


@pytest.fixture
def wall_clock(tool: Callable[[str, str], Path]) -> Iterator[WallClock]:
    """The wall clock only: what counts from some start goes on, as on a machine whose clock is set.

    It is always behind the true one: a timer's signal that comes while the process waits sees the true one, and would
    come too early by a clock that is ahead.
    """
    program = tool("faketime", "Debian's package is called faketime")
    asked = subprocess.run([program, "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = WallClock(
            Path(folder) / "clock",
            {
                "LD_PRELOAD": asked.stdout.strip(),
                "FAKETIME_TIMESTAMP_FILE": f"{folder}/clock",
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            },
        )
        made.set(-2 * DAY)
        yield made


def check_sane(found: Page, before: Page) -> None:
    """Everything is there, nothing is older than it can be, and no counter has fallen."""
    check_up(found)
    assert all(0 <= age < HOUR for _, age in found.series("pgvigil_collector_age_seconds"))
    assert all(0 <= seconds < HOUR for _, seconds in found.series("pgvigil_collector_duration_seconds"))
    for name, samples in before.samples.items():
        if name.endswith("_total"):
            now = {frozenset(labels.items()): value for labels, value in found.series(name)}
            fallen = [had for labels, had in samples if now.get(frozenset(labels.items()), had) < had]
            assert (name, fallen) == (name, [])


@pytest.mark.parametrize(("major", "jump"), [(13, DAY), (18, DAY), (18, -DAY)])
async def test_a_servers_clock_that_is_set_costs_nothing(
    cluster: Callable[..., Cluster], wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch, major: int, jump: float
) -> None:
    with monkeypatch.context() as patch:
        for name, value in wall_clock.environment.items():
            patch.setenv(name, value)
        server = cluster(major)
    async with client(server, "idler"), exporting(server.dsn(user=MONITOR)) as target, witnessed(server):
        before = await until_whole(target)
        at = server.value("SELECT extract(epoch FROM clock_timestamp())::float8")
        assert abs(time.time() - at - 2 * DAY) < 60
        wall_clock.set(-2 * DAY + jump)
        moved = server.value("SELECT extract(epoch FROM clock_timestamp())::float8") - at
        assert abs(moved - jump) < 60
        for found in await both(target):
            check_sane(found, before)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_our_own_clock_that_is_set_costs_nothing(
    server18: Cluster, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    with monkeypatch.context() as patch:
        for name, value in wall_clock.environment.items():
            patch.setenv(name, value)
        with serving(dsn=server18.dsn(user=MONITOR)) as exporter:
            before = read(exporter.get().text)
            wall_clock.set(-2 * DAY + jump)
            time.sleep(2)
            for timeout in ("10", "2"):
                watch = Stopwatch(exporter.process.pid)
                answer = exporter.get(headers={"X-Prometheus-Scrape-Timeout-Seconds": timeout})
                assert watch.seconds < float(timeout)
                found = read(answer.text)
                check_sane(found, before)
                assert 1 < found.value("pg_session_sampling_seconds_total") < HOUR
