"""The servers the tests rest on are what they say they are."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from patience import wait_until
from servers import MAJORS
from standby import clone_standby, restart

from exporter.catalog.by_version import NEWEST, OLDEST
from exporter.demo.build import copied, embedded
from exporter.demo.cluster import FAST, Cluster
from exporter.errors import ClusterError

ABANDON = """
import os, sys
from pathlib import Path
from exporter.demo.build import embedded
from exporter.demo.cluster import Cluster
server = Cluster(embedded(), Path(sys.argv[1]))
server.init()
server.start()
os.kill(os.getpid(), 9)
"""


def test_the_tests_run_every_version_that_is_said_to_be_tested() -> None:
    assert tuple(range(OLDEST, NEWEST + 1)) == MAJORS


def test_a_shared_server_is_of_the_asked_version_and_collects_statements(server: Cluster, major: int) -> None:
    assert server.value("SHOW server_version_num").startswith(str(major))
    assert server.value("SELECT count(*) FROM pg_stat_statements(false)") > 0


def test_a_shared_server_lets_the_monitoring_role_in_and_gives_it_no_more(server: Cluster) -> None:
    assert server.value("SELECT pg_has_role('pg_monitor', 'MEMBER')", user="pgvigil")
    assert not server.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", user="pgvigil")


def test_a_server_never_runs_as_root(server: Cluster) -> None:
    expected = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    assert psutil.Process(server.pid).uids().effective == expected != 0


def test_a_standby_streams_and_replays_on_every_version(server: Cluster) -> None:
    server.execute("CREATE DATABASE streamed")
    try:
        with clone_standby(server, application_name="copy of it") as standby:
            assert standby.value("SELECT pg_is_in_recovery()")
            server.execute("CREATE TABLE replayed AS SELECT 1", database="streamed")
            wait_until(lambda: standby.value("SELECT to_regclass('replayed')", database="streamed"))
            assert server.value("SELECT application_name FROM pg_stat_replication") == "copy of it"
            assert standby.value("SELECT status FROM pg_stat_wal_receiver") == "streaming"
    finally:
        server.execute("DROP DATABASE streamed")


async def test_a_standby_with_password_and_slot_is_made_while_a_loop_runs(cluster: Callable[..., Cluster]) -> None:
    server = cluster(auth="scram-sha-256", password="it's \\ secret")
    server.execute("SELECT pg_create_physical_replication_slot('standby')")
    with clone_standby(server, slot="standby") as standby:
        wait_until(lambda: server.value("SELECT bool_or(active) FROM pg_replication_slots"))
        assert standby.value("SHOW primary_slot_name") == "standby"


def test_a_private_server_takes_settings_and_keeps_data_and_port_over_a_restart(
    cluster: Callable[..., Cluster],
) -> None:
    server = cluster(settings={"max_connections": "7", "cluster_name": "it's"})
    server.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    pid, dsn = server.pid, server.dsn()
    restart(server)
    assert server.pid != pid
    assert server.dsn() == dsn
    assert server.value("SELECT answer FROM kept") == 42
    assert server.value("SHOW max_connections") == "7"
    assert server.value("SHOW cluster_name") == "it's"


def test_stopping_ends_even_a_frozen_server(cluster: Callable[..., Cluster]) -> None:
    server = cluster()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not server.running
    assert not psutil.pid_exists(pid)


def test_a_server_that_does_not_start_says_what_its_log_says() -> None:
    broken = Cluster(embedded(), settings={**FAST, "max_connections": "-1"})
    with pytest.raises(ClusterError, match='"max_connections"'):
        broken.__enter__()
    assert not broken.folder.exists()


def test_a_server_ends_when_its_starter_is_killed() -> None:
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)
        lock = Path(shared, "cluster", "data", "postmaster.pid")
        subprocess.run([sys.executable, "-c", ABANDON, lock.parents[1]], check=False)
        wait_until(lambda: not lock.exists())
        assert "immediate shutdown" in Path(shared, "cluster", "server.log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")
def test_a_build_that_the_servers_user_cannot_reach_is_copied(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    closed = copied(embedded(), tmp_path / "closed")
    with Cluster(closed, settings=FAST) as server:
        assert server.build.bin == server.folder / "build" / "bin"
        assert server.value("SELECT 1") == 1
