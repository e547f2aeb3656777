"""Sequences, and the columns whose type ends before they do."""

import pytest
from module_database import DATABASE, page_of
from pages import MONITOR

from exporter.demo.cluster import Cluster

COLLECTORS = ("schemas", "sequences")

INTEGER, BIGINT = 2**31 - 1, 2**63 - 1

CASES: list[tuple[str, str, int, str, float]] = [
    # what is made, the sequence, its last value, the column's type, the share used
    ("CREATE TABLE owned (id serial)", "owned_id_seq", INTEGER // 2, "integer", 0.5),
    ("CREATE TABLE short (id smallserial)", "short_id_seq", 32767, "smallint", 1),
    ("CREATE TABLE long (id bigserial)", "long_id_seq", BIGINT // 4, "bigint", 0.25),
    ("CREATE TABLE identity (id int GENERATED ALWAYS AS IDENTITY)", "identity_id_seq", INTEGER // 10, "integer", 0.1),
    (
        "CREATE SEQUENCE wide; CREATE TABLE narrow (id int DEFAULT nextval('wide'))",
        "wide",
        INTEGER * 9 // 10,
        "integer",
        0.9,
    ),
    (
        "CREATE TABLE moved (id serial); ALTER TABLE moved ALTER id TYPE bigint",
        "moved_id_seq",
        INTEGER // 5,
        "bigint",
        0.2,
    ),
    (
        "CREATE DOMAIN key AS smallint; CREATE SEQUENCE keys; CREATE TABLE of_domain (id key DEFAULT nextval('keys'))",
        "keys",
        3277,
        "smallint",
        0.1,
    ),
    (
        "CREATE DOMAIN a AS int; CREATE DOMAIN b AS a; CREATE TABLE of_b (v b); CREATE SEQUENCE doubly OWNED BY of_b.v",
        "doubly",
        INTEGER // 4,
        "integer",
        0.25,
    ),
    (
        "CREATE SEQUENCE shared; CREATE TABLE roomy (id bigint DEFAULT nextval('shared'))",
        "shared",
        16384,
        "smallint",
        0.5,
    ),
    (
        "CREATE SEQUENCE five; CREATE TABLE n (id numeric(7, 2) DEFAULT nextval('five'))",
        "five",
        25000,
        "numeric(7,2)",
        0.25,
    ),
    (
        "CREATE SEQUENCE digits; CREATE TABLE c (id varchar(4) DEFAULT nextval('digits'))",
        "digits",
        9000,
        "character varying(4)",
        0.9,
    ),
    ("CREATE SEQUENCE oids; CREATE TABLE o (id oid DEFAULT nextval('oids'))", "oids", 2**31, "oid", 0.5),
    ("CREATE SEQUENCE free; CREATE TABLE f (id numeric DEFAULT nextval('free'))", "free", BIGINT // 2, "numeric", 0.5),
    ("CREATE SEQUENCE alone MAXVALUE 1000", "alone", 400, "", 0.4),
    ("CREATE SEQUENCE down INCREMENT -1 MINVALUE -100", "down", -30, "", 0.3),
    ("CREATE SEQUENCE signed MINVALUE -100 START -100 MAXVALUE 100", "signed", 50, "", 0.75),
    ("CREATE SEQUENCE tens INCREMENT 10 MAXVALUE 1000", "tens", 501, "", 501 / 991),
    ("CREATE SEQUENCE strides INCREMENT 60 MAXVALUE 100", "strides", 61, "", 1),
    ("CREATE SEQUENCE back INCREMENT -60 MINVALUE -100", "back", -61, "", 1),
    (
        "CREATE SEQUENCE beyond; CREATE TABLE over (id int DEFAULT nextval('beyond'))",
        "beyond",
        3_000_000_000,
        "integer",
        1,
    ),
    (
        "CREATE SEQUENCE padded; CREATE TABLE p (id char(3) DEFAULT nextval('padded'))",
        "padded",
        990,
        "character(3)",
        990 / 999,
    ),
    (
        "CREATE DOMAIN code AS char(2); CREATE SEQUENCE codes; CREATE TABLE q (id code DEFAULT nextval('codes'))",
        "codes",
        33,
        "character(2)",
        33 / 99,
    ),
    (
        "CREATE SEQUENCE parts; CREATE TABLE fractions (id numeric(2, 2) DEFAULT nextval('parts'))",
        "parts",
        1,
        "numeric(2,2)",
        1,
    ),
    (
        "CREATE SEQUENCE unbound; CREATE TABLE t (id bpchar DEFAULT nextval('unbound'))",
        "unbound",
        BIGINT // 2,
        "bpchar",
        0.5,
    ),
]


TIGHT = "CREATE TABLE tight (id smallint DEFAULT nextval('shared'))"
"""A second column that the same sequence fills, which ends first."""


def test_a_sequence_is_measured_against_the_type_of_its_column(database: Cluster) -> None:
    for statement, name, value, _, _ in CASES:
        database.execute(
            f"{statement}; SELECT setval('{name}', {value}); GRANT SELECT ON SEQUENCE {name} TO {MONITOR}", DATABASE
        )
    database.execute(TIGHT, DATABASE)
    found = page_of(database)
    for _, name, _, data_type, ratio in CASES:
        assert found.value("pg_sequence_used_ratio", sequencename=name) == pytest.approx(ratio, abs=0.002), name
        assert found.labels("pg_sequence_used_ratio", sequencename=name)["data_type"] == data_type, name
    assert found.labels("pg_sequence_used_ratio", sequencename="shared")["relname"] == "tight"
    assert found.labels("pg_sequence_used_ratio", sequencename="wide") == {
        "datname": DATABASE,
        "schemaname": "public",
        "sequencename": "wide",
        "relname": "narrow",
        "attname": "id",
        "data_type": "integer",
    }
    remaining = {"owned_id_seq": INTEGER - INTEGER // 2, "short_id_seq": 0, "down": 70, "tens": 49, "strides": 0}
    remaining |= {"back": 0, "beyond": 0, "padded": 9}
    for name, left in remaining.items():
        assert found.value("pg_sequence_remaining_values", sequencename=name) == left
    assert [value for _, value in found.samples["pg_sequence_used_ratio"]] == sorted(
        (value for _, value in found.samples["pg_sequence_used_ratio"]), reverse=True
    )
    assert max(value for _, value in found.samples["pg_sequence_used_ratio"]) == 1


@pytest.mark.parametrize(
    ("default", "data_type", "ratio"),
    [
        ("nextval('s') % 16", "", 0),
        ("(nextval('s') % 16)::smallint", "", 0),
        ("mod(nextval('s'), 16)", "", 0),
        ("'n' || nextval('s')", "", 0),
        ("nextval('s')::smallint", "smallint", 1),
    ],
)
def test_what_an_expression_makes_of_a_sequence_has_a_limit_of_its_own(
    database: Cluster, default: str, data_type: str, ratio: float
) -> None:
    """A column that takes the number by another way does not end where the sequence does."""
    kind = "text" if "||" in default else "smallint"
    database.execute(f"CREATE SEQUENCE s; CREATE TABLE shards (shard {kind} DEFAULT {default})", DATABASE)
    database.execute(f"SELECT setval('s', 40000); GRANT SELECT ON SEQUENCE s TO {MONITOR}", DATABASE)
    try:
        found = page_of(database)
    finally:
        database.execute("DROP TABLE shards; DROP SEQUENCE s", DATABASE)
    assert found.labels("pg_sequence_used_ratio", sequencename="s")["data_type"] == data_type
    assert found.value("pg_sequence_used_ratio", sequencename="s") == pytest.approx(ratio, abs=1e-6)


def test_an_unused_sequence_has_everything_left_and_one_that_cycles_never_ends(database: Cluster) -> None:
    database.execute(
        "CREATE SEQUENCE wide_steps INCREMENT 60 MAXVALUE 100;"
        "CREATE SEQUENCE fresh MAXVALUE 50; CREATE SEQUENCE round MAXVALUE 50 CYCLE; CREATE SEQUENCE far CYCLE;"
        "CREATE TABLE too_narrow (id int DEFAULT nextval('far'));"
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {MONITOR}",
        DATABASE,
    )
    found = page_of(database)
    assert found.value("pg_sequence_used_ratio", sequencename="fresh") == 0
    assert found.value("pg_sequence_remaining_values", sequencename="fresh") == 50
    assert found.value("pg_sequence_used_ratio", sequencename="wide_steps") == 0
    assert found.value("pg_sequence_remaining_values", sequencename="wide_steps") == 2
    assert not found.series("pg_sequence_used_ratio", sequencename="round")
    assert found.value("pg_sequence_used_ratio", sequencename="far") == 0


def test_where_a_sequence_begins_anew_counts_at_once(database: Cluster, major: int) -> None:
    """Before 18 it is told by no function until a number is drawn."""
    database.execute(
        "CREATE TABLE moved_on (id serial); SELECT setval('moved_on_id_seq', 7);"
        "ALTER SEQUENCE moved_on_id_seq RESTART WITH 1932735284;"
        f"GRANT SELECT ON SEQUENCE moved_on_id_seq TO {MONITOR}",
        DATABASE,
    )
    if major < 18:
        database.value("SELECT nextval('moved_on_id_seq')", database=DATABASE)
    used = page_of(database).value("pg_sequence_used_ratio", sequencename="moved_on_id_seq")
    assert used == pytest.approx(0.9, abs=1e-6)
    if major >= 18:  # what a role without SELECT cannot know is not 0
        database.execute(
            f"REVOKE SELECT ON SEQUENCE moved_on_id_seq FROM {MONITOR};"
            f"GRANT USAGE ON SEQUENCE moved_on_id_seq TO {MONITOR}",
            DATABASE,
        )
        assert not page_of(database).series("pg_sequence_used_ratio", sequencename="moved_on_id_seq")


def test_sequences_that_may_not_be_read_are_counted(database: Cluster) -> None:
    database.execute("CREATE SCHEMA closed; CREATE SEQUENCE closed.a; CREATE TABLE closed.b (id serial)", DATABASE)
    before = page_of(database)
    database.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA closed TO {MONITOR}", DATABASE)
    after = page_of(database)
    labels = {"datname": DATABASE, "schemaname": "closed"}
    assert [page.value("pg_schema_unreadable_sequences", **labels) for page in (before, after)] == [2, 0]
    assert [len(page.series("pg_sequence_used_ratio", **labels)) for page in (before, after)] == [0, 2]
    assert before.value("pg_schema_sequences", **labels) == 2


def test_all_sequences_are_read_and_the_nearest_to_their_end_are_shown(database: Cluster) -> None:
    """Also one without a table, and that of a queue which is emptied all the time. What is cut is counted."""
    database.execute(
        "CREATE SCHEMA crowd; SET search_path = crowd;"
        "DO $$ BEGIN FOR i IN 1..250 LOOP EXECUTE format('CREATE TABLE t%s (id serial)', i);"
        " EXECUTE format('INSERT INTO t%s SELECT FROM generate_series(1, %s)', i, i % 20); END LOOP; END $$;"
        "CREATE SEQUENCE without_owner AS int; CREATE TABLE queue (id serial); CREATE SEQUENCE round_and_round CYCLE;"
        f"SELECT setval('without_owner', {INTEGER - 10}), setval('queue_id_seq', {INTEGER - 20});"
        "SELECT setval('t250_id_seq', 2000000000);"
        f"GRANT USAGE ON SCHEMA crowd TO {MONITOR}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA crowd TO {MONITOR}",
        DATABASE,
    )
    found = page_of(database)
    left = "pg_sequence_remaining_values"
    assert found.value(left, schemaname="crowd", sequencename="without_owner") == 10
    assert found.value(left, schemaname="crowd", sequencename="queue_id_seq") == 20
    assert found.value("pg_sequence_used_ratio", schemaname="crowd", sequencename="t250_id_seq") > 0.9
    assert len(found.series(left, datname=DATABASE)) == 50
    ratios = [ratio for _, ratio in found.series("pg_sequence_used_ratio", datname=DATABASE)]
    assert ratios == sorted(ratios, reverse=True)
    readable = database.value(
        "SELECT count(*) FROM pg_sequence WHERE (NOT seqcycle OR seqrelid::regclass::text = 'far')"
        " AND has_sequence_privilege($1, seqrelid, 'SELECT')",
        MONITOR,
        database=DATABASE,
    )
    cut = found.value("pgvigil_collector_truncated_rows", collector="sequences", datname=DATABASE)
    assert cut == readable - 50
    database.execute("DROP SCHEMA crowd CASCADE", DATABASE)
