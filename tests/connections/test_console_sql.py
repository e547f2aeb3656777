"""Queries on what PgBouncer shows."""

from pathlib import Path

import pytest

from exporter.catalog.load import BUILT_IN, load
from exporter.connections.console_sql import Shown, commands, rows
from exporter.errors import QueryError
from exporter.planning.plan import plan
from exporter.planning.server import Server
from exporter.samples.convert import missing_columns

POOLS = Shown(("database", "user", "maxwait_us"), (("shop", "web", 1_500_000), ("blog", None, 2**64 - 1)))

FIRST = """
stats: database total_xact_count total_query_count total_received total_sent total_xact_time total_query_time
 total_wait_time
pools: database user cl_active cl_waiting sv_active sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode
databases: name host port database force_user pool_size reserve_pool pool_mode max_connections current_connections
 paused disabled
lists: list items
config: key value changeable
version: version
"""
"""What the console shows since 1.12, by command."""

LATER = {
    (1, 16): "databases: min_pool_size",
    (1, 18): "pools: cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_being_canceled",
    (1, 19): "state: key value",
    (1, 23): "stats: total_server_assignment_count\nusers: name pool_size",
    (1, 24): "stats: total_client_parse_count total_server_parse_count total_bind_count\n"
    "databases: reserve_pool_size max_client_connections current_client_connections",
    (1, 26): "stats: total_client_login_count",
}
"""What versions added, by the source of PgBouncer."""

GONE = {(1, 24): {"reserve_pool"}}


def shown_by(version: tuple[int, int]) -> dict[str, Shown]:
    """What the console of a version shows, without rows."""
    columns: dict[str, list[str]] = {}
    texts = [FIRST.replace("\n ", " "), *(text for since, text in LATER.items() if since <= version)]
    for line in "\n".join(texts).split("\n"):
        name, _, found = line.partition(": ")
        columns.setdefault(name, []).extend(found.split())
    gone = {name for since, names in GONE.items() if since <= version for name in names}
    return {name: Shown(tuple(c for c in all_ if c not in gone), ()) for name, all_ in columns.items() if name}


@pytest.mark.parametrize("version", [(1, 12), *LATER, (1, 99)])
def test_every_version_has_the_columns_that_collectors_ask_it_for(version: tuple[int, int]) -> None:
    """Each answer gets one row without values, so that every column is seen."""
    shown = {name: Shown(each.columns, ((None,) * len(each.columns),)) for name, each in shown_by(version).items()}
    for job in plan(load(BUILT_IN).of_kind("pgbouncer"), Server(version, False, "pgbouncer")).jobs:
        sql = job.sql.replace("WHERE", "WHERE true OR")
        [row] = rows(sql, {name: shown[name] for name in commands(sql)}, 1, 9)
        assert missing_columns(job, row.keys()) == []


def test_a_query_names_what_it_wants_to_be_shown() -> None:
    assert commands("SELECT a.x FROM show_pools AS a JOIN show_stats AS b ON a.d = b.d, show_pools") == (
        "pools",
        "stats",
    )


def test_it_can_calculate_and_counts_beyond_sqlites_numbers() -> None:
    [first, second] = rows("SELECT *, maxwait_us / 1e6 AS seconds FROM show_pools", {"pools": POOLS}, 1, 9)
    assert dict(first) == {"database": "shop", "user": "web", "maxwait_us": 1_500_000, "seconds": 1.5}
    assert second["maxwait_us"] == 2.0**64
    assert second["user"] is None


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT nothing FROM show_pools", "query"),
        ("SELECT 1; SELECT 2", "query"),
        ("WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a) SELECT max(x) FROM a", "timeout"),
    ],
)
def test_why_there_are_no_rows(sql: str, reason: str) -> None:
    with pytest.raises(QueryError) as failed:
        rows(sql, {"pools": POOLS}, 0.2, 9)
    assert failed.value.reason == reason


def test_no_query_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="too many attached"):
        rows(f"ATTACH DATABASE '{tmp_path / 'own'}' AS own", {}, 1, 9)
    assert list(tmp_path.iterdir()) == []
