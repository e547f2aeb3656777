"""The situations in which dashboards are looked at: servers at work, servers that are gone, and recorded trouble."""

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from alerting import ALERTS
from alerts.golden import FOLDER as GOLDEN
from dashboards.ask import Viewer, Window
from incidents.tape import Phase, Recording, Tape, openmetrics, read
from pages import catalog
from prom import JOB, PROMETHEUS, PROMTOOL, Prometheus, prometheus
from servers import build, program
from serving import Exporter, serving

from exporter.demo.client import Session, again_and_again
from exporter.demo.cluster import Cluster
from exporter.demo.shop import DATABASE, MONITOR, ROLES, SETTINGS, TABLES, Shop
from exporter.demo.workload import everybody

RULES = [ALERTS / "rules" / "*.yml"]
PASSWORD = "open sesame"  # of servers that live for minutes on loopback
EVERY = 2
"""Seconds from one scrape to the next."""
ASK_SECONDS = 60


@contextmanager
def looking(url: str, seconds: float, every: float, end: float | None = None) -> Iterator[Viewer]:
    """Somebody who looks at the last so many seconds."""
    with httpx.Client(timeout=ASK_SECONDS) as client:
        yield Viewer(url, Window(end or time.time(), round(seconds), every), client)


@dataclass
class Work:
    """Two shops at work, with their exporters and a Prometheus that has scraped them for a while."""

    prometheus: Prometheus
    servers: Sequence[Cluster]
    exporters: Sequence[Exporter]
    began: float = field(default_factory=time.time)

    def viewer(self, stack: ExitStack) -> Viewer:
        """Somebody who looks at all of it."""
        return stack.enter_context(looking(self.prometheus.url, time.time() - self.began, EVERY))

    def outage(self, seconds: float) -> None:
        """The one server stops, and so does the exporter of the other; wait until that was seen."""
        self.servers[0].stop()
        self.exporters[1].process.kill()
        time.sleep(seconds)


@contextmanager
def at_work(folder: Path, majors: Sequence[int], seconds: float) -> Iterator[Work]:
    """Shops of these versions, neglected as the demo's, at work for so long with all that happens there."""
    folder.chmod(0o755)  # the servers run as another user
    with ExitStack() as stack:
        shops = [_shop(folder / f"server{major}", major, stack) for major in majors]
        exporters = [
            stack.enter_context(_exporter(shop, folder, budget))
            for shop, budget in zip(shops, (LITTLE, UNBOUNDED), strict=False)
        ]
        prom = stack.enter_context(prometheus(program(*PROMETHEUS), folder, every=f"{EVERY}s", rules=RULES))
        prom.scrape(*(exporter.url.removeprefix("http://") for exporter in exporters))
        work = Work(prom, [shop.cluster for shop in shops], exporters)
        contending = [again_and_again(shop, "billing", "settlement", settlement) for shop in shops for _ in range(2)]
        with _busy([*contending, *(each for shop in shops for each in everybody(shop))]):
            time.sleep(seconds)
            yield work


async def settlement(billing: Session) -> None:
    """Keep a row for seven seconds: of two that do so, one waits for it, by a statement that has ended before."""
    while True:
        await billing.execute("BEGIN")
        await billing.execute("SELECT name FROM users WHERE id = 1 FOR UPDATE")
        await billing.fetchval("SELECT count(*) FROM (SELECT pg_sleep(7)) AS settled")
        await billing.execute("COMMIT")
        await asyncio.sleep(0.2)


REPETITIVE = """\
name: repetitive
help: Somebody's own collector, which gives the same row twice.
labels: [name]
sql: SELECT 'one' AS name, 1 AS value UNION ALL SELECT 'one', 2
metrics:
  - {name: shop_repeated, type: gauge, help: Something., column: value}
"""


LITTLE, UNBOUNDED = "0.001", "0"
"""What the exporters may cost their servers: the one so little that its collectors are held back."""


def _exporter(shop: Shop, folder: Path, budget: str) -> AbstractContextManager[Exporter]:
    """An exporter that asks the server again for every page, as far as its budget goes, and has to cut statements.

    Two of them name more than the ten that a dashboard shows: what it sums up has a value.
    """
    own = folder / "collectors"
    own.mkdir(exist_ok=True)
    (own / "repetitive.yaml").write_text(REPETITIVE)
    uncached = {collector.name: {"cache": 0} for collector in catalog() if collector.cache}
    cut = {"statements": {"cache": 0, "limit": 7}}
    return serving(
        dsn=shop.dsn(MONITOR), collectors=json.dumps(uncached | cut), collectors_dir=str(own), cost_budget=budget
    )


def _shop(folder: Path, major: int, stack: ExitStack) -> Shop:
    cluster = Cluster(build(major), folder, settings=SETTINGS, auth="scram-sha-256", password=PASSWORD)
    shop = Shop(stack.enter_context(cluster), PASSWORD)
    if major >= 14:
        shop.furnish()
    else:
        _furnish_before_14(shop)
    shop.neglect()
    shop.cluster.execute(PARTITIONED, DATABASE)
    return shop


PARTITIONED = """
    SET ROLE deploy;
    CREATE TABLE visits (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (10000);
    CREATE TABLE visits_rest PARTITION OF visits DEFAULT;
    INSERT INTO visits SELECT generate_series(1, 5000);
    ANALYZE visits_1;
    CREATE PUBLICATION visits FOR TABLE visits;
    CREATE TABLE referrals (user_id bigint PRIMARY KEY REFERENCES users)
"""
"""A published table whose partition is analyzed and which is not itself, as autovacuum leaves it. A mistyped key."""


def _furnish_before_14(shop: Shop) -> None:
    """As Shop.furnish, without roles that may read and write everything, which there were not yet."""
    roles = "\n".join(line for line in ROLES.splitlines() if "_all_data" not in line)
    shop.cluster.execute(roles.format(password=shop.password))
    shop.cluster.execute(f"CREATE DATABASE {DATABASE} OWNER deploy")
    grants = "GRANT ALL ON ALL TABLES IN SCHEMA public TO web, billing, reporting"
    for step in ("CREATE EXTENSION pg_stat_statements", f"SET ROLE deploy; {TABLES}", grants):
        shop.cluster.execute(step, DATABASE)


@contextmanager
def _busy(works: Sequence[Coroutine[Any, Any, None]]) -> Iterator[None]:
    """People at work in a thread of their own, until the block ends."""
    ended = threading.Event()

    async def work() -> None:
        tasks = [asyncio.create_task(each) for each in works]
        while not ended.is_set():
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


DAY = 86400
MINUTE = 60
PAGES: Mapping[str, str] = {
    "db1:9187": "primary18",
    "db2:9187": "primary13",
    "db3:9187": "standby18",
    "db4:9187": "healthy18",
}
"""The recorded servers by the names that Prometheus gave them: two in every trouble at once, and two at peace."""

WORSE: Mapping[str, Mapping[str, float]] = {
    "db1:9187": {
        "pg_autovacuum_wraparound_workers": 1,
        "pg_database_mxid_age": 1.9e9,
        "pg_database_xid_age": 1.9e9,
        "pg_progress_done_tuples": 500,
        "pg_replication_slots_spilled_bytes_total": 1e12,
        "pg_table_inserted_since_vacuum_tuples": 1e7,
    },
    "db3:9187": {"pg_recovery_conflicts_total": 1e6, "pg_wal_receiver_streaming": 0},
}
"""What takes months, or cannot be brought about here: values of recorded series."""
NEVER_SEEN: Mapping[str, float] = {
    'pg_database_checksum_last_failure_timestamp_seconds{job="postgresql",instance="db1:9187",datname="shop"}': 1e9,
    'pg_server_certificate_not_after_timestamp_seconds{job="postgresql",instance="db1:9187"}': 4e9,
    'pg_table_bloat_estimate_ratio{job="postgresql",instance="db1:9187",'
    'datname="shop",schemaname="public",relname="events"}': 0.6,
    **{
        f'pg_index_bloat_estimate_{what}{{job="postgresql",instance="db1:9187",'
        'datname="shop",schemaname="public",relname="events",indexrelname="events_pkey"}': value
        for what, value in (("bytes", 1e9), ("ratio", 0.6))
    },
    'pg_buffer_cache_database_bytes{job="postgresql",instance="db1:9187",datname="shop"}': 1e8,
    **{
        f'pg_buffer_cache_relation_{what}{{job="postgresql",instance="db1:9187",'
        'datname="shop",schemaname="public",relname="events",relkind="table"}': value
        for what, value in (("bytes", 9e7), ("dirty_bytes", 1e6), ("usage_count_mean", 3.0))
    },
    'pg_progress_total_tuples{job="postgresql",instance="db1:9187",datname="shop",relname="public.events",'
    'indexrelname="public.events_slowly_idx",command="CREATE INDEX CONCURRENTLY"}': 1000,
}
"""Series that no recorded server had."""

FALLING = {"pg_sequence_remaining_values", "pg_replication_slots_safe_wal_size_bytes", "node_filesystem_avail_bytes"}
GROWING = {"pg_connections_used", "pg_sessions", "pg_wal_size_bytes", "pg_replication_slots_retained_bytes"}
SIZES = ("_size_bytes", "_age", "_used_ratio", "_consumed", "_position_bytes")
MOVED = 0.2
"""By which part of itself a gauge has moved in the time that is recorded."""


@contextmanager
def in_trouble(folder: Path, minutes: int) -> Iterator[Viewer]:
    """A Prometheus that remembers so much of the recorded servers, today and a week ago, and what rules made of it."""
    end = time.time()
    windows = [(end - 7 * DAY - minutes * MINUTE, end - 7 * DAY + MINUTE), (end - minutes * MINUTE, end)]
    steps = [end - at for start, stop in windows for at in _moments(start, stop)]
    backfill(folder, _lines(end, steps))
    for _ in range(3):  # some rules read what others record
        with _past(folder) as past:
            for start, stop in windows:
                _record(folder, past.url, start, stop)
    with _past(folder) as past:
        backfill(folder, alerts_of(past, end - minutes * MINUTE / 2, end))
    with _past(folder) as past, looking(past.url, minutes * MINUTE * 3 / 4, MINUTE, end) as viewer:
        yield viewer


def _past(folder: Path) -> AbstractContextManager[Prometheus]:
    """A Prometheus that only answers: it neither scrapes nor evaluates."""
    return prometheus(program(*PROMETHEUS), folder, every="1y", rules=RULES)


def alerts_of(past: Prometheus, start: float, stop: float) -> Iterator[str]:
    """What Prometheus would have noted of the alerts since the rules were loaded, had they no `for`."""
    for rule in past.rules():
        asked = {"query": rule["query"], "start": start, "end": stop, "step": MINUTE}
        answer = httpx.get(f"{past.url}/api/v1/query_range", params=asked, timeout=ASK_SECONDS).json()
        assert answer["status"] == "success", answer
        for series in answer["data"]["result"]:
            labels = {**series["metric"], **rule["labels"], "alertname": rule["name"]}
            labels.pop("__name__", None)
            pairs = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            began = float(series["values"][0][0])
            for at, _ in series["values"]:
                yield f'ALERTS{{{pairs},alertstate="firing"}} 1 {at:.3f}\n'
                yield f"ALERTS_FOR_STATE{{{pairs}}} {began:.0f} {at:.3f}\n"


def _moments(start: float, stop: float) -> Iterator[float]:
    at = start
    while at <= stop:
        yield at
        at += MINUTE


def _lines(end: float, steps: Sequence[float]) -> Iterator[str]:
    for instance, page in PAGES.items():
        yield from openmetrics(instance, JOB, tape_of(GOLDEN / f"{page}.prom", WORSE.get(instance, {})), end, steps)
    for before in steps:
        yield from (f"{series} {value!r} {end - before:.3f}\n" for series, value in NEVER_SEEN.items())
    yield from _file_systems(end, steps)


def tape_of(page: Path, worse: Mapping[str, float] = {}) -> Tape:
    """A recorded page as eight days that end with it: counters have risen, and some gauges have moved."""
    text = page.read_text("utf-8")
    now = max(value for (name, _), value in read(text, 0).values.items() if name == "pg_config_load_timestamp_seconds")
    seen = read(text, now)
    second = replace(seen, values={series: worse.get(series[0], value) for series, value in seen.values.items()})
    first = {
        (name, labels): _before(name, value, name in second.counters) for (name, labels), value in second.values.items()
    }
    moving = frozenset(name for name, _ in second.values if _moves(name))
    phase = Phase(Recording(now - 8 * DAY, first, second.counters), second, 8 * DAY, moving)
    return Tape([phase], cause=1, cure=1)


def _moves(name: str) -> bool:
    return name in FALLING | GROWING or name.endswith(SIZES)


def _before(name: str, value: float, counter: bool) -> float:
    """What it was eight days before; a counter was at nothing."""
    if counter:
        return 0.0
    return value * (1 + MOVED if name in FALLING else 1 - MOVED) if _moves(name) else value


def _file_systems(end: float, steps: Sequence[float]) -> Iterator[str]:
    """What a node_exporter says beside the first server: its disk fills up."""
    labels = 'job="node",instance="db1:9100",device="/dev/sda1",fstype="ext4",mountpoint="/"'
    for before in steps:
        yield f"node_filesystem_size_bytes{{{labels}}} 100000000000 {end - before:.3f}\n"
        yield f"node_filesystem_avail_bytes{{{labels}}} {2e10 + before * 1e4:.0f} {end - before:.3f}\n"


ONE_BLOCK = "--max-block-duration=720h"
"""Promtool reads all of its input once for each block."""


def backfill(folder: Path, lines: Iterator[str]) -> None:
    """Write samples into the blocks of a Prometheus that is not started yet."""
    file = folder / "past.txt"
    with file.open("w") as out:
        out.writelines(lines)
        out.write("# EOF\n")
    promtool("create-blocks-from", ONE_BLOCK, "openmetrics", "--quiet", str(file), str(folder / "data"))
    file.unlink()


def _record(folder: Path, url: str, start: float, stop: float) -> None:
    options = [f"--start={start:.0f}", f"--end={stop:.0f}", f"--url={url}", f"--eval-interval={MINUTE}s"]
    files = [str(file) for file in sorted((ALERTS / "rules").glob("*.yml"))]
    promtool("create-blocks-from", ONE_BLOCK, "rules", *options, f"--output-dir={folder / 'data'}", *files)


def promtool(*arguments: str) -> None:
    """Run `promtool tsdb`."""
    done = subprocess.run([program(*PROMTOOL), "tsdb", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
