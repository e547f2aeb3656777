"""What the demo says of a page."""

import re
from pathlib import Path

import pytest

from exporter.catalog.load import BUILT_IN, load
from exporter.demo import screen
from exporter.demo.screen import Line, lines
from exporter.exposition.self_metrics import OWN
from exporter.scrape.statement_texts import INFO

ROOT = '{pid="7",usename="reporting",application_name="psql",state="idle in transaction",relation="public.users"}'
T = '{datname="shop",schemaname="public",relname="carts"}'
SLOT = '{slot_name="search",slot_type="logical"}'
BAD = '{datname="shop",usename="billing",queryid="5"}'


def read(page: str, seconds: float = 0.0) -> screen.Page:
    return screen.read(f"pg_up 1\n{page}\n", seconds)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("", Line("locks", False, "nobody waits")),
        ("pg_lock_waiters 2", Line("locks", True, "2 sessions wait")),
        (
            f"pg_lock_blocker_blocked_sessions{ROOT} 7\npg_lock_blocker_longest_wait_seconds{ROOT} 4.6",
            Line(
                "locks",
                True,
                "pid 7 (reporting, psql, idle in transaction) holds up 7 sessions at public.users, one for 5 s",
            ),
        ),
        ("", Line("wraparound", False, "no age is known yet")),
        (
            'pg_database_xid_age{datname="a"} 5\npg_database_xid_age{datname="b"} 2100',
            Line("wraparound", False, "b is 2,100 transactions old"),
        ),
        (
            'pg_database_xid_age{datname="a"} 2.5e8\npg_wraparound_freeze_max_age 2e8',
            Line("wraparound", True, "a is 250,000,000 transactions old"),
        ),
        (
            f"pg_table_dead_tuples{T} 99\npg_table_vacuum_threshold_tuples{T} 449",
            Line("vacuum", False, "no table is past its threshold"),
        ),
        (
            f"pg_table_dead_tuples{T} 4500\npg_table_vacuum_threshold_tuples{T} 449\npg_table_autovacuum_disabled{T} 1",
            Line(
                "vacuum", True, "public.carts has 4,500 dead rows, 10.0 times its threshold; autovacuum is off for it"
            ),
        ),
        ("", Line("slots", False, "no slot holds back WAL")),
        (
            f"pg_replication_slots_retained_bytes{SLOT} 31457280\npg_replication_slots_active{SLOT} 0",
            Line("slots", True, "search holds back 30.0 MiB of WAL, and nobody reads it"),
        ),
        (
            f"pg_replication_slots_retained_bytes{SLOT} 1024\npg_replication_slots_active{SLOT} 1",
            Line("slots", False, "search holds back 0.0 MiB of WAL"),
        ),
        (
            'pg_replication_slots_wal_status{slot_name="search",wal_status="lost"} 1',
            Line("slots", True, "search has lost WAL that it needs"),
        ),
        (
            f'pg_statements_exec_seconds_total{{queryid="other"}} 1\npg_statements_exec_seconds_total{BAD} 3',
            Line("statements", True, "5 of billing takes 75% of all execution time"),
        ),
        (
            f"pg_statements_exec_seconds_total{BAD} 3\npg_statements_calls_total{BAD} 300",
            Line("statements", True, "5 of billing takes 100% of all execution time, 10.0 ms a call"),
        ),
        (
            f'pg_statements_exec_seconds_total{BAD} 3\npg_statement_info{BAD[:-1]},query="SELECT a FROM t"}} 1',
            Line("statements", True, "5 of billing takes 100% of all execution time: SELECT a FROM t"),
        ),
        ("pg_connections_used 9\npg_connections_max 40", Line("connections", False, "9 of 40 are in use")),
        ("pg_connections_used 39\npg_connections_max 40", Line("connections", True, "39 of 40 are in use")),
    ],
)
def test_a_page_becomes_a_sentence_on_each_subject(page: str, expected: Line) -> None:
    assert expected in lines(read(page))


def test_two_pages_say_how_long_the_transaction_ids_last() -> None:
    before = read("pg_xid_consumed 1000", 10)
    page = read(f'pg_xid_consumed 2000\npg_database_xid_age{{datname="shop"}} {2**31 - 86_400 * 300}', 20)
    [wraparound] = [finding for finding in lines(page, before) if finding.subject == "wraparound"]
    assert wraparound.text.endswith("; 100 more a second, 3 days to the end")


def test_of_a_server_that_is_down_only_the_reason_is_said() -> None:
    page = screen.read('pg_up 0\npg_up_reason{reason="refused"} 1\npg_up_reason{reason="hung"} 0\n', 0)
    assert lines(page) == [Line("PostgreSQL", True, "is down: refused")]


def test_the_screen_watches_no_metric_that_nobody_emits() -> None:
    watched = set(re.findall(r'"(pg_\w+)"', Path(screen.__file__).read_text()))
    emitted = {metric.name for collector in load(BUILT_IN) for metric in collector.metrics}
    assert watched
    assert watched <= emitted | {metric.name for metric in (*OWN, INFO)}
