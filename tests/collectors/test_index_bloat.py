"""The estimate of bloat in indexes, beside what pgstatindex reads from them."""

import pytest
from module_database import DATABASE, page_of
from pages import MONITOR, Page, catalog, target, written

from exporter.catalog.model import Catalog
from exporter.demo.cluster import Cluster

RATIO = "pg_index_bloat_estimate_ratio"
BYTES = "pg_index_bloat_estimate_bytes"

TOLERANCE = 0.07
"""Share of the index by which estimate and truth may differ where statistics are fresh."""

INDEXES = """
    CREATE EXTENSION IF NOT EXISTS pgstattuple;
    CREATE TABLE kept (id int, name text, tenant int, gone int) WITH (autovacuum_enabled = off);
    INSERT INTO kept SELECT i, 'name ' || i, i % 10, nullif(i % 7, 0) FROM generate_series(1, 40000) AS i;
    CREATE INDEX of_id ON kept (id);
    CREATE INDEX of_name ON kept (name);
    CREATE INDEX of_tenant ON kept (tenant);
    CREATE INDEX of_gone ON kept (gone);
    CREATE INDEX of_plain ON kept (tenant) WITH (deduplicate_items = off);
    CREATE INDEX of_pair ON kept (id, name);
    CREATE INDEX of_many ON kept (id) INCLUDE (name);
    CREATE INDEX of_half ON kept (id) WITH (fillfactor = 50);
    CREATE INDEX of_some ON kept (id) WHERE tenant = 4;
    CREATE INDEX of_expression ON kept (lower(name));
    CREATE INDEX of_hash ON kept USING hash (id);
"""


async def estimated(server: Cluster, user: str = MONITOR) -> Page:
    """A page with the collector that is off by default."""
    ours = tuple(c.model_copy(update={"enabled": True}) for c in catalog() if c.name == "index_bloat")
    watched = target(server.dsn(DATABASE, user), Catalog(ours))
    try:
        return written(await watched.scrape(9.0))
    finally:
        await watched.close()


def really(server: Cluster, index: str) -> float:
    """The share of an index beyond what its entries need at its fillfactor, by a look at all of its pages."""
    sql = """
        SELECT 1 - (2 + s.internal_pages * s.leaf_pages / (s.leaf_pages + s.deleted_pages + s.empty_pages)::float8
                    + s.leaf_pages * s.avg_leaf_density / 100
                      / (coalesce((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
                                    WHERE option_name = 'fillfactor'), 90) / 100))
                 / (s.index_size / current_setting('block_size')::float8)
          FROM pg_class AS c
         CROSS JOIN LATERAL pgstatindex(c.oid::regclass) AS s
         WHERE c.relname = $1
    """
    return float(server.value(sql, index, database=DATABASE))


async def test_the_estimate_is_near_what_the_pages_of_the_index_hold(database: Cluster) -> None:
    database.execute(INDEXES, DATABASE)
    database.execute("VACUUM ANALYZE kept", DATABASE)
    denied = await estimated(database)
    labels = {"collector": "index_bloat", "reason": "permission"}
    assert denied.value("pgvigil_collector_errors_total", **labels) == 1
    assert not denied.series(RATIO)
    database.execute(f"GRANT SELECT ON kept TO {MONITOR}", DATABASE)

    fresh = await estimated(database)
    shown = {had["indexrelname"]: value for had, value in fresh.series(RATIO, schemaname="public", relname="kept")}
    assert shown.keys() == {
        *("of_id", "of_name", "of_tenant", "of_gone", "of_plain", "of_pair", "of_many", "of_half", "of_some")
    }
    for index, ratio in shown.items():
        assert ratio == pytest.approx(0, abs=TOLERANCE), index
        assert ratio == pytest.approx(max(really(database, index), 0), abs=TOLERANCE), index

    database.execute("DELETE FROM kept WHERE id % 4 > 0", DATABASE)
    database.execute("VACUUM ANALYZE kept", DATABASE)
    bloated = await estimated(database)
    for index in shown:
        ratio = bloated.value(RATIO, indexrelname=index)
        assert ratio == pytest.approx(really(database, index), abs=TOLERANCE), index
        size = database.value("SELECT pg_relation_size($1::text::regclass)", index, database=DATABASE)
        assert bloated.value(BYTES, indexrelname=index) == pytest.approx(ratio * size), index
    assert bloated.value(RATIO, indexrelname="of_id") > 0.6

    database.execute("REINDEX INDEX of_id", DATABASE)
    database.execute("ANALYZE kept", DATABASE)
    assert (await estimated(database)).value(RATIO, indexrelname="of_id") == pytest.approx(0, abs=TOLERANCE)
    assert not page_of(database).series(RATIO)
    database.execute("DROP TABLE kept", DATABASE)
