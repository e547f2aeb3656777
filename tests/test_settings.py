"""Settings from environment and file, and what is said of wrong ones."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from pages import catalog, named

from exporter.assembly import database_filter_of, statement_filter_of, table_filter_of
from exporter.catalog.load import BUILT_IN, load
from exporter.configuration import load_settings
from exporter.errors import SettingsError
from exporter.leftovers import leftovers
from exporter.planning.database_filter import DatabaseFilter
from exporter.planning.statement_filter import StatementFilter
from exporter.planning.table_filter import TableFilter
from exporter.settings import Settings


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings."""
    import os

    for name in list(os.environ):
        if name.startswith("PGVIGIL_"):
            monkeypatch.delenv(name)
    return monkeypatch


def loaded(environ: pytest.MonkeyPatch, variables: Mapping[str, str], file: Path | None = None) -> Settings:
    """Settings under these variables."""
    for name, value in variables.items():
        environ.setenv(name, value)
    return load_settings(file)


def test_nothing_set_is_a_working_configuration(environ: pytest.MonkeyPatch) -> None:
    settings = loaded(environ, {})
    assert settings.addresses == [("0.0.0.0", 9187)]
    assert settings.max_connections_per_target == 5


def test_the_environment_wins_over_the_file(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pgvigil.yaml"
    file.write_text("listen: 127.0.0.1:1\nscrape_timeout: 3\ncollectors:\n  table_vacuum: {limit: 0, cache: 5}\n")
    settings = loaded(environ, {"PGVIGIL_LISTEN": "[::1]:2", "PGVIGIL_CONFIG": str(file)})
    assert (settings.addresses, settings.scrape_timeout) == ([("::1", 2)], 3.0)
    assert settings.collectors["table_vacuum"].limit == 0


def test_an_empty_name_of_the_configuration_file_is_none(environ: pytest.MonkeyPatch) -> None:
    assert loaded(environ, {"PGVIGIL_CONFIG": ""}) == loaded(environ, {})


def test_names_are_separated_by_commas(environ: pytest.MonkeyPatch) -> None:
    assert loaded(environ, {"PGVIGIL_DISABLE": "table_vacuum, locks,"}).disable == ("table_vacuum", "locks")


def test_a_target_may_choose_its_own_databases(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pgvigil.yaml"
    file.write_text(
        "exclude_databases: [test_*, 'odd,name']\ntargets:\n  - {name: all, dsn: host=a}\n"
        "  - {name: shops, dsn: host=b, include_databases: 'shop_*, blog', exclude_databases: [shop_9]}\n"
    )
    settings = loaded(environ, {}, file)
    choices = [database_filter_of(target, settings) for target in settings.targets or ()]
    assert choices == [DatabaseFilter((), ("test_*", "odd,name")), DatabaseFilter(("shop_*", "blog"), ("shop_9",))]
    assert loaded(environ, {"PGVIGIL_INCLUDE_DATABASES": "a*, b"}).include_databases == ("a*", "b")


def test_a_target_may_choose_other_tables(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pgvigil.yaml"
    file.write_text(
        "exclude_tables: [audit.*, 'tmp_*']\ntargets:\n  - {name: all, dsn: host=a}\n"
        "  - {name: shops, dsn: host=b, include_tables: 'shop.*, orders', exclude_tables: ['*_old']}\n"
    )
    settings = loaded(environ, {}, file)
    filters = [table_filter_of(target, settings) for target in settings.targets or ()]
    assert filters == [TableFilter((), ("audit.*", "tmp_*")), TableFilter(("shop.*", "orders"), ("*_old",))]


def test_a_target_may_exclude_other_statements(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pgvigil.yaml"
    file.write_text(
        "statements_exclude_users: 'batch_*, loader'\nstatements_exclude_databases: [queue]\ntargets:\n"
        "  - {name: all, dsn: host=a}\n  - {name: shops, dsn: host=b, statements_exclude_users: [etl]}\n"
    )
    settings = loaded(environ, {}, file)
    filters = [statement_filter_of(target, settings) for target in settings.targets or ()]
    assert filters == [StatementFilter(("batch_*", "loader"), ("queue",)), StatementFilter(("etl",), ("queue",))]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"PGVIGIL_INCLUDE_DATABASES": "blog,shop_[12"},
            "PGVIGIL_INCLUDE_DATABASES: 1: 'shop_[12' is no pattern: a [ has no ]",
        ),
        (
            {"PGVIGIL_EXCLUDE_TABLES": "a,[z-a]*"},
            "PGVIGIL_EXCLUDE_TABLES: 1: '[z-a]*' is no pattern: the range z-a is reversed",
        ),
        ({"PGVIGIL_EXCLUDE_DATABASES": "a[]"}, "PGVIGIL_EXCLUDE_DATABASES: 0: 'a[]' is no pattern"),
        (
            {"PGVIGIL_STATEMENTS_EXCLUDE_USERS": "a,b["},
            "PGVIGIL_STATEMENTS_EXCLUDE_USERS: 1: 'b[' is no pattern: a [ has no ]; shell patterns have *, ? and [abc]",
        ),
        ({"PGVIGIL_STATEMENTS_EXCLUDE_DATABASES": "[]"}, "PGVIGIL_STATEMENTS_EXCLUDE_DATABASES: 0: '[]' is no pattern"),
        (
            {"PGVIGIL_STATEMENTS_EXCLUDE_USER": "a"},
            "PGVIGIL_STATEMENTS_EXCLUDE_USER: no such setting; did you mean PGVIGIL_STATEMENTS_EXCLUDE_USERS?",
        ),
        (
            {"PGVIGIL_TARGETS": "postgresql://db1/shop"},
            """PGVIGIL_TARGETS: is no list. Write JSON, such as [{"name": "shop", "dsn": "host=db1 dbname=shop"}]""",
        ),
        ({"PGVIGIL_DSN": "x" * 10_001}, "PGVIGIL_DSN: is longer than 10000 characters"),
        ({"PGVIGIL_LISTNE": "x"}, "PGVIGIL_LISTNE: no such setting; did you mean PGVIGIL_LISTEN?"),
        ({"PGVIGIL_FLUX": "x"}, "PGVIGIL_FLUX: no such setting"),
        ({"PGVIGIL_LISTEN": "9187"}, "PGVIGIL_LISTEN: '9187' is no address: write host:port"),
        ({"PGVIGIL_LISTEN": "localhost:99999"}, "PGVIGIL_LISTEN: 'localhost:99999' is no address"),
        ({"PGVIGIL_LISTEN": "localhost:http"}, "PGVIGIL_LISTEN: 'localhost:http' is no address"),
        ({"PGVIGIL_LISTEN": "::1:9187"}, "PGVIGIL_LISTEN: '::1:9187' is no address"),
        ({"PGVIGIL_SCRAPE_TIMEOUT": "soon"}, "PGVIGIL_SCRAPE_TIMEOUT: Input should be a valid number"),
        ({"PGVIGIL_TARGETS": "{}"}, "PGVIGIL_TARGETS: Input should be a list"),
        ({"PGVIGIL_COLLECTORS": "[]"}, "PGVIGIL_COLLECTORS: Input should be a mapping"),
        ({"PGVIGIL_SCRAPE_TIMEOUT": "0"}, "PGVIGIL_SCRAPE_TIMEOUT: Input should be greater than or equal to 0.1"),
        ({"PGVIGIL_SCRAPE_TIMEOUT": "inf"}, "PGVIGIL_SCRAPE_TIMEOUT: Input should be"),
        ({"PGVIGIL_SCRAPE_TIMEOUT_OFFSET": "nan"}, "PGVIGIL_SCRAPE_TIMEOUT_OFFSET: Input should be a finite number"),
        ({"PGVIGIL_LAST_GOOD": "inf"}, "PGVIGIL_LAST_GOOD: Input should be a finite number"),
        ({"PGVIGIL_SAMPLE_INTERVAL": "nan"}, "PGVIGIL_SAMPLE_INTERVAL: Input should be a finite number"),
        ({"PGVIGIL_COST_BUDGET": "nan"}, "PGVIGIL_COST_BUDGET: Input should be"),
        ({"PGVIGIL_CONNECT_TIMEOUT": "1e-300"}, "PGVIGIL_CONNECT_TIMEOUT: Input should be greater than"),
        ({"PGVIGIL_INCIDENT_LOCK_WAIT": "inf"}, "PGVIGIL_INCIDENT_LOCK_WAIT: Input should be a finite number"),
        (
            {"PGVIGIL_COLLECTORS": '{"table_vacuum": {"cache": Infinity}}'},
            "PGVIGIL_COLLECTORS: table_vacuum.cache: Input should be",
        ),
        ({"PGVIGIL_LOG_FORMAT": "xml"}, "PGVIGIL_LOG_FORMAT: Input should be 'console' or 'json'"),
        ({"PGVIGIL_COMPATIBILITY_NAMES": "perhaps"}, "PGVIGIL_COMPATIBILITY_NAMES: Input should be true or false"),
        ({"PGVIGIL_MAX_CONNECTIONS_PER_TARGET": "2"}, "PGVIGIL_MAX_CONNECTIONS_PER_TARGET: Input should be greater"),
        (
            {"PGVIGIL_COLLECTORS": '{"table_vacuum": {"limt": 1}}'},
            "PGVIGIL_COLLECTORS: table_vacuum.limt: no such key",
        ),
        (
            {"PGVIGIL_COLLECTORS": '{"table_vacuum": {"limt": 1}}'},
            "PGVIGIL_COLLECTORS: table_vacuum.limt: no such key; did you mean limit?",
        ),
        ({"PGVIGIL_COLLECTORS": "table_vacuum"}, "PGVIGIL_COLLECTORS: expected JSON: Expecting value: line 1 column 1"),
        (
            {"PGVIGIL_TARGETS": '[{"name": "a"'},
            "PGVIGIL_TARGETS: expected JSON: Expecting ',' delimiter: line 1 column 14",
        ),
        ({"PGVIGIL_PAGES_FROM": "x"}, "PGVIGIL_PAGES_FROM: 0: 'x' is no network: write it as 10.0.0.0/8"),
        ({"PGVIGIL_DSN": "host=h", "PGVIGIL_DSN_FILE": "/x"}, "PGVIGIL_DSN and PGVIGIL_DSN_FILE: give one of them"),
    ],
)
def test_a_wrong_variable_is_named_with_the_remedy(
    environ: pytest.MonkeyPatch, variables: Mapping[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(environ, variables)
    assert str(caught.value).startswith(message)


def test_an_empty_variable_is_as_one_that_is_not_there(environ: pytest.MonkeyPatch) -> None:
    names = (name for name in Settings.model_fields if name != "dsn")
    empty = {f"PGVIGIL_{name.upper()}": "" for name in (*names, "config")}
    assert loaded(environ, {**empty, "PGVIGIL_DSN": "host=h"}) == loaded(environ, {"PGVIGIL_DSN": "host=h"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listne: x\n", "listne: no such key"),
        ("PGVIGIL_STATE_DIR: x\n", "PGVIGIL_STATE_DIR: no such key; did you mean state_dir?"),
        ("state_dir: ''\n", "state_dir: is empty. Name a path, or leave it out"),
        ("targets: [{name: a, password_file: ' '}]\n", "targets.0.password_file: is empty. Name a path"),
        (
            f"targets: [{{name: a, labels: {{team: {'x' * 1001}}}}}]\n",
            "targets.0.labels.team: is longer than 1000 characters. Shorten it",
        ),
        ("listen: x\nlisten: y\n", "line 2: key 'listen' is written twice"),
        ("listen: [\n", "line 2: "),
        ("- listen\n", "expected a mapping of settings"),
        ("1: listen\n", "expected a mapping of settings"),
        ("targets: [{name: a}, {name: a}]\n", "targets: two are called a. Give each a name of its own"),
        ("targets: [{name: a/b}]\n", "targets.0.name: 'a/b' is no name of a server"),
        ("targets: [{name: a}]\ndsn: host=h\n", "targets and dsn: give one of them"),
        ("targets: []\ndsn: host=h\n", "targets and dsn: give one of them"),
        ("targets: [{name: a, dns: x}]\n", "targets.0.dns: no such key"),
        ("listne: x\n", "listne: no such key; did you mean listen?"),
        (
            "targets: [{name: a, dsn_fiel: x}]\n",
            "targets.0.dsn_fiel: no such key; did you mean dsn_file?",
        ),
    ],
)
def test_a_wrong_file_is_named_with_place_and_reason(
    environ: pytest.MonkeyPatch, text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "pgvigil.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        loaded(environ, {}, file)
    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("text", "names"), [("", [""]), ("targets: []", []), ("targets: [{name: a}, {name: b}]", ["a", "b"])]
)
def test_no_targets_are_one_without_a_name_unless_the_list_is_empty(
    environ: pytest.MonkeyPatch, text: str, names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "pgvigil.yaml").write_text(text)
    assert [name for name, _ in loaded(environ, {}, tmp_path / "pgvigil.yaml").servers] == names


def test_of_two_that_contradict_each_other_it_is_said_where_each_was_written(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pgvigil.yml").write_text("targets: []")
    with pytest.raises(SettingsError) as caught:
        loaded(environ, {"PGVIGIL_DSN": "host=h"}, tmp_path / "pgvigil.yml")
    assert str(caught.value) == f"{tmp_path}/pgvigil.yml: targets and PGVIGIL_DSN: give one of them"


def test_a_file_that_is_not_there_is_named(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot be read"):
        loaded(environ, {}, tmp_path / "nowhere.yaml")


def test_a_secret_is_not_shown(environ: pytest.MonkeyPatch) -> None:
    settings = loaded(environ, {"PGVIGIL_DSN": "postgresql://u:s3cret@h/d"})
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_a_secret_in_a_wrong_setting_is_not_shown(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pgvigil.yaml"
    file.write_text("dsn: {password: s3cret}\n")
    with pytest.raises(SettingsError) as caught:
        loaded(environ, {}, file)
    assert "s3cret" not in str(caught.value)


def test_collectors_are_changed_as_the_settings_say(environ: pytest.MonkeyPatch) -> None:
    variables = {"PGVIGIL_COLLECTORS": '{"table_vacuum": {"limit": 0, "cache": 7}}', "PGVIGIL_DISABLE": "locks"}
    found = loaded(environ, variables).applied_to(catalog())
    assert (named(found, "table_vacuum").limit, named(found, "table_vacuum").cache) == (None, 7)
    assert (named(found, "table_vacuum").fresh, named(found, "table_access").fresh) == (False, True)
    assert not named(found, "locks").enabled
    assert named(found, "sessions").enabled


@pytest.mark.parametrize(
    "variables", [{"PGVIGIL_DISABLE": "table_vacum"}, {"PGVIGIL_COLLECTORS": '{"table_vacum": {}}'}]
)
def test_a_collector_that_does_not_exist_is_named(environ: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"table_vacum: no such collector; did you mean table_vacuum\?"):
        loaded(environ, variables).applied_to(catalog())


def test_databases_of_a_collector_are_for_those_that_run_in_each(environ: pytest.MonkeyPatch) -> None:
    for name, text in (("table_vacuum", "shop, blog_*"), ("locks", "shop")):
        variables = {"PGVIGIL_COLLECTORS": json.dumps({name: {"databases": text}})}
        settings = loaded(environ, variables)
        if name == "table_vacuum":
            assert named(settings.applied_to(load(BUILT_IN)), "table_vacuum").databases == ("shop", "blog_*")
        else:
            with pytest.raises(SettingsError, match="collectors: locks: databases: runs once for the whole server"):
                settings.applied_to(load(BUILT_IN))


def test_a_variable_of_postgres_exporter_is_named_with_ours_and_without_its_value() -> None:
    said = leftovers({"DATA_SOURCE_NAME": "postgresql://u:s3cret@h/", "PATH": "/bin", "PG_EXPORTER_METRIC_PREFIX": "x"})
    name, prefix = said
    assert name.startswith(
        "DATA_SOURCE_NAME is a variable of postgres_exporter and has no effect. Set PGVIGIL_DSN; for "
    )
    assert prefix.startswith("PG_EXPORTER_METRIC_PREFIX is a variable of postgres_exporter and has no effect. Rename ")
    assert "s3cret" not in name + prefix


def test_every_variable_of_the_migration_page_is_known() -> None:
    page = (Path(__file__).parents[1] / "exporter" / "MIGRATING.md").read_text("utf-8")
    theirs = page.split("\n## pgSCV")[0]
    named = set(re.findall(r"`((?:DATA_SOURCE|PG_EXPORTER)_[A-Z_]+)`", theirs))
    assert len(named) > 10
    assert [name for name in sorted(named) if not leftovers({name: "x"})] == []
