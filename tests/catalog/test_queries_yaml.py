"""postgres_exporter's custom queries: what they become, what is said of them, and that the numbers are the same."""

import asyncio
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bench.exporters import PROGRAM, running, theirs
from pages import MONITOR, Page, compatible, named, page, target
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from serving import run, serving

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Catalog, Collector, Metric
from exporter.demo.cluster import HOST, Cluster
from exporter.errors import CatalogError
from exporter.planning.plan import plan
from exporter.planning.server import Server

FILE = Path(__file__).with_name("queries.yaml")

ONE = """
pg_a:
  query: SELECT 1 AS b
  metrics:
    - b:
        usage: GAUGE
        description: B.
"""


def loaded(folder: Path, text: str, *folders: Path, **options: Any) -> Catalog:
    """The catalog of some folders and one with this file."""
    (folder / "queries.yaml").write_text(text)
    return load(*folders, folder, **options)


def column(usage: str, name: str = "b", more: str = "") -> str:
    """A file with one column."""
    return f"pg_a:\n  query: SELECT 1 AS {name}\n  metrics:\n    - {name}: {{usage: {usage}{more}}}\n"


def metrics(catalog: Catalog) -> list[tuple[str, str]]:
    return [(metric.name, metric.type) for collector in catalog for metric in collector.metrics]


def test_a_file_becomes_collectors_of_our_own_format(tmp_path: Path) -> None:
    [made] = loaded(tmp_path, ONE.replace("  metrics", "  cache_seconds: 30\n  master: true\n  metrics"))
    assert (made.name, made.scope, made.cache, made.search_path, made.lenient) == ("pg_a", "server", 30, "role", True)
    assert made.metrics == (
        Metric.model_validate({"name": "pg_a_b", "type": "gauge", "help": "B.", "column": "b", "labels": []}),
    )
    assert made.labels == ("server",)


@pytest.mark.parametrize(
    ("usage", "name", "found"),
    [
        ("GAUGE", "b", [("pg_a_b", "gauge")]),
        ("GAUGE", "b_total", [("pg_a_b_total", "untyped")]),
        ("COUNTER", "b_total", [("pg_a_b_total", "counter")]),
        ("COUNTER", "b", [("pg_a_b", "untyped")]),
        ("MAPPEDMETRIC", "b", [("pg_a_b", "gauge")]),
        ("DURATION", "b", [("pg_a_b_milliseconds", "gauge")]),
        ("HISTOGRAM", "b", [("pg_a_b_bucket", "untyped"), ("pg_a_b_sum", "untyped"), ("pg_a_b_count", "untyped")]),
        ("LABEL", "b", []),
        ("DISCARD", "b", []),
    ],
)
def test_names_and_types(usage: str, name: str, found: list[tuple[str, str]], tmp_path: Path) -> None:
    assert metrics(loaded(tmp_path, column(usage, name))) == found


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (">=13.0.0", "13.0 13.4 14.0 14.1 18.0"),
        (">13.4.0", "14.0 14.1 18.0"),
        (">=13.4.0", "13.4 14.0 14.1 18.0"),
        ("<14.0.0", "13.0 13.4"),
        ("<=14.0.0", "13.0 13.4 14.0"),
        (">=13.1.0 <14.1.0", "13.4 14.0"),
        ("<13.1.0 || >=18.0.0", "13.0 18.0"),
        ("=14.0.0", "14.0"),
        ("14.1.0", "14.1"),
        ("!=14.0.0", "13.0 13.4 14.1 18.0"),
        ("!14.x", "13.0 13.4 18.0"),
        ("14.x", "14.0 14.1"),
        (">= 14", "14.0 14.1 18.0"),
        (">14", "18.0"),
        ("<=13", "13.0 13.4"),
        ("x", "13.0 13.4 14.0 14.1 18.0"),
        (">=19.0.0", ""),
    ],
)
def test_runonserver_says_which_versions(text: str, runs: str, tmp_path: Path) -> None:
    [made] = loaded(tmp_path, ONE.replace("  metrics", f"  runonserver: '{text}'\n  metrics"))
    versions = [(13, 0), (13, 4), (14, 0), (14, 1), (18, 0)]
    assert " ".join(f"{a}.{b}" for a, b in versions if made.sql_for((a, b))) == runs


def test_without_master_false_it_runs_once_and_with_it_in_every_database(tmp_path: Path) -> None:
    label = "    - datname: {usage: LABEL}\n    - x: {usage: LABEL}\n"
    server = Server((18, 0), False, "postgres", ("postgres", "shop"))
    for master, databases, labels in (
        ("", ["postgres"], ("datname", "x", "server")),
        ("  master: true\n", ["postgres"], ("datname", "x", "server")),
        ("  master: false\n", ["postgres", "shop"], ("datname", "x", "server")),
    ):
        catalog = loaded(tmp_path, ONE.replace("  metrics:\n", f"{master}  metrics:\n{label}"))
        jobs = plan(catalog, server).jobs
        assert [job.database for job in jobs] == databases
        assert {job.collector.labels_of(job.metrics[0]) for job in jobs} == {labels}


def test_words_are_read_as_they_are_written(tmp_path: Path) -> None:
    """YAML's `on` is no truth value here, `1` no number, and a key without a value is not there."""
    mapping = ", metric_mapping: {on: 1, off: 0, 1: 2, it's: .5}"
    [made] = loaded(tmp_path, column("MAPPEDMETRIC", "yes", mapping) + "  runonserver:\n  cache_seconds:\n")
    sql = made.sql_for((18,))
    assert sql is not None
    cases = re.findall(r"WHEN '(.*?)' THEN '(.*?)'", sql)
    assert cases == [("on", "1.0"), ("off", "0.0"), ("1", "2.0"), ("it''s", "0.5")]
    assert made.metrics[0].help == "The author of pg_a_yes did not describe it."


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = ONE.replace("    - b:\n", "    - b: &gauge\n") + "    - c:\n        <<: *gauge\n"
    assert metrics(loaded(tmp_path, text)) == [("pg_a_b", "gauge"), ("pg_a_c", "gauge")]


WRONG = [
    (column("GUAGE"), "queries.yaml: pg_a.metrics.0.b.usage: Input should be 'LABEL', 'GAUGE'"),
    (column("GAUGE").replace("{usage: GAUGE}", ""), "queries.yaml: pg_a.metrics.0.b: expected a mapping"),
    (column("GAUGE").replace("usage: GAUGE", "x: y"), "queries.yaml: pg_a.metrics.0.b.usage: Field required"),
    (column("GAUGE", "a-b"), "queries.yaml: pg_a: metrics: 'a-b' cannot be a GAUGE: it must match"),
    (column("LABEL", "1st"), "queries.yaml: pg_a: metrics: '1st' cannot be a LABEL: it must match"),
    (column("MAPPEDMETRIC", more=", metric_mapping: {a: one}"), "queries.yaml: pg_a.metrics.0.b.metric_mapping.a: "),
    (ONE + "  master: perhaps\n", "queries.yaml: pg_a.master: Input should be true or false"),
    (ONE + "  cache_seconds: -1\n", "queries.yaml: pg_a.cache_seconds: Input should be greater than or equal to 0"),
    (ONE + "  runonserver: new\n", "queries.yaml: pg_a.runonserver: 'new' is no range of versions: write"),
    (ONE + "  runonserver: '>=13.0.0 <'\n", "queries.yaml: pg_a.runonserver: '>=13.0.0 <' is no range"),
    (ONE + "  min_version: 130000\n", "queries.yaml: pg_a: min_version: a key of pgsty's pg_exporter"),
    (ONE + "other: 5\n", "queries.yaml: other: expected a mapping"),
    (ONE.replace("pg_a", "pg-a"), "queries.yaml: pg-a.[key]: 'pg-a' cannot begin the name of a metric"),
    (ONE.replace("SELECT 1", "SHOW ALL"), "queries.yaml: pg_a.query: it begins with SHOW, and has"),
    (ONE.replace("SELECT 1", "SET x = 1; SELECT 1"), "queries.yaml: pg_a.query: it begins with SET, and has"),
    (ONE.replace("1 AS b", "2; SELECT 1 AS b"), "queries.yaml: pg_a.query: it has several statements, and has"),
    (ONE + ONE, "queries.yaml: line 9: key 'pg_a' is written twice"),
    (ONE.replace("pg_a", "pg") + "    - a_b: {usage: GAUGE}\n" + ONE, "queries.yaml: pg_a: pg_a_b: queries.yaml: pg "),
    (ONE + "    - b_total: {usage: COUNTER}\n", "queries.yaml: pg_a: pg_a_b_total: queries.yaml: pg_a has that name"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message[14:60] for _, message in WRONG])
def test_what_is_wrong_is_said_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        loaded(tmp_path, text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS b",
        "(SELECT 1 AS b)",
        "/* SHOW; */ select ';' AS \"a;\", 1 AS b; -- SET; x",
        "VALUES (1)",
        "TABLE t",
        "WITH x AS (SELECT 1 AS b) SELECT b FROM x;;",
        "/* a /* b */ ; */ SELECT 1 AS b",
        "SHOW max_connections;",
    ],
)
def test_what_can_stand_in_from_is_taken(query: str, tmp_path: Path) -> None:
    assert len(loaded(tmp_path, ONE.replace("SELECT 1 AS b", f"|\n    {query}")).collectors) == 1


NOTED = [
    (column("COUNTER"), "queries.yaml: pg_a: untyped, since a counter's name has to end with _total, and no other"),
    (ONE + "pg_x:\n", "queries.yaml: pg_x: left out, since it has no query"),
    ("pg_x:\n  metrics:\n    - b: {usage: GAUGE}\n", "queries.yaml: pg_x: left out, since it has no query"),
    (ONE.replace("SELECT 1 AS b", "'; -- to do'"), "queries.yaml: pg_a: left out, since it has no query"),
    (ONE + "  colour: red\n", "queries.yaml: pg_a: ignored, as there: colour"),
    (ONE.replace("SELECT 1 AS b", '""'), "queries.yaml: pg_a: left out, since it has no query"),
    (column("LABEL"), "queries.yaml: pg_a: left out, since it declares no value"),
    (ONE + "  runonserver: '>=14'\n", "queries.yaml: pg_a: runs where runonserver says, >=14"),
    (ONE + "  master: false\n", "queries.yaml: pg_a: runs in every database"),
    (ONE.replace("pg_a", "pgvigil"), "queries.yaml: pgvigil: left out, since the exporter itself has it: pgvigil_b"),
    (column("GAUGE", "up").replace("pg_a", "pg"), "queries.yaml: pg: left out, since the exporter itself has it"),
]


@pytest.mark.parametrize(("text", "note"), NOTED, ids=[note[14:60] for _, note in NOTED])
def test_what_a_person_would_not_expect_is_noted(text: str, note: str, tmp_path: Path) -> None:
    first, *others = loaded(tmp_path, text).notes
    assert first.startswith("queries.yaml: custom queries of postgres_exporter, translated.")
    assert [other for other in others if other.startswith(note)] != []


@pytest.mark.parametrize("text", ["", "# pg_a:\n#   query: SELECT 1\n", "---\n", "{}\n"])
def test_a_file_without_a_query_loads_as_nothing_and_says_so(text: str, tmp_path: Path) -> None:
    """The queries.yaml that postgres_exporter publishes holds comments only."""
    found = loaded(tmp_path, text)
    assert found.collectors == ()
    assert found.notes == ("queries.yaml: holds no collector: it is empty, or has comments only",)


OURS = """
name: ours
help: Ours.
sql: SELECT 1 AS b
metrics:
  - {name: NAME, type: TYPE, help: A metric of ours., column: b, also: ALSO}
"""


@pytest.mark.parametrize(
    ("name", "kind", "also", "runs", "served"),
    [
        ("pg_a_b", "gauge", "pg_x", True, {"pg_a_b": "ours", "pg_x": "ours"}),
        ("pg_a_b_total", "counter", "pg_x", True, {"pg_a_b_total": "ours", "pg_x": "ours"}),
        ("pg_a_b", "gauge", "pg_x", False, {"pg_a_b": "pg_a"}),
        ("pg_x", "gauge", "pg_a_b", True, {"pg_x": "ours", "pg_a_b": "pg_a"}),
        ("pg_x_total", "counter", "pg_a_b_total", True, {"pg_x_total": "ours", "pg_a_b": "pg_a"}),
    ],
)
def test_of_two_metrics_with_one_name_ours_stays_and_a_compatibility_name_yields(
    name: str, kind: str, also: str, runs: bool, served: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ours.yaml").write_text(OURS.replace("NAME", name).replace("TYPE", kind).replace("ALSO", also))

    def is_on(collector: Collector) -> bool:
        return runs or collector.name != "ours"

    catalog = loaded(tmp_path, ONE, runs=is_on)
    names = {n: c.name for c in catalog if is_on(c) for m in c.metrics for n in (m.name, m.also) if n}
    assert names == served
    assert any("left out, since our collector ours has that name" in note for note in catalog.notes) == (
        "pg_a_b" not in names or names["pg_a_b"] == "ours"
    )


def test_a_query_that_is_switched_off_takes_nobodys_name(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(OURS.replace("NAME", "pg_x").replace("TYPE", "gauge").replace("ALSO", "pg_a_b"))
    catalog = loaded(tmp_path, ONE, runs=lambda collector: collector.name != "pg_a")
    assert named(catalog, "ours").metrics[0].also == "pg_a_b"
    assert named(catalog, "pg_a").metrics[0].name == "pg_a_b"


def test_statements_of_old_queries_win_over_those_of_compatibility(tmp_path: Path) -> None:
    """Both have the family pg_stat_statements_calls, with other labels; postgres_exporter had one or the other."""
    old = ONE.replace("pg_a", "pg_stat_statements").replace("b", "calls")
    made = loaded(tmp_path, old, BUILT_IN, COMPATIBILITY)
    owners = {metric.name: collector.name for collector in made for metric in collector.metrics}
    assert owners["pg_stat_statements_calls"] == "pg_stat_statements"
    assert "pg_stat_statements_calls_total" not in owners
    assert owners["pg_stat_statements_seconds_total"] == "stat_statements"


def test_a_collector_whose_name_is_taken_gets_another(tmp_path: Path) -> None:
    made = loaded(tmp_path, ONE.replace("pg_a", "locks"), BUILT_IN)
    assert named(made, "locks_queries").metrics[0].name == "locks_b"


def prepared(server: Cluster) -> None:
    """A table with some statistics, a clerk whose statements are counted, and a second database."""
    server.execute("CREATE DATABASE till")
    server.execute(
        """
        CREATE TABLE item (id int PRIMARY KEY, name text);
        CREATE TABLE odd (a int);
        INSERT INTO item SELECT i, 'x' FROM generate_series(1, 1000) AS i;
        SET client_min_messages = warning;
        CREATE ROLE clerk SUPERUSER LOGIN;
        CREATE ROLE postgres_exporter LOGIN;
        GRANT pg_monitor TO postgres_exporter;
        """
    )
    server.execute("VACUUM ANALYZE item")
    server.execute("SET ROLE clerk; SELECT count(*) FROM item WHERE id > 10")
    reported = "SELECT sum(vacuum_count) = 1 AND sum(seq_scan) >= 1 FROM pg_stat_user_tables WHERE relname = 'item'"
    while not server.value(reported):
        time.sleep(0.1)
    time.sleep(1)  # until all that the last sessions did has been reported as well


def translated_page(server: Cluster, folder: Path) -> Page:
    (folder / "queries.yaml").write_text(FILE.read_text("utf-8"))
    return page(server.dsn(user=MONITOR), folder)


@pytest.mark.parametrize("major", [13, 18])
def test_the_file_works_on_a_real_server(major: int, cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    server = cluster(major)
    prepared(server)
    found = translated_page(server, tmp_path)
    assert found.series("pgvigil_collector_success", collector="pg_stat_statements")
    assert [labels for labels, value in found.series("pgvigil_collector_success") if value == 0] == []

    here = f"{HOST}:{server.port}"
    assert found.series("pg_replication_lag") == [({"server": here}, 0)]
    assert found.labels("pg_postmaster_start_time_seconds") == {}, "ours stays"
    table = {"datname": "postgres", "schemaname": "public", "relname": "item", "server": here}
    assert found.labels("pg_stat_user_tables_n_live_tup", relname="item") == table
    assert found.value("pg_stat_user_tables_n_tup_ins", relname="item") == 1000
    assert found.value("pg_stat_user_tables_last_vacuum", relname="item") > 1.7e9
    assert found.value("pg_stat_user_tables_last_vacuum", relname="odd") == 0
    assert found.series("pg_stat_user_tables_idx_scan", relname="odd") == [], "NULL gives no sample"
    assert found.value("pg_statio_user_tables_heap_blks_hit", relname="item") > 0
    statements = found.series("pg_stat_statements_calls", rolname="clerk", datname="postgres", server=here)
    assert sum(calls for _, calls in statements) >= 1
    assert all(re.fullmatch(r"-?\d+", labels["queryid"]) for labels, _ in statements)

    _assert_odd_values(found, here)
    assert {labels["name"]: value for labels, value in found.series("switches_setting")} == {
        "fsync": 0,
        "track_counts": 1,
        "wal_level": 2.5,
    }
    assert {labels["what"]: value for labels, value in found.series("lasted_run_milliseconds")} == {
        "0s": 0,
        "300ms": 300,
        "1.001s": 1001,
        "1h2m3.5s": 3723500,
        "15us": 0,
        "-2m": -120000,
        "250": 250,
    }
    assert found.value("lasted_pause_milliseconds", what="0s") == 1500
    assert (found.value("shown_max_connections"), found.value("twice_b"), found.value("twice_c_milliseconds")) == (
        int(server.value("SHOW max_connections")),
        2,
        -93600500,
    )
    assert {labels["le"]: value for labels, value in found.series("spread_size_bucket", kind="a", server=here)} == {
        "0.5": 1,
        "1": 3,
        "2": 4,
        "+Inf": 5,
    }
    sizes = [found.value(f"spread_{name}", kind="a") for name in ("size_sum", "size_count", "answer")]
    assert sizes == [9.5, 5, 42]
    assert ("only_old_here" in found.samples, "only_new_here" in found.samples) == (major < 18, major >= 18)
    everywhere = {labels["datname"]: value for labels, value in found.series("everywhere_tables")}
    assert everywhere == {"postgres": 2, "till": 0}


async def test_openmetrics_has_no_quarrel_with_their_names(server18: Cluster, tmp_path: Path) -> None:
    """With and without the collectors of compatibility; prometheus-client's parser refuses what clashes."""
    for folders in ((BUILT_IN,), (BUILT_IN, COMPATIBILITY)):
        watched = target(server18.dsn(user=MONITOR), loaded(tmp_path, FILE.read_text("utf-8"), *folders))
        report = await watched.scrape(20)
        await watched.close()
        text = compatible(report, "application/openmetrics-text; version=1.0.0")
        families = {family.name: family.type for family in text_string_to_metric_families(text)}
        assert (families["spread_size_bucket"], families["odd_values_left_total"]) == ("unknown", "unknown")
        assert families["odd_values_done"] == "counter"


def _assert_odd_values(found: Page, here: str) -> None:
    odd = {name: series for name, series in found.samples.items() if name.startswith("odd_values_")}
    assert {name: series[0][1] for name, series in odd.items()} == {
        "odd_values_decimal": 1.5,
        "odd_values_word": 2.5,
        "odd_values_yes": 1,
        "odd_values_at": 1706933106,
        "odd_values_At_local": 1706933106,
        "odd_values_never": math.inf,
        "odd_values_took": 90,
        "odd_values_done_total": 7,
        "odd_values_left_total": 8,
    }
    assert found.labels("odd_values_decimal") == {"day": "1706918400", "server": here}


THEIR_OWN = ("switches_setting", "lasted_", "only_", "odd_values_not_declared", "everywhere_")
"""What theirs does not do as its documentation has it, what it guesses, and what depends on a flag."""


@pytest.mark.parametrize("major", [13, 18])
async def test_names_labels_and_values_are_those_of_the_real_one(
    major: int, cluster: Callable[..., Cluster], tool: Callable[[str, str], Path], tmp_path: Path
) -> None:
    tool(PROGRAM, f"apt-get install {PROGRAM}")
    server = cluster(major)
    prepared(server)
    declared = {m.name for c in load(_folder(tmp_path)) for m in c.metrics}
    with running(theirs(server, "postgres", FILE), tmp_path) as other:
        answer = await asyncio.to_thread(httpx.get, f"http://{HOST}:{other.exporter.port}/metrics", timeout=30)
    there = _series(answer.text)
    found = _series(translated_page(server, tmp_path).text)
    compared = [each for each in there if each[0] in declared and not each[0].startswith(THEIR_OWN)]
    assert {name for name, _ in compared} >= {
        "pg_replication_lag",
        "pg_stat_user_tables_last_vacuum",
        "pg_statio_user_tables_heap_blks_hit",
        "pg_stat_statements_total_time_seconds",
        "odd_values_at",
        "odd_values_never",
        "spread_size_bucket",
    }
    started = "pg_postmaster_start_time_seconds"
    [uptime] = [value for (name, _), value in there.items() if name == started]
    assert math.floor(found[started, frozenset()]) == uptime, "ours stays, without the label server"
    numbers = {each: there[each] for each in compared if each[0] != started and not math.isnan(there[each])}
    assert numbers == {each: found.get(each) for each in numbers}


def _folder(folder: Path) -> Path:
    (folder / "queries.yaml").write_text(FILE.read_text("utf-8"))
    return folder


def _series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read a page by the letter: the parser of prometheus-client adds _total to counters that lack it."""
    found = {}
    for name, _, labels, value in re.findall(r"^([a-zA-Z_:][\w:]*)(\{(.*)\})? (\S+)$", text, re.MULTILINE):
        found[name, frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))] = float(value)
    return found


def test_check_and_serve_say_what_became_of_the_file(server18: Cluster, tmp_path: Path) -> None:
    (tmp_path / "queries.yaml").write_text(ONE.replace("GAUGE", "COUNTER"))
    settings = {"dsn": server18.dsn(user=MONITOR), "collectors_dir": str(tmp_path)}
    checked = run("check", **settings)
    assert checked.returncode == 0
    assert "\nCollector files\n  queries.yaml: custom queries of postgres_exporter, translated." in checked.stdout
    assert re.search(r"^  ok +pg_a +1 rows", checked.stdout, re.MULTILINE)
    with serving(**settings) as ours:
        assert "pg_a_b{" in ours.get().text
        ours.process.terminate()
        assert ours.process.stderr is not None
        assert "queries.yaml: pg_a: untyped, since a counter's name" in ours.process.stderr.read()


def test_a_collector_can_be_switched_off_for_theirs(tmp_path: Path, server18: Cluster) -> None:
    (tmp_path / "queries.yaml").write_text(ONE.replace("b", "archived_total").replace("pg_a", "pg_archiver"))
    settings = {"dsn": server18.dsn(user=MONITOR), "collectors_dir": str(tmp_path)}
    assert "\npg_archiver_archived_total " in run("scrape", **settings).stdout
    assert "\npg_archiver_archived_total{server=" in run("scrape", disable="archiver", **settings).stdout
