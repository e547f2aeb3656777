"""Publications by the tables they send, and the positions of replication origins."""

import asyncpg
import pytest
from module_database import DATABASE, page_of, session
from pages import MONITOR, Page, catalog, target, written

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster

TABLES = "pg_publication_tables"
WITHOUT_IDENTITY = "pg_publication_tables_without_identity"


def of(found: Page, publication: str) -> tuple[float, float]:
    """Tables of a publication, and those of them without identity."""
    labels = {"pubname": publication, "datname": DATABASE}
    return found.value(TABLES, **labels), found.value(WITHOUT_IDENTITY, **labels)


def view_count(server: Cluster, publication: str) -> int:
    """Count the tables that PostgreSQL says a publication has."""
    sql = "SELECT count(*) FROM pg_publication_tables WHERE pubname = $1"
    return int(server.value(sql, publication, database=DATABASE))


def test_tables_are_counted_as_postgresql_lists_them(database: Cluster, major: int) -> None:
    database.execute(
        """
        CREATE SCHEMA sent; CREATE SCHEMA beside;
        CREATE TABLE keyed (id int PRIMARY KEY); CREATE TABLE bare (id int);
        CREATE TABLE whole (id int); ALTER TABLE whole REPLICA IDENTITY FULL;
        CREATE TABLE told (id int NOT NULL UNIQUE); ALTER TABLE told REPLICA IDENTITY USING INDEX told_id_key;
        CREATE TABLE muted (id int PRIMARY KEY); ALTER TABLE muted REPLICA IDENTITY NOTHING;
        CREATE TABLE later (id int PRIMARY KEY DEFERRABLE);
        CREATE UNLOGGED TABLE unlogged (id int);
        CREATE TABLE sent.sliced (id int) PARTITION BY RANGE (id);
        CREATE TABLE sent.sliced_1 PARTITION OF sent.sliced FOR VALUES FROM (0) TO (9) PARTITION BY RANGE (id);
        CREATE TABLE sent.sliced_1a PARTITION OF sent.sliced_1 (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (5);
        CREATE TABLE beside.sliced_2 PARTITION OF sent.sliced FOR VALUES FROM (10) TO (19);
        CREATE PUBLICATION named FOR TABLE keyed, bare, whole, told, muted, later, sent.sliced;
        CREATE PUBLICATION inserts FOR TABLE bare WITH (publish = 'insert, truncate');
        CREATE PUBLICATION rooted FOR TABLE sent.sliced WITH (publish_via_partition_root = true);
        CREATE PUBLICATION nothing;
        CREATE PUBLICATION everything FOR ALL TABLES
        """,
        DATABASE,
    )
    if major >= 15:
        database.execute("CREATE PUBLICATION schemas FOR TABLES IN SCHEMA sent", DATABASE)
    found = page_of(database)
    assert of(found, "named") == (view_count(database, "named"), 4)  # bare, muted, later, sliced_2
    assert of(found, "named")[0] == 8
    assert of(found, "inserts") == (1, 0)
    assert of(found, "rooted") == (2, 1)
    assert of(found, "nothing") == (0, 0)
    assert of(found, "everything") == (view_count(database, "everything"), 4)
    assert [value for _, value in found.series(TABLES, pubname="schemas")] == [2] * (major >= 15)
    first = found.series(WITHOUT_IDENTITY, datname=DATABASE)[0][0]["pubname"]
    assert first == "everything"
    flags = found.labels("pg_publication_info", pubname="inserts", datname=DATABASE)
    assert (flags["publish"], flags["all_tables"], flags["via_root"]) == ("insert, truncate", "false", "false")
    assert found.labels("pg_publication_info", pubname="rooted")["via_root"] == "true"
    assert found.labels("pg_publication_info", pubname="everything")["all_tables"] == "true"
    for table, fails in (("bare", True), ("muted", True), ("later", True), ("keyed", False), ("told", False)):
        assert refuses_updates(database, table) == fails, table
    database.execute("DROP PUBLICATION named, inserts, rooted, nothing, everything", DATABASE)


def refuses_updates(server: Cluster, table: str) -> bool:
    """Return whether PostgreSQL itself refuses to update a published table."""
    try:
        server.execute(f"UPDATE {table} SET id = id", DATABASE)
    except asyncpg.ObjectNotInPrerequisiteStateError:
        return True
    return False


async def origins(server: Cluster, user: str) -> Page:
    """A page with the collector that is off by default."""
    ours = tuple(c.model_copy(update={"enabled": True}) for c in catalog() if c.name == "replication_origins")
    watched = target(server.dsn(DATABASE, user), Catalog(ours))
    try:
        return written(await watched.scrape(9.0))
    finally:
        await watched.close()


async def test_an_origin_has_the_positions_up_to_which_it_was_applied(database: Cluster, major: int) -> None:
    database.execute(
        """
        SELECT pg_replication_origin_create(name) FROM unnest(ARRAY['fed', 'told', 'new']) AS name;
        SELECT pg_replication_origin_advance('told', '0/1000');
        CREATE TABLE fed (id int);
        SELECT pg_replication_origin_session_setup('fed');
        BEGIN;
        SELECT pg_replication_origin_xact_setup('1/2', now());
        INSERT INTO fed VALUES (1);
        COMMIT
        """,
        DATABASE,
    )
    remote, local = (f"pg_replication_origin_{which}_position_bytes" for which in ("remote", "local"))
    denied = await origins(database, MONITOR)
    assert denied.value("pgvigil_collector_errors_total", collector="replication_origins", reason="permission") == 1
    assert not denied.series(remote)
    user = "postgres"
    if major >= 14:
        user = MONITOR
        database.execute(
            f"GRANT SELECT ON pg_replication_origin_status TO {MONITOR};"
            f"GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status() TO {MONITOR}",
            DATABASE,
        )
    found = await origins(database, user)
    assert {had["external_id"]: value for had, value in found.series(remote)} == {"fed": 2**32 + 2, "told": 0x1000}
    lsn = "SELECT pg_wal_lsn_diff(local_lsn, '0/0')::bigint FROM pg_replication_origin_status WHERE external_id = 'fed'"
    assert [(had["external_id"], value) for had, value in found.series(local)] == [
        ("fed", database.value(lsn, database=DATABASE))
    ]
    database.execute("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin", DATABASE)
    if major >= 14:
        database.execute(f"REVOKE ALL ON pg_replication_origin_status FROM {MONITOR}", DATABASE)
        database.execute(f"REVOKE ALL ON FUNCTION pg_show_replication_origin_status() FROM {MONITOR}", DATABASE)


@pytest.mark.parametrize("command", ["ALTER TABLE held ADD COLUMN v text", "TRUNCATE held"])
async def test_a_published_table_that_is_locked_is_waited_for_by_nobody(database: Cluster, command: str) -> None:
    database.execute(
        "CREATE TABLE held (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE held_1 PARTITION OF held FOR VALUES FROM (0) TO (9);"
        "CREATE PUBLICATION held FOR TABLE held",
        DATABASE,
    )
    async with session(database) as client:
        await client.execute(f"BEGIN; {command}")
        found = page_of(database)
        await client.execute("ROLLBACK")
    assert found.value("pgvigil_collector_success", collector="publications", datname=DATABASE) == 1
    assert of(found, "held") == (1, 1)
    database.execute("DROP PUBLICATION held; DROP TABLE held", DATABASE)
