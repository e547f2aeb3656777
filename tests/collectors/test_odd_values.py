"""No sentinel is served as a value: servers in odd states, and every sample of every collector looked at."""

import math
import re
from collections.abc import Callable

from pages import MONITOR, Labels, Page, page
from standby import clone_standby

from exporter.demo.cluster import Cluster

ODD = """
    CREATE TABLE other (id int PRIMARY KEY);
    CREATE TABLE parent (id int REFERENCES other, v text) PARTITION BY RANGE (id);
    CREATE TABLE hollow (id int) PARTITION BY LIST (id);
    CREATE TABLE part PARTITION OF parent FOR VALUES FROM (0) TO (10);
    CREATE INDEX ON parent (v);
    CREATE TABLE never_analyzed (id int, v text);
    CREATE TABLE without_columns ();
    CREATE UNLOGGED TABLE unlogged (id serial);
    CREATE TABLE odd_options (id int, v text) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_enabled = off);
    CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS a WITH NO DATA;
    CREATE SEQUENCE down INCREMENT -1 MINVALUE -5 MAXVALUE -1;
    CREATE SEQUENCE signed MINVALUE -9223372036854775808 START -9223372036854775808;
    CREATE SEQUENCE two MAXVALUE 2;
    CREATE SEQUENCE used_up MAXVALUE 3;
    SELECT setval('used_up', 3), setval('down', -5);
    INSERT INTO other VALUES (1);
    INSERT INTO parent VALUES (1, 'x');
    ANALYZE other; ANALYZE parent; ANALYZE hollow;
    CREATE DATABASE half_dropped;
    CREATE DATABASE closed ALLOW_CONNECTIONS false;
    CREATE ROLE for_ever LOGIN VALID UNTIL 'infinity' CONNECTION LIMIT 0;
    CREATE ROLE long_gone LOGIN VALID UNTIL '-infinity';
    SELECT pg_create_physical_replication_slot('reserves_nothing');
    SELECT pg_create_logical_replication_slot('decodes', 'test_decoding');
    SELECT pg_stat_reset();
"""

DOCUMENTED = {
    # metrics for which a negative value means what their help says
    "pg_settings_checksum",
    "pg_settings_autovacuum_work_mem_bytes",
    "pg_settings_temp_file_limit_bytes",
    "pg_settings_autovacuum_vacuum_max_threshold",
    "pg_settings_autovacuum_vacuum_insert_threshold",
    "pg_settings_autovacuum_vacuum_cost_delay_seconds",
    "pg_settings_autovacuum_vacuum_cost_limit",
    "pg_settings_max_standby_streaming_delay_seconds",
    "pg_settings_log_min_duration_statement_seconds",
    "pg_settings_log_temp_files_bytes",
}

YEAR_2000, YEAR_2100 = 946684800, 4102444800


def odd_values(found: Page) -> list[tuple[str, Labels, float]]:
    """Samples whose value is negative or no number, or whose time lies outside of this century."""
    odd = []
    for name, series in found.samples.items():
        if name in DOCUMENTED or name.startswith("pgvigil_"):
            continue
        is_time = re.search(r"_timestamp_seconds$|_time_seconds$", name) and not name.endswith("_total")
        for labels, value in series:
            if value < 0 or not math.isfinite(value) or (is_time and not YEAR_2000 < value < YEAR_2100):
                odd.append((name, labels, value))
    return odd


def failing(found: Page) -> list[str]:
    return [labels["collector"] for labels, value in found.series("pgvigil_collector_success") if not value]


def test_no_sentinel_is_a_value_on_a_server_in_odd_states(major: int, cluster: Callable[..., Cluster]) -> None:
    """Also after a crash, when statistics are empty without a reset, and on a standby with and without its upstream."""
    server = cluster(major, {"max_slot_wal_keep_size": "10GB"})
    for statement in filter(str.strip, ODD.split(";\n")):
        server.execute(statement)
    server.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half_dropped'")
    server.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {MONITOR}")
    server.execute("BEGIN; INSERT INTO other VALUES (2); PREPARE TRANSACTION 'odd'")
    with clone_standby(server) as standby:
        pages = {"primary": page(server.dsn(user=MONITOR)), "standby": page(standby.dsn(user=MONITOR))}
        server.stop("immediate")
        pages["cut standby"] = page(standby.dsn(user=MONITOR))
        standby.stop()
        standby.start()
        pages["standby that never had an upstream"] = page(standby.dsn(user=MONITOR))
    server.start()
    pages["after a crash"] = page(server.dsn(user=MONITOR))
    assert {state: odd for state, found in pages.items() if (odd := odd_values(found))} == {}
    assert {state: names for state, found in pages.items() if (names := failing(found))} == {}
    limits = {labels["datname"] for labels, _ in pages["primary"].series("pg_database_connection_limit")}
    assert "half_dropped" not in limits
    assert pages["primary"].value("pg_roles_connection_limit", rolname="for_ever") == 0
    until = pages["primary"].series("pg_roles_valid_until_timestamp_seconds")
    assert [labels for labels, _ in until if labels["rolname"] in ("for_ever", "long_gone")] == []
