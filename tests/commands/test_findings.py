"""Answers about a server, and what is found missing there."""

from dataclasses import replace
from typing import Any

import pytest

from exporter.commands.answers import Answers, Offer, Setting
from exporter.commands.findings import Finding, findings, libraries, sql_to_mend
from exporter.errors import ConnectError

WELL = Answers(
    version=(18, 1),
    database="postgres",
    role="pgvigil",
    connection_limit=10,
    rights=("pg_monitor",),
    memberships=("pg_monitor",),
    settings={
        "autovacuum": Setting("on"),
        "compute_query_id": Setting("auto"),
        "max_connections": Setting("100"),
        "pg_stat_statements.max": Setting("5000"),
        "pg_stat_statements.track": Setting("top"),
        "reserved_connections": Setting("0"),
        "shared_preload_libraries": Setting("pg_stat_statements", "configuration file"),
        "superuser_reserved_connections": Setting("3"),
        "track_activities": Setting("on"),
        "track_counts": Setting("on"),
        "track_io_timing": Setting("on"),
    },
    backends=5,
    extensions={"postgres": {"pg_stat_statements": Offer("1.12", "1.12")}, "shop": {}},
)

NOT_PRELOADED: dict[str, Setting | None] = {"pg_stat_statements.track": None}
MEMBER = {"rights": ()}
STRANGER: dict[str, Any] = {"rights": (), "memberships": ()}


def having(settings: dict[str, Setting | None], **answers: Any) -> Answers:
    changed = {name: found for name, found in {**WELL.settings, **settings}.items() if found}
    return replace(WELL, settings=changed, **answers)


def found(answers: Answers) -> list[Finding]:
    return [f for f in findings(answers, {"pg_stat_statements"}, 5) if f.level != "ok"]


def test_nothing_is_found_where_all_is_well() -> None:
    assert found(WELL) == []


@pytest.mark.parametrize(
    ("answers", "level", "sql"),
    [
        (having({}, **STRANGER), "missing", 'GRANT pg_monitor TO "pgvigil";'),
        (having({}, **STRANGER, inherits=False), "missing", 'GRANT pg_monitor TO "pgvigil" WITH INHERIT TRUE;'),
        (having({}, **MEMBER), "missing", 'GRANT pg_monitor TO "pgvigil" WITH INHERIT TRUE;'),
        (
            having({}, **MEMBER, inherits=False, version=(15, 2)),
            "missing",
            'ALTER ROLE "pgvigil" INHERIT;\nGRANT pg_monitor TO "pgvigil";',
        ),
        (having({}, **STRANGER, role='o"dd'), "missing", 'GRANT pg_monitor TO "o""dd";'),
        (having({}, connection_limit=4), "missing", 'ALTER ROLE "pgvigil" CONNECTION LIMIT 10;'),
        (having({}, closed=("my shop",)), "missing", 'GRANT CONNECT ON DATABASE "my shop" TO "pgvigil";'),
        (
            having({"reserved_connections": Setting("5")}),
            "warning",
            'GRANT pg_use_reserved_connections TO "pgvigil";',
        ),
        (
            having({**NOT_PRELOADED, "shared_preload_libraries": Setting("")}),
            "missing",
            "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';  -- takes a restart",
        ),
        (
            having({**NOT_PRELOADED, "shared_preload_libraries": Setting('a, "$libdir/b c"')}),
            "missing",
            "ALTER SYSTEM SET shared_preload_libraries = 'a', '$libdir/b c', 'pg_stat_statements';  -- takes a restart",
        ),
        (
            having({"pg_stat_statements.track": Setting("none")}),
            "warning",
            "ALTER SYSTEM SET pg_stat_statements.track = 'top';\nSELECT pg_reload_conf();",
        ),
        (
            having({"compute_query_id": Setting("off")}),
            "warning",
            "ALTER SYSTEM SET compute_query_id = 'auto';\nSELECT pg_reload_conf();",
        ),
        (
            having({}, extensions={"postgres": {"pg_stat_statements": Offer("1.12")}}),
            "missing",
            '-- in database "postgres":\nCREATE EXTENSION pg_stat_statements;',
        ),
        (
            having({}, extensions={"postgres": {}, "shop": {"pg_stat_statements": Offer("1.12", "1.9")}}),
            "warning",
            '-- in database "shop":\nALTER EXTENSION pg_stat_statements UPDATE;',
        ),
        (
            having({}, extensions={"shop": {"pg_stat_statements": Offer("1.12", "1.12", "odd schema", usable=False)}}),
            "missing",
            '-- in database "shop":\nGRANT USAGE ON SCHEMA "odd schema" TO "pgvigil";',
        ),
        (
            having({"track_activities": Setting("off")}),
            "missing",
            "ALTER SYSTEM SET track_activities = 'on';\nSELECT pg_reload_conf();",
        ),
        (
            having({"track_counts": Setting("off")}),
            "missing",
            "ALTER SYSTEM SET track_counts = 'on';\nSELECT pg_reload_conf();",
        ),
        (
            having({"track_io_timing": Setting("off")}),
            "warning",
            "ALTER SYSTEM SET track_io_timing = 'on';\nSELECT pg_reload_conf();",
        ),
        (
            having({"autovacuum": Setting("off")}),
            "warning",
            "ALTER SYSTEM SET autovacuum = 'on';\nSELECT pg_reload_conf();",
        ),
    ],
)
def test_what_sql_can_mend_comes_with_its_sql(answers: Answers, level: str, sql: str) -> None:
    [finding] = found(answers)
    assert (finding.level, sql_to_mend([finding])) == (level, sql)


@pytest.mark.parametrize(
    ("answers", "level", "words"),
    [
        (having({}, version=(12, 9)), "missing", "13 or later"),
        (having({}, version=(19, 0)), "warning", ""),
        (having({}, superuser=True), "warning", "pgvigil grants"),
        (
            having({}, unreachable={"shop": ConnectError("authentication", "no")}),
            "missing",
            "pg_hba.conf for database shop",
        ),
        (
            having({}, unreachable={"shop": ConnectError("too_many_connections", "no")}),
            "missing",
            "LIMIT of database shop",
        ),
        (having({}, unreachable={"shop": ConnectError("timeout", "no")}), "missing", "look at the server's log"),
        (having({}, backends=95), "warning", "reserved_connections"),
        (having({}, backends=95, version=(15, 1)), "warning", "Raise max_connections"),
        (having({**NOT_PRELOADED, "shared_preload_libraries": None}), "missing", "Grant pg_monitor and check again"),
        (
            having({**NOT_PRELOADED, "shared_preload_libraries": Setting("", pending_restart=True)}),
            "missing",
            "restart PostgreSQL",
        ),
        (
            having({**NOT_PRELOADED, "shared_preload_libraries": Setting("a", "command line")}),
            "missing",
            "command line, which wins over ALTER SYSTEM",
        ),
        (having({"track_io_timing": Setting("off", "command line")}), "warning", "change it there"),
        (having({}, extensions={"postgres": {}}), "missing", "postgresql-contrib"),
    ],
)
def test_what_sql_cannot_mend_comes_with_advice(answers: Answers, level: str, words: str) -> None:
    [finding] = found(answers)
    assert (finding.level, finding.sql) == (level, ())
    assert words in finding.advice


def test_databases_that_a_provider_keeps_to_itself_are_not_missed() -> None:
    assert found(having({}, closed=("rdsadmin", "cloudsqladmin"))) == []


def test_connections_reserved_for_the_role_count_as_free() -> None:
    crowded = having({"reserved_connections": Setting("10")}, backends=85)
    [finding, *_] = found(crowded)
    assert "are reserved" in finding.what
    assert found(replace(crowded, rights=("pg_monitor", "pg_use_reserved_connections"))) == []


def test_nobody_asks_for_pg_stat_statements_when_no_collector_in_use_needs_it() -> None:
    without = having(NOT_PRELOADED, extensions={"postgres": {}})
    assert not any("pg_stat_statements" in finding.what for finding in findings(without, (), 5))


@pytest.mark.parametrize(("databases", "wanted"), [(125, ""), (126, "11000"), (500, "25000")])
def test_our_own_queries_may_take_half_the_list_of_statements(databases: int, wanted: str) -> None:
    offers = {f"shop_{n}": {"pg_stat_statements": Offer("1.12", "1.12")} for n in range(databases)}
    all_found = findings(having({}, extensions=offers), {"pg_stat_statements"}, 5, queries=20)
    sql = f"ALTER SYSTEM SET pg_stat_statements.max = '{wanted}';  -- takes a restart"
    assert sql_to_mend(all_found) == (sql if wanted else "")


def test_a_reload_that_several_settings_need_comes_once_and_after_them() -> None:
    off = having({"track_io_timing": Setting("off"), "track_counts": Setting("off")})
    assert sql_to_mend(found(off)).splitlines() == [
        "ALTER SYSTEM SET track_counts = 'on';",
        "ALTER SYSTEM SET track_io_timing = 'on';",
        "SELECT pg_reload_conf();",
    ]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        (' a ,"b c", $libdir/d', ["a", "b c", "$libdir/d"]),
        ('"a,b", "say ""hi"""', ["a,b", 'say "hi"']),
    ],
)
def test_a_list_of_libraries_is_read_as_postgresql_reads_it(value: str, names: list[str]) -> None:
    assert libraries(value) == names


def test_a_name_with_a_line_break_is_no_sql_in_the_block_to_run() -> None:
    name = "a\nDROP TABLE victim;--"
    hostile = Finding("missing", "no USAGE", (f'GRANT USAGE ON SCHEMA "{name}" TO "pgvigil";',), database=name)
    plain = Finding("missing", "no USAGE", ('GRANT USAGE ON SCHEMA "s" TO "pgvigil";',), database=name)
    block = sql_to_mend([hostile, plain])
    assert [line for line in block.splitlines() if not line.startswith("-- ")] == [plain.sql[0]]
    assert block.isascii()
    assert "\\nDROP TABLE victim" in block
