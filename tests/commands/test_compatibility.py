"""compatibility_names: postgres_exporter's names, labels and values, compared with the real one on the same server."""

import asyncio
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from bench.exporters import PROGRAM, Exporter, corrected_queries, running, theirs
from clients import client
from pages import MONITOR, Labels, page
from serving import run, serving
from standby import clone_standby

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.commands.compatibility import Theirs, names, our_name, served, served_compatibly
from exporter.demo.cluster import HOST, Cluster

ALWAYS = served(load(BUILT_IN))
SERVED = served_compatibly(load(BUILT_IN).of_kind("postgresql"), load(COMPATIBILITY))
THEIRS = {each.name: each for each in names()}

OPTIONAL = (
    "buffercache_summary",
    "database_wraparound",
    "long_running_transactions",
    "postmaster",
    "process_idle",
    "stat_activity_autovacuum",
    "stat_checkpointer",
    "stat_statements",
    "stat_wal_receiver",
    "statio_user_indexes",
)

EXPORTERS = ("pgvigil", "postgres_exporter")
"""The roles that both log in as."""

MORE_LABELS = {"pg_replication_slots_active": {"slot_type"}, "pg_stat_replication_reply_time": {"pid"}}
"""Labels that ours has beside theirs."""

OF_ITSELF = ("go_", "process_", "promhttp_", "pg_exporter_", "pg_scrape_collector_", "postgres_exporter_")
"""What an exporter says of itself is not compared."""

ON_A_STANDBY_ONLY = {"pg_replication_lag", "pg_replication_lag_seconds", "pg_replication_last_replay_seconds"}

OTHER_VALUES = {
    "pg_buffercache_summary_buffers_pinned": "moves as it likes between two scrapes",
    "pg_buffercache_summary_usagecount_avg": "moves as it likes between two scrapes",
    "pg_database_connection_limit": "has no series without a limit",
    "pg_long_running_transactions": "theirs counts its own, of collectors that run side by side",
    "pg_long_running_transactions_oldest_timestamp_seconds": "theirs counts its own",
    "pg_process_idle_seconds_bucket": "both count each other's sessions, and theirs shows one row",
    "pg_process_idle_seconds_count": "both count each other's sessions, and theirs shows one row",
    "pg_process_idle_seconds_sum": "both count each other's sessions, and theirs shows one row",
    "pg_replication_lag": "is how long ago the last commit was, in the queries.yaml of old releases",
    "pg_replication_last_replay_seconds": "has no series before a commit was replayed",
    "pg_roles_connection_limit": "has no series without a limit",
    "pg_settings_extra_float_digits": "is of each one's own session",
    "pg_settings_lock_timeout_seconds": "is not known: our own sessions set it at the login",
    "pg_settings_tcp_keepalives_count": "is of each one's own session",
    "pg_settings_tcp_keepalives_idle_seconds": "is of each one's own session",
    "pg_settings_tcp_keepalives_interval_seconds": "is of each one's own session",
    "pg_stat_statements_mean_time_seconds": "rises and falls between two scrapes",
    "pg_stat_statements_stddev_time_seconds": "rises and falls between two scrapes",
    "pg_stat_user_tables_table_size_bytes": "leaves out free space and visibility maps",
}

Series = Mapping[str, list[tuple[Labels, float]]]


def test_what_is_served_has_their_labels_and_type(subtests: pytest.Subtests) -> None:
    """And what is not says why."""
    for name, asked in THEIRS.items():
        with subtests.test(name):
            if name not in SERVED:
                assert asked.difference
                continue
            metric, labels = SERVED[name]
            more = MORE_LABELS.get(name, set())
            assert set(labels) == set(asked.labels) | more
            assert not more or asked.difference
            if metric.name == name:
                lawful = asked.type in ("gauge", "untyped") or (asked.type == "counter" and name.endswith("_total"))
                assert metric.type == (asked.type if lawful else "untyped")


def test_their_name_leads_to_one_that_is_always_there(subtests: pytest.Subtests) -> None:
    for name, asked in THEIRS.items():
        with subtests.test(name):
            assert not (asked.ours and name in ALWAYS), "the catalog says it already"
            assert our_name(asked, ALWAYS) in ("", *ALWAYS)


def test_the_table_has_every_name_once_and_every_name_that_we_serve_for_them() -> None:
    assert len(THEIRS) == len(names())
    ours = {metric.name for collector in load(COMPATIBILITY) for metric in collector.metrics}
    also = {metric.also for metric, _ in SERVED.values() if metric.also}
    assert ours | also <= set(THEIRS)


def test_the_difference_is_printed() -> None:
    done = run("reference", "--diff", "postgres_exporter")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for name, asked in THEIRS.items():
        shown = [line for line in lines if f"`{name}`" in line]
        assert any(asked.difference in line for line in shown), name


def test_the_names_are_served_only_when_asked_for(server18: Cluster) -> None:
    """The collectors of compatibility cost nothing without the setting."""
    with serving(dsn=server18.dsn(user=MONITOR)) as plain:
        assert not set(_read(plain.get().text)) & (set(THEIRS) - set(ALWAYS) | {"pg_replication_lag"})


def test_a_vacuum_is_shown_with_its_seven_phases(server18: Cluster) -> None:
    async def shown() -> Series:
        async with client(server18) as vacuum:
            await vacuum.execute("CREATE TABLE swept AS SELECT generate_series(1, 20000) AS id; DELETE FROM swept")
            await vacuum.execute(
                "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; SET vacuum_cost_page_hit = 10"
            )
            sweeping = asyncio.create_task(vacuum.execute("VACUUM swept"))
            while not server18.value("SELECT count(*) FROM pg_stat_progress_vacuum"):
                await asyncio.sleep(0.05)
            found = page(server18.dsn(user=MONITOR), COMPATIBILITY)
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            return found.samples

    found = asyncio.run(shown())
    server18.execute("DROP TABLE swept")
    assert sum(value for _, value in found["pg_stat_progress_vacuum_phase"]) == 1
    assert len(found["pg_stat_progress_vacuum_phase"]) == 7
    [(labels, blocks)] = found["pg_stat_progress_vacuum_heap_blks"]
    assert (labels, blocks > 0) == ({"datname": "postgres", "relname": "public.swept"}, True)
    assert all(len(found[name]) == 1 for name in THEIRS if re.match("pg_stat_progress_vacuum_(?!phase)", name))


@dataclass(frozen=True)
class Compared:
    """The pages of one server: ours before and after theirs."""

    on_standby: bool
    before: Series
    theirs: Series
    after: Series


@pytest.mark.timeout(300)
@pytest.mark.parametrize("major", [13, 15, 18], ids=lambda major: f"pg{major}")
async def test_names_labels_and_values_agree_with_the_real_one(
    major: int, cluster: Callable[..., Cluster], each_tool: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """On a primary with sessions, locks, tables and slots, and on its standby; and every name of the table is there."""
    program = each_tool(PROGRAM, f"apt-get install {PROGRAM}")
    primary = cluster(major, SETTINGS)
    _prepare(primary)
    seen: dict[str, list[tuple[Labels, float]]] = {}
    wrong = []
    with clone_standby(primary, application_name="twin", slot="repmgr_slot_1") as standby:
        for server in (primary, standby):
            found = await _compared(primary, server, program, tmp_path)
            wrong += [f"on {server.dsn()}: {line}" for line in _complaints(found)]
            seen |= found.after
    assert "\n".join(wrong) == ""
    assert [name for name in THEIRS if _expected(THEIRS[name], major) and name not in seen] == []
    odd = {name for name in THEIRS for labels, _ in seen.get(name, ()) if not _has_their_labels(name, labels)}
    assert odd == set()


SETTINGS = {"archive_mode": "on", "archive_command": "/bin/true", "max_slot_wal_keep_size": "1GB"}

NOT_SEEN = (
    "pg_stat_activity_autovacuum_timestamp_seconds",  # nothing that autovacuum is at work on
    "pg_stat_database_checksum_",  # no checksums before 18, and no damage
    "pg_stat_progress_vacuum_",  # see the test of a vacuum
)


def _expected(asked: Theirs, major: int) -> bool:
    """Whether a page of ours should have the name on this version."""
    exists = int(asked.since or 0) <= major and (not asked.until or major < int(asked.until))
    return asked.name in SERVED and exists and not asked.name.startswith(NOT_SEEN)


def _has_their_labels(name: str, labels: Labels) -> bool:
    return set(labels) == set(THEIRS[name].labels) | MORE_LABELS.get(name, set())


def _prepare(primary: Cluster) -> None:
    primary.execute("CREATE ROLE postgres_exporter LOGIN; GRANT pg_monitor TO postgres_exporter")
    primary.execute("ALTER ROLE pgvigil CONNECTION LIMIT 40")
    primary.execute("CREATE DATABASE shop CONNECTION LIMIT 50")
    primary.execute(
        """
        CREATE EXTENSION pg_stat_statements;
        CREATE EXTENSION pg_buffercache;
        CREATE TABLE item (id int PRIMARY KEY, name text);
        CREATE TABLE bare (a int);
        INSERT INTO item SELECT i, repeat('x', 100) FROM generate_series(1, 5000) AS i;
        DELETE FROM item WHERE id < 100;
        ANALYZE;
        """,
        database="shop",
    )
    primary.execute("VACUUM item", database="shop")
    primary.execute("SELECT pg_switch_wal()")
    primary.execute("SELECT pg_create_physical_replication_slot('repmgr_slot_1', true)")
    primary.execute("SELECT pg_create_logical_replication_slot('a_logical_one', 'test_decoding')", database="shop")


async def _compared(primary: Cluster, server: Cluster, program: Path, folder: Path) -> Compared:
    """Scrape ours, theirs and ours again, while there is some work, an idle transaction and a lock."""
    on_standby = server is not primary
    while not primary.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"):
        await asyncio.sleep(0.1)
    collectors = {each.name: {"cache": 0} for each in load(BUILT_IN, COMPATIBILITY) if each.cache}
    for name in ("stat_statements", "statement_columns"):
        collectors[name] = {"cache": 0, "enabled": True, "limit": 5000}  # theirs lists all of them
    settings = {
        "dsn": server.dsn("shop", MONITOR),
        "collectors": json.dumps(collectors),
        "compatibility_names": "true",
        "cost_budget": "0",
        "sample_interval": "0",
    }
    with serving(**settings) as ours, running(_theirs(server, program, folder), folder) as other:
        async with client(server, "till", "shop") as till, client(server, "idle", "shop"):
            await till.execute("BEGIN; LOCK TABLE item IN ACCESS SHARE MODE")
            pages = []
            for url in (ours.url, ours.url, f"http://{HOST}:{other.exporter.port}", ours.url):
                answer = await asyncio.to_thread(httpx.get, f"{url}/metrics", timeout=30)
                pages.append(_read(answer.text))
                await asyncio.to_thread(_work, primary)
                await asyncio.sleep(1.2)  # statistics take a second to be reported
    return Compared(on_standby, pages[1], pages[2], pages[3])


def _theirs(server: Cluster, program: Path, folder: Path) -> Exporter:
    """The one that is installed with its queries.yaml, or a current one with all that is optional."""
    if program == Path(shutil.which(PROGRAM) or ""):
        return theirs(server, "shop", corrected_queries(folder))
    made = theirs(server, "shop")
    command = (str(program), *made.command[1:], *(f"--collector.{name}" for name in OPTIONAL))
    return replace(made, command=command)


def _work(primary: Cluster) -> None:
    """Let counters rise."""
    primary.execute("UPDATE item SET name = 'y' WHERE id = 500; SELECT count(*) FROM bare", database="shop")


def _complaints(found: Compared) -> Iterator[str]:
    for name, series in found.theirs.items():
        if name.startswith(OF_ITSELF) or (name in ON_A_STANDBY_ONLY and not found.on_standby):
            continue
        if name not in found.after:
            known = name in THEIRS and name not in SERVED
            empty = all(math.isnan(value) for _, value in series) or name in OTHER_VALUES
            if not known and not empty:
                yield f"{name} is missing"
            continue
        for labels, value in series:
            if not _moves(name, labels) and name not in OTHER_VALUES and not math.isnan(value):
                yield from _complaint(found, name, labels, value)


def _moves(name: str, labels: Labels) -> bool:
    """Tell whether a series is of the exporters' own sessions, or of what current releases do not show either."""
    own = any(labels.get(label) in EXPORTERS for label in ("usename", "user", "rolname"))
    nobody = name.startswith("pg_stat_activity_") and not labels.get("usename") and labels["datname"][:8] != "template"
    locks = name == "pg_locks_count" and labels["mode"] == "accesssharelock" and labels["datname"][:8] != "template"
    backends = name == "pg_stat_database_numbackends" and labels["datname"][:8] != "template"
    return own or nobody or locks or backends or labels.get("datid") == "0"


def _complaint(found: Compared, name: str, labels: Labels, value: float) -> Iterator[str]:
    wanted = _comparable(name, labels)
    before, after = (
        [had for labels, had in series.get(name, []) if wanted.items() <= labels.items()]
        for series in (found.before, found.after)
    )
    if len(after) != 1 or len(before) != 1:
        yield f"{name}{dict(wanted)}: {len(before)} and {len(after)} series of ours"
        return
    tolerance = 1.0 if value > 1e9 else 1e-6 * abs(value)  # old releases cut Unix times to seconds
    if not min(before[0], after[0]) - tolerance <= value <= max(before[0], after[0]) + tolerance:
        yield f"{name}{dict(wanted)}: {value}, ours {before[0]} and {after[0]}"


def _comparable(name: str, labels: Labels) -> Labels:
    """Leave out empty labels, and those of old releases: `server`, and what they said of standbys wrongly."""
    old = {"server"} if "server" not in THEIRS[name].labels else set()
    if name.startswith("pg_stat_replication_"):
        old |= {"slot_name", "client_addr"}
    return {label: value for label, value in labels.items() if value and label not in old}


def _read(page: str) -> Series:
    """Read a page by the letter: the parser of prometheus-client adds _total to counters that lack it."""
    series: dict[str, list[tuple[Labels, float]]] = {}
    for line in page.splitlines():
        if found := re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
            series.setdefault(found[1], []).append((labels, float(found[3])))
    return series
