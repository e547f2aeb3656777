"""Settings, roles, encryption and extensions, changed on purpose."""

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from hostile import hostile_to
from module_database import DATABASE, page_of
from pages import MONITOR, Page, catalog, named, page, target, written
from patience import until
from standby import clone_standby

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Catalog
from exporter.demo.build import hand_over
from exporter.demo.cluster import Cluster

PREFIX = "pg_settings_"


def scraped(server: Cluster) -> Page:
    return page(server.dsn(user=MONITOR))


async def reloaded(server: Cluster, setting: str, value: str) -> None:
    """Have the server read its configuration, and wait until new sessions see it."""
    server.execute("SELECT pg_reload_conf()")

    async def seen() -> bool:
        return bool(server.value(f"SHOW {setting}") == value)

    await until(seen)


def in_base_units(server: Cluster, name: str) -> float:
    """What a setting means, as PostgreSQL itself converts it."""
    for unit, function in (("_bytes", "pg_size_bytes(v)"), ("_seconds", "extract(epoch FROM v::interval)")):
        if name.endswith(unit) and name != "block_size_bytes":
            sql = f"SELECT CASE WHEN v = '-1' THEN -1 ELSE {function} END::float8 FROM current_setting($1::text) AS v"
            return float(server.value(sql, name.removesuffix(unit)))
    text = str(server.value("SELECT current_setting($1::text)", name.removesuffix("_bytes")))
    return float(text == "on") if text in ("on", "off") else float(text)


def test_settings_are_in_base_units_and_not_those_of_our_own_sessions(server: Cluster) -> None:
    found = scraped(server)
    names = [name.removeprefix(PREFIX) for name in found.samples if name.startswith(PREFIX)]
    names = [name for name in names if name not in ("checksum", "pending_restarts")]
    assert len(names) >= 60
    wrong = {
        name: (found.value(PREFIX + name), in_base_units(server, name))
        for name in names
        if found.value(PREFIX + name) != pytest.approx(in_base_units(server, name))
    }
    assert wrong == {}
    assert found.value("pg_settings_shared_buffers_bytes") == 32 * 1024 * 1024
    assert found.value("pg_settings_checkpoint_timeout_seconds") == 300
    assert found.value("pg_settings_temp_file_limit_bytes") == -1


ODD_UNITS = [
    # a setting of so many, in a unit, is so much: blocks of other sizes, and a unit that nobody knows
    ("shared_buffers", "integer", "2048", "32kB", "pg_settings_shared_buffers_bytes", 64 * 2**20),
    ("effective_cache_size", "integer", "16", "16kB", "pg_settings_effective_cache_size_bytes", 2**18),
    ("wal_buffers", "integer", "512", "64kB", "pg_settings_wal_buffers_bytes", 32 * 2**20),
    ("temp_file_limit", "integer", "3", "GB", "pg_settings_temp_file_limit_bytes", 3 * 2**30),
    ("work_mem", "integer", "5", "B", "pg_settings_work_mem_bytes", 5),
    ("bgwriter_delay", "real", "250", "us", "pg_settings_bgwriter_delay_seconds", 0.00025),
    ("archive_timeout", "integer", "2", "h", "pg_settings_archive_timeout_seconds", 7200),
    ("checkpoint_timeout", "integer", "1", "d", "pg_settings_checkpoint_timeout_seconds", 86400),
    ("statement_timeout", "integer", "7", None, "pg_settings_statement_timeout_seconds", 7),
    ("max_wal_size", "integer", "9", "furlong", "pg_settings_max_wal_size_bytes", None),
]


async def test_a_setting_is_in_base_units_whatever_the_block_size_and_absent_in_an_unknown_unit(
    database: Cluster,
) -> None:
    """No build with other block sizes can be had here: a copy of pg_settings says what such a server says."""
    database.execute(
        "CREATE TABLE odd_settings AS SELECT * FROM pg_settings; GRANT SELECT ON odd_settings TO PUBLIC", DATABASE
    )
    for name, vartype, value, unit, _, _ in ODD_UNITS:
        database.query(
            "UPDATE odd_settings SET vartype = $2, reset_val = $3, setting = $3, unit = $4 WHERE name = $1",
            name,
            vartype,
            value,
            unit,
            database=DATABASE,
        )
    for name in ("settings", "all_settings"):
        made = named(load(BUILT_IN, COMPATIBILITY), name)
        odd = {
            first: sql and sql.replace("pg_catalog.pg_settings", "public.odd_settings")
            for first, sql in made.sql.items()
        }
        asking = target(database.dsn(DATABASE, MONITOR), Catalog((made.model_copy(update={"sql": odd}),)))
        found = written(await asking.scrape(9.0))
        await asking.close()
        assert found.value("pgvigil_collector_success", collector=name) == 1
        shown = {metric: [value for _, value in found.series(metric)] for *_, metric, _ in ODD_UNITS}
        if name == "settings":
            assert shown == {metric: [] if value is None else [pytest.approx(value)] for *_, metric, value in ODD_UNITS}
    database.execute("DROP TABLE odd_settings", DATABASE)


async def test_a_change_of_settings_changes_the_checksum_until_it_is_taken_back(server: Cluster) -> None:
    before = scraped(server)
    server.execute("ALTER SYSTEM SET work_mem = '8MB'")
    await reloaded(server, "work_mem", "8MB")
    changed = scraped(server)
    server.execute("ALTER SYSTEM RESET work_mem")
    await reloaded(server, "work_mem", "4MB")
    assert changed.value("pg_settings_work_mem_bytes") == 8 * 1024 * 1024
    server.execute("ALTER ROLE postgres SET log_duration = off")
    of_role = scraped(server)
    server.execute("ALTER ROLE postgres RESET log_duration")
    after = scraped(server)
    sums = [each.value("pg_settings_checksum") for each in (before, changed, of_role, after)]
    assert sums[0] == sums[3]
    assert len(set(sums)) == 3


def test_a_promotion_is_no_change_of_settings(server: Cluster) -> None:
    with clone_standby(server) as standby:
        before = scraped(standby)
        standby.value("SELECT pg_promote(true)")
        after = scraped(standby)
    assert [each.value("pg_replication_is_replica") for each in (before, after)] == [1, 0]
    assert before.value("pg_settings_checksum") == after.value("pg_settings_checksum")


async def test_settings_that_wait_for_a_restart_are_named(server: Cluster) -> None:
    assert scraped(server).value("pg_settings_pending_restarts") == 0
    server.execute("ALTER SYSTEM SET max_connections = 61")
    server.execute("SELECT pg_reload_conf()")

    async def pending() -> Page | None:
        found = scraped(server)
        return found if found.value("pg_settings_pending_restarts") else None

    try:
        found = await until(pending)
        assert found.value("pg_settings_pending_restarts") == 1
        assert found.value("pg_setting_pending_restart", name="max_connections") == 1
    finally:
        server.execute("ALTER SYSTEM RESET max_connections")
        server.execute("SELECT pg_reload_conf()")

    async def settled() -> bool:
        return scraped(server).series("pg_setting_pending_restart") == []

    await until(settled)


@contextmanager
def roles(server: Cluster, **options: str) -> Iterator[None]:
    for name, option in options.items():
        server.execute(f"CREATE ROLE {name} {option}")
    try:
        yield
    finally:
        for name in options:
            server.execute(f"DROP ROLE {name}")


def test_roles_are_counted_by_what_they_may_do_and_show_when_they_expire(server: Cluster) -> None:
    names = [f"pg_roles_{what}" for what in ("login", "superuser", "replication", "bypassrls", "expired")]
    before = scraped(server)
    with roles(
        server,
        boss="SUPERUSER",
        old="LOGIN VALID UNTIL '2020-01-01 00:00:00+00'",
        temporary="LOGIN REPLICATION VALID UNTIL '2099-01-01 00:00:00+00'",
        for_ever="LOGIN BYPASSRLS VALID UNTIL 'infinity'",
        no_login="VALID UNTIL '2020-01-01'",
    ):
        found = scraped(server)
    assert [found.value(name) - before.value(name) for name in names] == [3, 1, 1, 1, 1]
    until = {labels["rolname"]: value for labels, value in found.series("pg_roles_valid_until_timestamp_seconds")}
    years = {"old": 2020, "temporary": 2099}
    assert until == {role: datetime(year, 1, 1, tzinfo=UTC).timestamp() for role, year in years.items()}


async def test_roles_that_live_for_an_hour_push_out_none_of_long_standing(server: Cluster) -> None:
    few = Catalog((named(catalog(), "role_expiry").model_copy(update={"limit": 4}),))
    now = datetime.now(UTC)
    short = {f"v_{i}": f"LOGIN VALID UNTIL '{now + timedelta(hours=1, minutes=i)}'" for i in range(6)}
    valid = {
        "former": f"LOGIN VALID UNTIL '{now - timedelta(days=30)}'",
        "shop_app": f"LOGIN VALID UNTIL '{now + timedelta(days=5)}'",
        **short,
        "just_expired": f"LOGIN VALID UNTIL '{now - timedelta(days=1)}'",
    }
    with roles(server, **valid):
        watched = target(server.dsn(user=MONITOR), few)
        found = written(await watched.scrape(30.0))
        await watched.close()
    names = [labels["rolname"] for labels, _ in found.series("pg_roles_valid_until_timestamp_seconds")]
    assert names == ["just_expired", "shop_app", "v_0", "v_1"]


def certified(server: Cluster, openssl: Path) -> None:
    """Give a stopped server a certificate and switch TLS on."""
    files = [server.data / "server.key", server.data / "server.crt"]
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", files[0]]
    subprocess.run([openssl, *map(str, request), "-out", files[1]], check=True, capture_output=True)
    for file in files:
        file.chmod(0o600)
        hand_over(file)
    with (server.data / "postgresql.conf").open("a") as conf:
        conf.write("ssl = on\n")


@pytest.mark.parametrize("major", [13, 17])  # the build of 18 knows no TLS
async def test_connections_are_counted_by_encryption(
    cluster: Callable[..., Cluster], tool: Callable[[str, str], Path], major: int
) -> None:
    openssl = tool("openssl", "it comes with every system")
    server = cluster(major)
    server.stop()
    certified(server, openssl)
    server.start()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secure = await asyncpg.connect(server.dsn(), ssl=context)
    plain = await asyncpg.connect(server.dsn(), ssl="disable")
    try:
        found = page(server.dsn(user=MONITOR) + "?sslmode=disable")
        row = await secure.fetchrow("SELECT version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    finally:
        await secure.close()
        await plain.close()
    assert found.value("pg_settings_ssl") == 1
    assert found.value("pg_ssl_connections", encryption="tls", version=row["version"], cipher=row["cipher"]) == 1
    assert row["version"].startswith("TLS")
    ours = 2
    assert found.value("pg_ssl_connections", encryption="none", version="", cipher="") == 1 + ours


def test_an_extension_that_is_older_than_its_files_is_shown(database: Cluster) -> None:
    default = database.value("SELECT default_version FROM pg_available_extensions WHERE name = 'pg_stat_statements'")
    older = database.value(
        "SELECT min(version) FROM pg_available_extension_versions WHERE name = 'pg_stat_statements' AND version <> $1",
        default,
    )
    database.execute(f"CREATE EXTENSION pg_stat_statements VERSION '{older}'", DATABASE)
    found = page_of(database)
    extension = {"extname": "pg_stat_statements", "default_version": default}
    metric = "pg_extension_update_available"
    assert found.value(metric, datname=DATABASE, extversion=older, **extension) == 1
    assert found.value(metric, datname="postgres", extversion=default, **extension) == 0
    assert found.value(metric, datname=DATABASE, extname="plpgsql") == 0
    database.execute("DROP EXTENSION pg_stat_statements", DATABASE)


def test_the_page_says_since_when(server18: Cluster) -> None:
    """Statistics that were reset say when."""
    asked_at = time.time()
    server18.execute("SELECT pg_stat_reset_shared('bgwriter'), pg_stat_reset_shared('wal')")
    found = scraped(server18)
    for name in ("bgwriter", "wal"):
        assert asked_at <= found.value(f"pg_{name}_stats_reset_timestamp_seconds") <= time.time()


OF_THE_MOMENT = (
    *("process_", "python_", "pg_statement", "pg_session", "pg_lock", "pg_wait", "pg_buffer_cache"),
    *("pg_connections", "pg_database_connections", "pg_roles_connections", "pg_ssl_connections"),
)
"""Begin the names of metrics that our own sessions change from page to page."""

RICH = """
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int REFERENCES parent, v text, w float8);
    CREATE INDEX child_id ON child (id) WHERE id IS NOT NULL;
    CREATE INDEX child_v ON child (regexp_replace(v, '\\d', ''));
    CREATE INDEX child_v_again ON child  (  regexp_replace( v, '\\d', ''));
    CREATE INDEX child_lower ON child (lower(v)) WHERE w > 0.1;
    CREATE INDEX child_lower_again ON child (lower( v )) WHERE  w > 0.1;
    CREATE SEQUENCE few MAXVALUE 7;
    INSERT INTO parent SELECT generate_series(1, 1000);
    INSERT INTO child SELECT i, i, i / 3.0 FROM generate_series(1, 1000) AS i;
    ANALYZE;
"""


def test_the_page_is_the_same_whatever_is_set_for_our_role(database: Cluster, major: int) -> None:
    """Of what did not change between two pages before and after, all is the same; settings show what the role has."""
    database.execute(RICH + f"GRANT SELECT ON SEQUENCE few TO {MONITOR}", DATABASE)
    before = page_of(database)
    database.execute(hostile_to(MONITOR, major))
    for timeout in (
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        *("transaction_timeout",) * (major > 16),
    ):
        database.execute(f"ALTER ROLE {MONITOR} RESET {timeout}")  # a login may take longer than a millisecond
    try:
        during = page_of(database)
    finally:
        database.execute(f"ALTER ROLE {MONITOR} RESET ALL")
    after = page_of(database)

    def samples(found: Page) -> dict[tuple[object, ...], float]:
        return {
            (name, *sorted(labels.items())): value
            for name, series in found.samples.items()
            for labels, value in series
            if not name.startswith((*OF_THE_MOMENT, PREFIX, "pgvigil_"))
        }

    first, second, last = map(samples, (before, during, after))
    steady = {key: value for key, value in first.items() if last.get(key) == value}
    assert len(steady) > 300
    assert {key: (value, second.get(key)) for key, value in steady.items() if second.get(key) != value} == {}
    assert second.keys() - first.keys() - last.keys() == set()
    advice = [had["duplicate_of"] for had, _ in during.series("pg_index_duplicate_bytes", relname="child")]
    assert sorted(advice) == ["child_lower", "child_v"]
    assert not during.series("pg_foreign_key_without_index_bytes", relname="child")
    database.execute("DROP TABLE child, parent; DROP SEQUENCE few", DATABASE)
