"""MIGRATING.md names only what is there: settings, metrics, collectors, alerts, commands, and pages it links to."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import MONITOR, catalog, read
from serving import serving

from exporter.__main__ import cli
from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Catalog
from exporter.commands.compatibility import names, served, served_compatibly
from exporter.configuration import load_settings
from exporter.demo.cluster import Cluster
from exporter.settings import PREFIX, Settings

PAGE = Path(__file__).parents[1] / "exporter" / "MIGRATING.md"
TEXT = PAGE.read_text("utf-8")
RULES = (Path(__file__).parents[1] / "alerts" / "rules").glob("*.yml")

FROM_CODE = ("pg_up_reason", "pg_session_sampled_seconds_total", "pg_statement_info")

THEIRS = {each.name for each in names()}


def rows(text: str = TEXT) -> Iterator[dict[str, str]]:
    """The rows of all tables, each by the heads of its columns."""
    heads: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if not cells:
            heads = []
        elif not heads:
            heads = cells
        elif set(line) - set("|-"):
            yield dict(zip(heads, cells, strict=True))


def ticked(text: str, pattern: str) -> set[str]:
    """What stands between backticks and looks like this."""
    return {found for found in re.findall(r"`([^`\n]*)`", text) if re.fullmatch(pattern, found)}


def section(head: str) -> str:
    """The text under a head, up to the next of its rank or higher."""
    rank = head.split()[0]
    return re.split(rf"^#{{2,{len(rank)}}} ", TEXT.split(f"\n{head}\n", 1)[1], flags=re.MULTILINE)[0]


def test_the_tables_are_read() -> None:
    assert len(list(rows())) > 100
    assert {"postgres_exporter", "pgSCV", "pg_exporter"} <= {head for row in rows() for head in row}


@pytest.mark.parametrize("name", sorted(set(re.findall(rf"\b{PREFIX}[A-Z_]+", TEXT))))
def test_every_setting_is_one(name: str) -> None:
    assert name.removeprefix(PREFIX).lower() in {*Settings.model_fields, "config"}


def test_every_metric_of_ours_is_in_the_catalog() -> None:
    ours = {name for row in rows() for name in ticked(row.get("pgvigil", ""), r"pg(vigil|bouncer)?_\w+")}
    assert len(ours) > 60
    assert ours - {*served(catalog()), *FROM_CODE} == set()


def test_the_prose_names_only_metrics_of_ours() -> None:
    prose = "\n".join(line for line in TEXT.splitlines() if not line.startswith("|"))
    assert ticked(prose, r"pg(vigil)?_\w+") - {*served(catalog()), "pg_monitor"} == set()


def test_every_metric_of_theirs_is_one() -> None:
    """As their releases, or the rules that ask for it in vain, have it."""
    asked = {name for row in rows() for name in ticked(row.get("they ask for", ""), r"pg_\w+")}
    theirs = {name for row in rows() for name in ticked(row.get("postgres_exporter", ""), r"pg_\w+")}
    assert len(asked) > 10
    assert (asked | theirs) - THEIRS == set()


def test_every_name_that_rules_ask_for_in_vain_is_on_the_page() -> None:
    in_vain = {each.name for each in names() if each.where == "public rules"}
    assert in_vain
    assert in_vain - {name for row in rows() for name in ticked(row.get("they ask for", ""), r"pg_\w+")} == set()


def test_every_alert_is_one() -> None:
    alerts = {name for file in RULES for name in re.findall(r"alert: (\w+)", file.read_text("utf-8"))}
    named = ticked(TEXT, r"PostgreSQL\w+")
    assert named
    assert named - alerts == set()


def test_every_collector_is_one() -> None:
    collectors = {collector.name for collector in load(BUILT_IN, COMPATIBILITY)}
    named = {name for row in rows(section("### Collectors")) for name in ticked(row["pgvigil"], r"[a-z_]+")}
    assert len(named) > 30
    assert named - collectors - {"limit", *FROM_CODE} == set()


FLAGS = {
    "buffercache_summary",
    "database",
    "database_wraparound",
    "locks",
    "long_running_transactions",
    "postmaster",
    "process_idle",
    "replication",
    "replication_slots",
    "roles",
    "settings",
    "stat_activity",
    "stat_activity_autovacuum",
    "stat_archiver",
    "stat_bgwriter",
    "stat_checkpointer",
    "stat_database",
    "stat_progress_vacuum",
    "stat_replication",
    "stat_statements",
    "stat_user_tables",
    "stat_wal_receiver",
    "statio_user_indexes",
    "statio_user_tables",
    "wal",
    "xlog_location",
}
"""The collectors of postgres_exporter 0.20.1, each with a flag --collector.NAME."""


def test_every_flag_of_a_collector_is_on_the_page() -> None:
    """Others of the column are options of stat_statements."""
    named = {name for row in rows(section("### Collectors")) for name in ticked(row["postgres_exporter"], r"[a-z_]+")}
    assert named == FLAGS


def test_what_a_flag_switches_on_there_is_served_here_with_the_compatible_names() -> None:
    """By collectors that are on, but for names that are not served at all, which the table of names explains."""
    on = tuple(collector for collector in load(COMPATIBILITY) if collector.enabled)
    here = served_compatibly(load(BUILT_IN), Catalog(on))
    asked = [each for each in names() if each.where == "default" or re.fullmatch(r"--collector\.\w+", each.where)]
    flags = {each.where.removeprefix("--collector.") for each in asked} - {"default"}
    assert flags <= FLAGS
    assert len(asked) > 100
    every = served_compatibly(load(BUILT_IN), load(COMPATIBILITY))
    assert [each.name for each in asked if each.name in every and each.name not in here] == []


def test_statements_have_their_names_when_these_are_asked_for(server: Cluster) -> None:
    """As the page says, no flag or setting is needed beside the one."""
    with serving(dsn=server.dsn(user=MONITOR), compatibility_names="true") as ours:
        found = read(ours.get().text)
    for what in ("calls", "seconds", "rows", "block_read_seconds", "block_write_seconds"):
        assert found.series(f"pg_stat_statements_{what}_total"), what


def test_what_is_called_on_is_on() -> None:
    on = {collector.name for collector in catalog() if collector.enabled}
    for row in rows(section("### Collectors")):
        if ": on" in row["pgvigil"]:
            assert ticked(row["pgvigil"].split(": on")[0], r"[a-z_]+") - on == set()


def test_every_command_is_one() -> None:
    assert set(re.findall(r"`pgvigil (\w+)", TEXT)) <= set(cli.commands)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        file = (PAGE.parent / path).resolve() if path else PAGE
        assert file.is_file(), target
        heads = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor in anchors, target


def test_the_examples_load(tmp_path: Path) -> None:
    settings, collector = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "orders.yaml").write_text(collector)
    assert [each.name for each in load(tmp_path / "own")] == ["orders"]
    (tmp_path / "config.yaml").write_text(settings)
    assert [target.name for target in load_settings(tmp_path / "config.yaml").targets or ()] == ["server1", "server2"]


def test_the_readme_leads_here() -> None:
    assert "(exporter/MIGRATING.md" in (PAGE.parents[1] / "README.md").read_text("utf-8")
