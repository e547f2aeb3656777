"""What a server says of itself: version, identity, part and timeline."""

import time

from module_database import page_when
from pages import MONITOR, page
from standby import clone_standby

from exporter.demo.cluster import Cluster

COLLECTORS = ("server",)


def test_a_server_tells_its_version_and_identity(server: Cluster, major: int) -> None:
    found = page(server.dsn(user=MONITOR)).labels("pg_server_info")
    assert found["short_version"].split(".")[0] == str(major)
    assert found["version"] == server.value("SELECT version()")
    assert found["system_identifier"] == str(server.value("SELECT system_identifier FROM pg_control_system()"))


def test_a_server_tells_since_when_it_runs_and_when_it_read_its_configuration(server: Cluster) -> None:
    asked_at = time.time()
    server.execute("SELECT pg_reload_conf()")
    found = page_when(server, lambda p: p.value("pg_config_load_timestamp_seconds") >= asked_at, "postgres")
    assert found.value("pg_config_load_timestamp_seconds") <= time.time()
    started = server.value("SELECT extract(epoch FROM pg_postmaster_start_time())::float8")
    assert found.value("pg_postmaster_start_time_seconds") == started


def test_a_standby_shares_the_identity_and_takes_a_new_timeline_when_promoted(server: Cluster) -> None:
    with clone_standby(server) as standby:
        before = page(standby.dsn(user=MONITOR))
        standby.value("SELECT pg_promote(true)")
        after = page(standby.dsn(user=MONITOR))
    primary = page(server.dsn(user=MONITOR))
    identities = {each.labels("pg_server_info")["system_identifier"] for each in (primary, before, after)}
    assert len(identities) == 1
    assert [each.value("pg_replication_is_replica") for each in (primary, before, after)] == [0, 1, 0]
    assert [each.value("pg_server_timeline") for each in (primary, before, after)] == [1, 1, 2]


def test_a_standby_follows_the_timeline_of_a_promoted_one(server18: Cluster) -> None:
    with clone_standby(server18) as promoted:
        promoted.value("SELECT pg_promote(true)")
        with clone_standby(promoted) as standby:
            promoted.execute("CREATE TABLE written_after_promotion ()")
            assert page(standby.dsn(user=MONITOR)).value("pg_server_timeline") == 2
