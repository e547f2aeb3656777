"""Standbys, slots and lag, on a primary with a standby that is cut off, paused and left behind on purpose."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from clients import client
from pages import MONITOR, Labels, Page, page, target, written
from patience import wait_until
from standby import clone_standby, restart

from exporter.catalog.load import BUILT_IN, load
from exporter.catalog.model import Catalog
from exporter.demo.cluster import HOST, Cluster

COLLECTORS = (
    "recovery",
    "recovery_conflicts",
    "replication",
    "replication_slot_states",
    "replication_slot_stats",
    "replication_slots",
    "server",
    "wal",
    "wal_receiver",
)

SENDER_TIMEOUT = 60
"""Seconds of silence after which a primary takes a standby for gone; PostgreSQL's default."""

STANDBY = {
    "max_standby_streaming_delay": "0",
    "primary_slot_name": "the_standby",
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "6s",
    "wal_retrieve_retry_interval": "100ms",
}


@pytest.fixture(scope="module")
def primary(server: Cluster) -> Iterator[Cluster]:
    """The shared server, with a slot for the standby."""
    server.execute("SELECT pg_create_physical_replication_slot('the_standby', true)")
    yield server
    wait_until(lambda: not server.value("SELECT active FROM pg_replication_slots WHERE slot_name = 'the_standby'"))
    server.execute("SELECT pg_drop_replication_slot('the_standby')")


@pytest.fixture(scope="module")
def running_standby(primary: Cluster) -> Iterator[Cluster]:
    with clone_standby(primary, application_name="the standby", settings=STANDBY) as standby:
        yield standby


@pytest.fixture
def standby(primary: Cluster, running_standby: Cluster) -> Cluster:
    """The standby, streaming and with nothing left to replay."""
    caught_up(primary, running_standby)
    return running_standby


def caught_up(primary: Cluster, standby: Cluster) -> None:
    end = str(primary.value("SELECT pg_current_wal_lsn()::text"))
    wait_until(lambda: standby.value("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end))
    wait_until(lambda: standby.value("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"))


def page_of(server: Cluster) -> Page:
    """A page on which all collectors of replication did well."""
    found = page(server.dsn(user=MONITOR))
    assert [labels for labels, value in found.series("pgvigil_collector_success") if not value] == []
    assert [labels for labels, value in found.series("pgvigil_collector_rejected_rows_total") if value] == []
    return found


def page_where(server: Cluster, holds: Callable[[Page], object]) -> Page:
    """The first page on which something holds."""
    pages: list[Page] = []

    def asked() -> bool:
        pages.append(page_of(server))
        return bool(holds(pages[-1]))

    wait_until(asked)
    return pages[-1]


def by_label(found: Page, name: str, label: str, **labels: object) -> dict[str, float]:
    """The values of a set of states."""
    return {had[label]: value for had, value in found.series(name, **labels)}


def write(server: Cluster, size: int = 1_000_000) -> None:
    """Write so many bytes of WAL, flushed, and commit a transaction."""
    server.execute(f"SELECT txid_current(), pg_logical_emit_message(true, 'test', repeat('x', {size}))")


def cut(standby: Cluster) -> None:
    """Send a standby to a primary that is not there."""
    standby.execute(f"ALTER SYSTEM SET primary_conninfo = 'host={HOST} port=1'")
    standby.execute("SELECT pg_reload_conf()")


def mend(standby: Cluster) -> None:
    """Send it back to the one it had."""
    standby.execute("ALTER SYSTEM RESET primary_conninfo")
    standby.execute("SELECT pg_reload_conf()")


def test_a_primary_shows_its_standby(primary: Cluster, standby: Cluster) -> None:
    write(primary)
    caught_up(primary, standby)
    found = page_where(primary, lambda p: p.value("pg_replication_sender_replay_lag_bytes") == 0)
    who = {
        "application_name": "the standby",
        "client_addr": HOST,
        "usename": "postgres",
        "slot_name": "the_standby",
        "pid": "",
    }
    assert found.value("pg_replication_sender_state", state="streaming", **who) == 1
    assert found.value("pg_replication_sender_sync_state", sync_state="async", **who) == 1
    for step in ("sent", "write", "flush", "replay"):
        assert found.value(f"pg_replication_sender_{step}_lag_bytes", **who) < 1000
    for step in ("write", "flush", "replay"):
        assert 0 <= found.value(f"pg_replication_sender_{step}_lag_seconds", **who) < SENDER_TIMEOUT
    assert 0 <= found.value("pg_replication_sender_reply_age_seconds", **who) < SENDER_TIMEOUT
    assert found.value("pg_wal_senders") == 1
    assert found.value("pg_wal_senders_max") == 10
    assert found.series("pg_replication_lag_seconds") == []
    assert found.series("pg_wal_receiver_streaming") == []


def test_a_standby_shows_its_upstream(primary: Cluster, standby: Cluster) -> None:
    found = page_of(standby)
    upstream = {"sender_host": HOST, "sender_port": primary.port, "slot_name": "the_standby", "status": "streaming"}
    assert found.value("pg_wal_receiver_info", **upstream) == 1
    assert found.value("pg_wal_receiver_streaming") == 1
    assert found.value("pg_wal_receiver_configured") == 1
    assert found.value("pg_wal_receiver_lag_bytes") == 0
    assert found.value("pg_wal_receiver_timeline") == 1
    assert 0 <= time.time() - found.value("pg_wal_receiver_last_message_timestamp_seconds") < SENDER_TIMEOUT
    assert found.value("pg_wal_receiver_latest_end_timestamp_seconds") <= time.time()
    assert found.value("pg_recovery_paused") == 0
    assert found.value("pg_recovery_min_apply_delay_seconds") == 0


def test_positions_count_bytes_on_both_sides(primary: Cluster, standby: Cluster) -> None:
    before = page_of(primary).value("pg_wal_position_bytes")
    write(primary, 2_000_000)
    caught_up(primary, standby)
    there, here = page_of(primary), page_of(standby)
    position = there.value("pg_wal_position_bytes")
    assert 2_000_000 < position - before < 3_000_000
    assert here.value("pg_wal_position_bytes") == pytest.approx(position, abs=1000)
    assert here.value("pg_wal_receiver_position_bytes") == pytest.approx(position, abs=1000)


def test_a_position_that_falls_when_a_standby_restarts_is_no_counter(primary: Cluster, standby: Cluster) -> None:
    """increase() would add the whole position."""
    standby.execute("CHECKPOINT")
    write(primary, 4_000_000)
    caught_up(primary, standby)
    before = page_of(standby)
    cut(standby)
    standby.stop("immediate")
    standby.start()
    after = page_of(standby)
    mend(standby)
    types = {metric.name: metric.type for each in load(BUILT_IN) for metric in each.metrics}
    fallen = {
        name
        for name in ("pg_wal_position_bytes", "pg_wal_receiver_position_bytes")
        if sum(value for _, value in after.series(name)) < before.value(name)
    }
    assert {types[name] for name in fallen} == {"gauge"}
    assert [name for name, kind in types.items() if "position" in name and kind != "gauge"] == []


def test_lag_stays_at_zero_while_the_primary_is_idle(primary: Cluster, standby: Cluster) -> None:
    """Longer than the receiver is willing to wait in silence."""
    write(primary)
    caught_up(primary, standby)
    lags = []
    started = time.monotonic()
    while time.monotonic() - started < 7:
        found = page_of(standby)
        lags.append(found.value("pg_replication_lag_seconds"))
        time.sleep(0.2)
    assert max(lags) == 0
    assert found.value("pg_replication_last_replay_seconds") > 6


def test_lag_grows_while_replay_is_paused(primary: Cluster, standby: Cluster) -> None:
    standby.execute("SELECT pg_wal_replay_pause()")
    try:
        write(primary)
        found = page_where(standby, lambda p: p.value("pg_replication_lag_bytes") > 1_000_000)
        assert found.value("pg_recovery_paused") == 1
        assert found.value("pg_wal_receiver_streaming") == 1
        first = found.value("pg_replication_lag_seconds")
        assert first > 0
        time.sleep(1)
        assert page_of(standby).value("pg_replication_lag_seconds") >= first + 1
        sender = page_where(primary, lambda p: p.value("pg_replication_sender_replay_lag_bytes") > 1_000_000)
        assert sender.value("pg_replication_sender_flush_lag_bytes") < 1000
    finally:
        standby.execute("SELECT pg_wal_replay_resume()")
    caught_up(primary, standby)
    found = page_of(standby)
    assert found.value("pg_replication_lag_seconds") == 0
    assert found.value("pg_recovery_paused") == 0


@asynccontextmanager
async def watching(server: Cluster) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """Lag in seconds, scrape by scrape of one exporter, which remembers what it saw."""
    only = Catalog(tuple(c for c in load(BUILT_IN) if c.name == "recovery"))
    watched = target(server.dsn(user=MONITOR), only)

    async def lag() -> float:
        return written(await watched.scrape(9.0)).value("pg_replication_lag_seconds")

    try:
        yield lag
    finally:
        await watched.close()


async def test_lag_after_an_idle_time_does_not_include_it(primary: Cluster, standby: Cluster) -> None:
    write(primary)
    caught_up(primary, standby)
    async with watching(standby) as lag:
        for _ in range(4):
            idle_until = time.time()
            assert await lag() == 0
            await asyncio.sleep(1.5)
        standby.execute("SELECT pg_wal_replay_pause()")
        try:
            write(primary)
            page_where(standby, lambda p: p.value("pg_replication_lag_bytes") > 1_000_000)
            first = await lag()
            assert 0 < first <= time.time() - idle_until
            await asyncio.sleep(1)
            assert await lag() >= first + 1
        finally:
            standby.execute("SELECT pg_wal_replay_resume()")
        caught_up(primary, standby)
        assert await lag() == 0


async def test_lag_after_a_cut_counts_from_the_last_message(primary: Cluster, standby: Cluster) -> None:
    write(primary)
    caught_up(primary, standby)
    async with watching(standby) as lag:
        await asyncio.sleep(8)
        heard = standby.value("SELECT extract(epoch FROM last_msg_receipt_time)::float8 FROM pg_stat_wal_receiver")
        assert await lag() == 0
        await asyncio.sleep(0.5)
        assert await lag() == 0
        cut(standby)
        try:
            wait_until(lambda: not standby.value("SELECT count(*) FROM pg_stat_wal_receiver"))
            first = await lag()
            assert 0 < first <= time.time() - heard
            await asyncio.sleep(1)
            assert await lag() >= first + 1
        finally:
            mend(standby)
        caught_up(primary, standby)


async def test_lag_grows_while_replay_is_at_work_on_one_record(primary: Cluster, standby: Cluster) -> None:
    """A stopped startup process waits for nothing that the server knows of, just as one that copies a database."""
    caught_up(primary, standby)
    startup = standby.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'")
    async with watching(standby) as lag:
        assert await lag() == 0
        os.kill(startup, signal.SIGSTOP)
        try:
            primary.execute("SELECT txid_current(), pg_logical_emit_message(true, 'test', 'x')")
            stuck_since = time.time()
            page_where(standby, lambda p: p.value("pg_replication_lag_bytes") > 0)
            lags = []
            for _ in range(5):
                lags.append(await lag())
                await asyncio.sleep(1)
        finally:
            os.kill(startup, signal.SIGCONT)
        assert lags[-1] >= 3
        assert lags[-1] <= time.time() - stuck_since + 2
        caught_up(primary, standby)
        assert await lag() == 0


def test_lag_grows_from_the_moment_the_link_is_cut(primary: Cluster, standby: Cluster) -> None:
    write(primary)
    caught_up(primary, standby)
    last_commit = page_of(standby).value("pg_replication_last_replay_timestamp_seconds")
    cut(standby)
    try:
        found = page_where(standby, lambda p: p.value("pg_wal_receiver_streaming") == 0)
        cut_at = time.time()
        write(primary)
        time.sleep(0.5)
        asked_at = time.time()
        found = page_of(standby)
        assert found.series("pg_wal_receiver_info") == []
        assert found.value("pg_wal_receiver_configured") == 1
        assert found.value("pg_wal_receiver_streaming") == 0
        assert found.value("pg_replication_lag_seconds") >= asked_at - cut_at
        assert asked_at <= last_commit + found.value("pg_replication_lag_seconds") <= time.time()
        alone = page_of(primary)
        assert alone.series("pg_replication_sender_state") == []
        assert alone.value("pg_replication_slots_active", slot_name="the_standby") == 0
        assert alone.value("pg_replication_slots_retained_bytes", slot_name="the_standby") > 1_000_000
    finally:
        mend(standby)
    caught_up(primary, standby)
    assert page_of(standby).value("pg_replication_lag_seconds") == 0


def test_a_standby_started_without_its_primary_knows_how_old_it_is_at_most(primary: Cluster, standby: Cluster) -> None:
    """Before the first commit is replayed there is no time of one; the checkpoint's stands in."""
    primary.execute("CHECKPOINT")
    caught_up(primary, standby)
    standby.execute("CHECKPOINT")
    checkpoint = standby.value("SELECT extract(epoch FROM checkpoint_time)::float8 FROM pg_control_checkpoint()")
    cut(standby)
    try:
        restart(standby)
        asked_at = time.time()
        found = page_of(standby)
        assert found.series("pg_replication_last_replay_timestamp_seconds") == []
        assert asked_at <= checkpoint + found.value("pg_replication_lag_seconds") <= time.time()
    finally:
        mend(standby)
    caught_up(primary, standby)


async def test_a_query_cancelled_by_replay_is_a_conflict(primary: Cluster, standby: Cluster) -> None:
    counted = {"datname": "postgres", "conflict": "lock"}
    primary.execute("CREATE TABLE conflict AS SELECT 1")
    caught_up(primary, standby)
    before = page_of(standby).value("pg_recovery_conflicts_total", **counted)
    async with client(standby, "reader") as reader:
        await reader.execute("BEGIN; SELECT FROM conflict")
        primary.execute("DROP TABLE conflict")
        page_where(standby, lambda p: p.value("pg_recovery_conflicts_total", **counted) > before)


async def test_replay_that_waits_for_a_reader_of_a_locked_table_says_so(primary: Cluster, standby: Cluster) -> None:
    """The reader holds the table, which the primary changes."""
    primary.execute("CREATE TABLE read AS SELECT 1 AS n")
    standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = '1min'")
    standby.execute("ALTER SYSTEM SET max_standby_archive_delay = '2min'")
    standby.execute("SELECT pg_reload_conf()")
    caught_up(primary, standby)
    try:
        async with client(standby, "reader") as reader:
            await reader.execute("BEGIN; SELECT FROM read")
            primary.execute("ALTER TABLE read ADD COLUMN m int")
            found = page_where(standby, lambda p: p.value("pg_recovery_waits_for_query") == 1)
            assert found.value("pg_recovery_max_standby_delay_seconds") == 60
        caught_up(primary, standby)
        cut(standby)
        page_where(standby, lambda p: p.value("pg_recovery_max_standby_delay_seconds") == 120)
    finally:
        mend(standby)
        caught_up(primary, standby)
        primary.execute("DROP TABLE read")
        standby.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
        standby.execute("ALTER SYSTEM RESET max_standby_archive_delay")
        standby.execute("SELECT pg_reload_conf()")


def test_a_delay_on_purpose_is_lag_and_says_so(primary: Cluster, standby: Cluster) -> None:
    standby.execute("ALTER SYSTEM SET recovery_min_apply_delay = '1h'")
    standby.execute("SELECT pg_reload_conf()")
    try:
        page_where(standby, lambda p: p.value("pg_recovery_min_apply_delay_seconds") == 3600)
        write(primary)
        page_where(standby, lambda p: p.value("pg_replication_lag_seconds") > 1)
    finally:
        standby.execute("ALTER SYSTEM RESET recovery_min_apply_delay")
        standby.execute("SELECT pg_reload_conf()")


async def test_a_delayed_standby_is_no_later_than_it_is_asked_to_be(primary: Cluster, standby: Cluster) -> None:
    """A commit that waits for its time stays behind the one before it, which was seldom followed by others."""
    delay = 6
    caught_up(primary, standby)
    async with watching(standby) as lag:
        assert await lag() == 0
        standby.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}s'")
        standby.execute("SELECT pg_reload_conf()")
        try:
            page_where(standby, lambda p: p.value("pg_recovery_min_apply_delay_seconds") == delay)
            lags = []
            for _ in range(2):
                write(primary, 1000)
                for _ in range(10):
                    await asyncio.sleep(0.5)
                    lags.append(await lag())
            while lags[-1]:
                await asyncio.sleep(0.5)
                lags.append(await lag())
        finally:
            standby.execute("ALTER SYSTEM RESET recovery_min_apply_delay")
            standby.execute("SELECT pg_reload_conf()")
    assert max(lags[:10]) > 3
    assert max(lags) <= delay


async def test_lag_grows_while_replay_waits_for_a_query(primary: Cluster, standby: Cluster) -> None:
    standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = -1")
    standby.execute("SELECT pg_reload_conf()")
    primary.execute("CREATE TABLE kept AS SELECT 1 AS n")
    caught_up(primary, standby)
    try:
        async with client(standby, "reader") as reader:
            await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM kept")
            primary.execute("DELETE FROM kept")
            primary.execute("VACUUM kept")
            write(primary)
            found = page_where(standby, lambda p: p.value("pg_replication_lag_bytes") > 1_000_000)
            first = found.value("pg_replication_lag_seconds")
            assert first > 0
            assert found.series("pg_recovery_max_standby_delay_seconds") == []  # it waits without end
            await asyncio.sleep(1)
            found = page_where(standby, lambda p: p.value("pg_recovery_waits_for_query") == 1)
            assert found.value("pg_replication_lag_seconds") >= first + 1
            assert found.value("pg_recovery_paused") == 0
        caught_up(primary, standby)
        found = page_of(standby)
        assert found.value("pg_replication_lag_seconds") == 0
        assert found.value("pg_recovery_waits_for_query") == 0
    finally:
        primary.execute("DROP TABLE kept")
        standby.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
        standby.execute("SELECT pg_reload_conf()")


def test_a_slot_left_behind_on_a_standby_is_measured_there(standby: Cluster, primary: Cluster) -> None:
    standby.execute("SELECT pg_create_physical_replication_slot('cascaded', true)")
    try:
        write(primary)
        caught_up(primary, standby)
        assert page_of(standby).value("pg_replication_slots_retained_bytes", slot_name="cascaded") > 1_000_000
    finally:
        standby.execute("SELECT pg_drop_replication_slot('cascaded')")


@pytest.fixture
def slots(server: Cluster) -> Iterator[Cluster]:
    """A physical slot, a logical one and one that has reserved no WAL yet, all without a consumer."""
    server.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
    server.execute("SELECT pg_create_physical_replication_slot('unused')")
    server.execute("SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')")
    yield server
    server.execute(
        "SELECT pg_drop_replication_slot(slot_name)"
        " FROM pg_replication_slots WHERE slot_name IN ('forgotten', 'unused', 'decoded')"
    )


def test_slots_left_behind_retain_what_is_written(slots: Cluster) -> None:
    before = page_of(slots)
    write(slots)
    found = page_of(slots)
    forgotten = {"slot_name": "forgotten", "slot_type": "physical"}
    decoded = {"slot_name": "decoded", "slot_type": "logical"}
    for slot in (forgotten, decoded):
        assert found.value("pg_replication_slots_active", **slot) == 0
        grown = found.value("pg_replication_slots_retained_bytes", **slot) - before.value(
            "pg_replication_slots_retained_bytes", **slot
        )
        assert 1_000_000 < grown < 2_000_000
    assert found.value("pg_replication_slots_confirmed_flush_lag_bytes", **decoded) > 1_000_000
    assert found.series("pg_replication_slots_confirmed_flush_lag_bytes", **forgotten) == []
    assert found.series("pg_replication_slots_retained_bytes", slot_name="unused") == []
    assert found.series("pg_replication_slots_safe_wal_size_bytes") == []
    assert found.value("pg_replication_slots") == len(found.series("pg_replication_slots_active")) >= 3
    assert found.value("pg_replication_slots_max") == 10


def test_a_logical_slot_ages_with_transactions_and_says_what_it_is(slots: Cluster, major: int) -> None:
    decoded = {"slot_name": "decoded", "slot_type": "logical"}
    before = page_of(slots).value("pg_replication_slots_catalog_xmin_age", **decoded)
    for _ in range(3):
        slots.execute("SELECT txid_current()")
    found = page_of(slots)
    assert found.value("pg_replication_slots_catalog_xmin_age", **decoded) >= before + 3
    assert found.series("pg_replication_slots_xmin_age", **decoded) == []
    info = found.labels("pg_replication_slots_info", **decoded)
    assert (info["datname"], info["plugin"], info["temporary"]) == ("postgres", "test_decoding", "false")
    assert info["two_phase"] == ("false" if major >= 14 else "")
    assert (info["failover"], info["synced"]) == (("false", "false") if major >= 17 else ("", ""))
    assert [v for _, v in found.series("pg_replication_slots_conflicting", **decoded)] == [0.0] * (major >= 16)
    assert found.series("pg_replication_slots_conflicting", slot_name="forgotten") == []


def test_wal_status_is_one_of_four(slots: Cluster, major: int) -> None:
    found = page_of(slots)
    for slot, expected in (("forgotten", {"reserved"}), ("decoded", {"reserved"}), ("unused", set())):
        states = {
            labels["wal_status"]: v for labels, v in found.series("pg_replication_slots_wal_status", slot_name=slot)
        }
        assert states.keys() == {"reserved", "extended", "unreserved", "lost"}
        assert {state for state, value in states.items() if value} == expected
    reasons = found.series("pg_replication_slots_invalidation_reason", slot_name="forgotten")
    assert [value for _, value in reasons] == [0.0] * (4 if major >= 17 else 0)


def test_a_slot_says_since_when_it_is_inactive(slots: Cluster, major: int) -> None:
    found = page_of(slots).series("pg_replication_slots_inactive_since_timestamp_seconds", slot_name="forgotten")
    if major < 17:
        assert found == []
        return
    since = "SELECT extract(epoch FROM inactive_since)::float8 FROM pg_replication_slots WHERE slot_name = 'forgotten'"
    assert [value for _, value in found] == [slots.value(since)]


def test_a_lost_slot_says_so(cluster: Callable[..., Cluster], major: int) -> None:
    server = cluster(major, {"max_slot_wal_keep_size": "1MB", "wal_keep_size": "2MB", "min_wal_size": "32MB"})
    server.execute("SELECT pg_create_physical_replication_slot('lagging', true)")
    found = page_of(server)
    assert found.value("pg_wal_max_slot_keep_size_bytes") == 1024**2
    assert found.value("pg_wal_keep_size_bytes") == 2 * 1024**2
    assert found.value("pg_replication_slots_safe_wal_size_bytes", slot_name="lagging") > 0
    for _ in range(4):
        write(server, 1000)
        server.execute("SELECT pg_switch_wal()")
    found = page_of(server)
    assert found.value("pg_replication_slots_safe_wal_size_bytes", slot_name="lagging") < 0
    assert found.value("pg_replication_slots_wal_status", slot_name="lagging", wal_status="unreserved") == 1
    server.execute("CHECKPOINT")
    found = page_of(server)
    states = by_label(found, "pg_replication_slots_wal_status", "wal_status")
    assert states == {"reserved": 0, "extended": 0, "unreserved": 0, "lost": 1}
    assert found.series("pg_replication_slots_retained_bytes") == []
    if major >= 17:
        reasons = {
            labels["invalidation_reason"]: v for labels, v in found.series("pg_replication_slots_invalidation_reason")
        }
        assert reasons["wal_removed"] == 1
        assert sum(reasons.values()) == 1


def test_a_slot_that_reserved_no_wal_yet_has_none_left_to_count(cluster: Callable[..., Cluster], major: int) -> None:
    """PostgreSQL itself says a negative number, of what was written since its first segment."""
    server = cluster(major, {"max_slot_wal_keep_size": "1MB"})
    server.execute("SELECT pg_create_physical_replication_slot('unused')")
    assert server.value("SELECT safe_wal_size FROM pg_replication_slots") < 0
    found = page_of(server)
    assert found.value("pg_replication_slots_active", slot_name="unused") == 0
    assert not found.series("pg_replication_slots_safe_wal_size_bytes")


def test_a_slot_that_was_idle_for_too_long_keeps_no_wal(cluster: Callable[..., Cluster]) -> None:
    """Though its restart_lsn stays, unlike that of one whose WAL was removed."""
    server = cluster(18, {"idle_replication_slot_timeout": "1s"})
    server.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
    assert page_of(server).series("pg_replication_slots_retained_bytes") != []
    time.sleep(1.5)
    server.execute("CHECKPOINT")
    found = page_of(server)
    assert found.value("pg_replication_slots_invalidation_reason", invalidation_reason="idle_timeout") == 1
    assert found.series("pg_replication_slots_retained_bytes") == []


async def test_a_large_transaction_spills(slots: Cluster, major: int) -> None:
    if major < 14:
        assert page_of(slots).series("pg_replication_slots_spilled_bytes_total") == []
        return
    slots.execute("CREATE TABLE spilled AS SELECT n FROM generate_series(1, 5000) AS n; DROP TABLE spilled")
    async with client(slots, "consumer") as consumer:
        await consumer.execute("SET logical_decoding_work_mem = '64kB'")
        await consumer.fetch("SELECT FROM pg_logical_slot_get_changes('decoded', NULL, NULL)")
    decoded = {"slot_name": "decoded", "slot_type": "logical"}
    found = page_where(slots, lambda p: p.value("pg_replication_slots_spilled_bytes_total", **decoded) > 64 * 1024)
    assert found.value("pg_replication_slots_spilled_transactions_total", **decoded) == 1
    assert found.value("pg_replication_slots_spills_total", **decoded) >= 1
    assert found.value("pg_replication_slots_decoded_transactions_total", **decoded) >= 1
    assert found.value("pg_replication_slots_decoded_bytes_total", **decoded) > 64 * 1024
    assert found.value("pg_replication_slots_streamed_bytes_total", **decoded) == 0
    assert found.value("pg_replication_slots_confirmed_flush_lag_bytes", **decoded) < 100_000


@pytest.mark.full
def test_lag_grows_while_a_link_that_looks_alive_is_silent(server18: Cluster) -> None:
    """A sender that is frozen closes nothing, and nothing arrives."""
    settings = {"wal_receiver_timeout": "20s", "wal_receiver_status_interval": "1s"}
    with clone_standby(server18, application_name="silenced", settings=settings) as standby:
        caught_up(server18, standby)
        sender = server18.value("SELECT pid FROM pg_stat_replication WHERE application_name = 'silenced'")
        os.kill(sender, signal.SIGSTOP)
        try:
            write(server18)
            assert page_of(standby).value("pg_replication_lag_seconds") == 0
            found = page_where(standby, lambda p: p.value("pg_replication_lag_seconds") > 0)
            assert found.value("pg_wal_receiver_streaming") == 1
            assert found.value("pg_replication_lag_seconds") > 11
        finally:
            os.kill(sender, signal.SIGCONT)
        page_where(standby, lambda p: p.value("pg_replication_lag_seconds") == 0)


def test_lag_grows_when_the_primary_is_gone(cluster: Callable[..., Cluster]) -> None:
    primary = cluster()
    with clone_standby(primary, settings=STANDBY | {"primary_slot_name": ""}) as standby:
        write(primary)
        caught_up(primary, standby)
        primary.stop("immediate")
        time.sleep(1)
        found = page_where(standby, lambda p: p.value("pg_wal_receiver_streaming") == 0)
        assert found.value("pg_replication_lag_seconds") >= 1
        time.sleep(1)
        assert page_of(standby).value("pg_replication_lag_seconds") >= 2
        primary.start()
        page_where(standby, lambda p: p.value("pg_replication_lag_seconds") == 0)


async def test_a_long_transaction_replayed_as_it_comes_is_no_lag(server18: Cluster) -> None:
    """The last commit is seconds old all that time, and at many moments the newest record is not replayed yet.

    It is 15 MB, so that a slow machine cannot fall behind by more than a segment.
    """
    load = """DO $$ BEGIN
                FOR i IN 1..150 LOOP
                  PERFORM pg_logical_emit_message(false, 'test', repeat('x', 100000));
                  PERFORM pg_sleep(0.02);
                END LOOP;
              END $$"""
    with clone_standby(server18) as standby:
        write(server18)
        caught_up(server18, standby)
        await asyncio.sleep(1)
        async with client(server18, "loader") as loader:
            loading = asyncio.create_task(loader.execute(load))
            pages = []
            while not loading.done():
                pages.append(await asyncio.to_thread(page_of, standby))
            await loading
        assert len(pages) > 1
        assert max(found.value("pg_replication_last_replay_seconds") for found in pages) > 2
        assert max(found.value("pg_replication_lag_seconds") for found in pages) == 0


def test_two_standbys_of_one_name_are_two(server18: Cluster) -> None:
    with (
        clone_standby(server18, application_name="twin") as first,
        clone_standby(server18, application_name="twin") as second,
    ):
        caught_up(server18, first)
        caught_up(server18, second)
        found = page_of(server18)
        labels: list[Labels] = [had for had, _ in found.series("pg_replication_sender_state", application_name="twin")]
        younger = server18.value("SELECT pid FROM pg_stat_replication ORDER BY backend_start DESC LIMIT 1")
        assert sorted(had["pid"] for had in labels) == ["", str(younger)]


def test_a_standby_shows_the_standbys_behind_it(server18: Cluster) -> None:
    with clone_standby(server18) as standby:
        upstream = {"primary_conninfo": f"host={HOST} port={standby.port} user=postgres application_name=cascaded"}
        caught_up(server18, standby)
        with clone_standby(server18, settings=upstream) as cascaded:
            write(server18)
            caught_up(server18, cascaded)
            found = page_where(standby, lambda p: p.value("pg_replication_sender_replay_lag_bytes") < 1000)
            assert found.value("pg_replication_sender_state", application_name="cascaded", state="streaming") == 1
            assert page_of(cascaded).value("pg_replication_lag_seconds") == 0
            assert page_of(cascaded).labels("pg_wal_receiver_info")["sender_port"] == str(standby.port)
