"""The command line: its configuration file, and what it says of another exporter's variables."""

import json
from pathlib import Path

import pytest
from pages import MONITOR
from serving import run

from exporter.demo.cluster import Cluster


@pytest.mark.parametrize("before", [True, False])
def test_a_configuration_file_may_stand_before_or_after_the_command(
    before: bool, server18: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "pgvigil.yml"
    config.write_text(json.dumps({"targets": [{"name": "shop", "dsn": server18.dsn(user=MONITOR)}]}))
    option = ["--config", str(config)]
    for command in (["scrape", "--target", "shop"], ["check"], ["grants"]):
        done = run(*option, *command) if before else run(*command, *option)
        assert done.returncode == 0, done.stderr
    wrong = ["--config", str(tmp_path / "nowhere.yml")]
    assert run(*wrong, "check", *option).returncode == 0, "the one after the command wins"
    assert "nowhere.yml: cannot be read" in run("serve", *wrong).stderr


@pytest.mark.parametrize("command", ["serve", "scrape", "check", "grants"])
def test_the_help_of_a_command_names_the_configuration_file(command: str) -> None:
    assert "--config" in run(command, "--help").stdout


def test_no_target_is_nothing_to_check() -> None:
    done = run("check", targets="[]")
    assert (done.returncode, done.stdout) == (0, "No server is named, so there is nothing to check.\n")


def test_a_variable_of_postgres_exporter_is_noticed(server18: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_SOURCE_NAME", "postgresql://u:s3cret@h/")
    for command in ("scrape", "check"):
        done = run(command, dsn=server18.dsn(user=MONITOR))
        assert "DATA_SOURCE_NAME is a variable of postgres_exporter and has no effect. Set PGVIGIL_DSN" in done.stderr
        assert "s3cret" not in done.stderr
