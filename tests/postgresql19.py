"""What PostgreSQL 19 has and 18 lacks, planted in a database of 18: no build of 19 can be installed yet.

Columns and types are those of its documentation and sources (system_views.sql, pg_proc.dat). Tables stand in for views.
It shows that a query is valid, what its types are and what becomes of its values, not that 19 behaves as documented.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from exporter.catalog.model import Collector
from exporter.demo.cluster import Cluster

VERSION = (19,)

DATABASE = "as_of_19"

_PLANTED = """
    SET allow_system_table_mods = on;
    CREATE TABLE pg_catalog.pg_stat_lock (
        locktype text,
        waits bigint,
        wait_time double precision,
        fastpath_exceeded bigint,
        stats_reset timestamptz
    );
    CREATE TABLE pg_catalog.pg_stat_recovery (
        promote_triggered boolean,
        last_replayed_read_lsn pg_lsn,
        last_replayed_end_lsn pg_lsn,
        last_replayed_tli integer,
        replay_end_lsn pg_lsn,
        replay_end_tli integer,
        recovery_last_xact_time timestamptz,
        current_chunk_start_time timestamptz,
        pause_state text
    );
    CREATE TABLE pg_catalog.pg_stat_autovacuum_scores (
        relid oid,
        schemaname name,
        relname name,
        score double precision,
        xid_score double precision,
        mxid_score double precision,
        vacuum_score double precision,
        vacuum_insert_score double precision,
        analyze_score double precision,
        do_vacuum boolean,
        do_analyze boolean,
        for_wraparound boolean
    );
    CREATE TABLE pg_catalog.progress_of_repack AS SELECT * FROM pg_stat_get_progress_info('CLUSTER');
    CREATE TABLE pg_catalog.stats_of_subscription (
        subid oid,
        apply_error_count bigint,
        sync_seq_error_count bigint,
        sync_table_error_count bigint,
        confl_insert_exists bigint,
        confl_update_origin_differs bigint,
        confl_update_exists bigint,
        confl_update_deleted bigint,
        confl_update_missing bigint,
        confl_delete_origin_differs bigint,
        confl_delete_missing bigint,
        confl_multiple_unique_conflicts bigint,
        stats_reset timestamptz
    );
    GRANT SELECT ON pg_stat_lock, pg_stat_recovery, pg_stat_autovacuum_scores TO PUBLIC;
    GRANT SELECT ON progress_of_repack, stats_of_subscription TO PUBLIC
"""

_STAND_INS = {
    "pg_stat_get_progress_info('REPACK')": "pg_catalog.progress_of_repack",
    "pg_stat_get_subscription_stats(s.oid)": "(SELECT * FROM pg_catalog.stats_of_subscription WHERE subid = s.oid)",
}
"""What cannot be planted, since 18 has a function of that name -> the table that stands in for it."""


@contextmanager
def planted(server: Cluster) -> Iterator[Cluster]:
    """A server with a database that has the empty views."""
    server.execute(f"CREATE DATABASE {DATABASE}")
    server.execute(_PLANTED, DATABASE)
    try:
        yield server
    finally:
        server.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def as_on_19(collector: Collector) -> Collector:
    """The collector with its query and its metrics for 19, on whatever version it runs, primary or standby."""
    metrics = tuple(each.model_copy(update={"since": None}) for each in collector.metrics_for(VERSION))
    sql = collector.part_for(VERSION) or ""
    for function, table in _STAND_INS.items():
        sql = sql.replace(function, table)
    return collector.model_copy(update={"sql": {(0,): sql}, "metrics": metrics, "role": "any"})
