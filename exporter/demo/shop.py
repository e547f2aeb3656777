"""The shop that the demo runs: its server's settings, its roles, its tables, and the mistakes built into them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.demo.build import embedded
from exporter.demo.cluster import FAST, Cluster

DATABASE = "shop"
SLOT = "search"
TENANTS, USERS, ORDERS, PRICES = 50, 2_000, 200_000, 500

SETTINGS: Mapping[str, str] = {
    **FAST,
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_utility": "off",  # a migration that waited long is not an expensive statement
    "track_functions": "pl",
    "track_io_timing": "on",
    "archive_mode": "on",
    "archive_command": "true",  # the demo takes no backups
    "wal_level": "logical",
    "max_slot_wal_keep_size": "512MB",  # upper bound on the WAL that the abandoned slot keeps on the user's disk
    "max_wal_size": "128MB",
    "max_connections": "40",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "5s",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}

MONITOR = "pgvigil"

# The last two lines are all that the exporter needs of a server.
ROLES = """
    CREATE ROLE deploy LOGIN PASSWORD '{password}';
    CREATE ROLE web LOGIN PASSWORD '{password}';
    CREATE ROLE billing LOGIN PASSWORD '{password}';
    CREATE ROLE reporting LOGIN PASSWORD '{password}';
    GRANT pg_read_all_data TO web, billing, reporting;
    GRANT pg_write_all_data TO web, billing;

    CREATE ROLE pgvigil LOGIN PASSWORD '{password}';
    GRANT pg_monitor TO pgvigil;
"""

TABLES = f"""
    CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO tenants SELECT i, 'tenant ' || i FROM generate_series(1, {TENANTS}) AS i;

    CREATE TABLE users (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, name text NOT NULL);
    INSERT INTO users SELECT i, 1 + i % {TENANTS}, 'user ' || i FROM generate_series(1, {USERS}) AS i;

    -- Billing asks for the orders of a tenant all day long, and nothing but the whole table answers that.
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant_id int NOT NULL,
        user_id int NOT NULL,
        placed_at timestamptz NOT NULL DEFAULT now(),
        paid boolean NOT NULL DEFAULT false,
        total numeric(10, 2) NOT NULL
    );
    INSERT INTO orders (tenant_id, user_id, paid, total)
    SELECT 1 + i % {TENANTS}, 1 + i % {USERS}, i % 10 > 0, 5 + i % 95 FROM generate_series(1, {ORDERS}) AS i;
    CREATE INDEX ON orders (user_id);

    -- Somebody switched autovacuum off for one busy night, and it stayed off.
    CREATE TABLE carts (user_id int PRIMARY KEY, items jsonb NOT NULL, touched_at timestamptz NOT NULL)
        WITH (autovacuum_enabled = false);
    CREATE INDEX ON carts (touched_at);
    INSERT INTO carts SELECT i, '[]', now() FROM generate_series(1, {USERS}) AS i;

    CREATE TABLE prices (id int PRIMARY KEY, price numeric(10, 2) NOT NULL);
    INSERT INTO prices SELECT i, 10 FROM generate_series(1, {PRICES}) AS i;

    -- Each row gets an exception handler, that is a subtransaction, that is a transaction id of its own.
    CREATE FUNCTION import_prices(changed int) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        FOR i IN 1..changed LOOP
            BEGIN
                UPDATE prices SET price = 5 + random() * 95 WHERE id = i;
            EXCEPTION WHEN numeric_value_out_of_range THEN
                RAISE NOTICE 'price % left as it is', i;
            END;
        END LOOP;
    END $$;

    ANALYZE;
"""

# The updates of carts in that night, so that the demo starts with its bloat.
BUSY_NIGHT = "UPDATE carts SET touched_at = clock_timestamp()"


@dataclass(frozen=True)
class Shop:
    """The server of the shop, and the word that lets its roles in and others on this machine not."""

    cluster: Cluster
    password: str

    def dsn(self, user: str) -> str:
        """The libpq URI of the shop for one of its roles."""
        return self.cluster.dsn(DATABASE, user, self.password)

    def furnish(self) -> None:
        """Fill the server, which runs and is empty, with roles and tables."""
        self.cluster.execute(ROLES.format(password=self.password))
        self.cluster.execute(f"CREATE DATABASE {DATABASE} OWNER deploy")
        for step in ("CREATE EXTENSION pg_stat_statements", f"SET ROLE deploy; {TABLES}"):
            self.cluster.execute(step, DATABASE)

    def neglect(self) -> None:
        """Do what was done to it over the years."""
        for step in (
            # Whoever fed the search engine from this slot has been switched off.
            f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
            *[BUSY_NIGHT] * 5,
            "SELECT pg_stat_statements_reset()",
        ):
            self.cluster.execute(step, DATABASE)


def new_shop(folder: Path, port: int) -> Shop:
    """A shop in a folder of its own, not open yet."""
    password = secrets.token_hex(8)
    cluster = Cluster(embedded(), folder, port=port, settings=SETTINGS, auth="scram-sha-256", password=password)
    return Shop(cluster, password)
