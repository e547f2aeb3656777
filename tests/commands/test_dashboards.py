"""The dashboards with a person's own links in them."""

import json
from pathlib import Path

import pytest
from serving import run

from exporter.commands.dashboards import built_in, dashboard_files
from exporter.commands.rules import RUNBOOKS, Values

DASHBOARD = {
    "uid": "pg-shop",
    "title": "Größe",
    "links": [{"title": "Runbooks", "url": RUNBOOKS}, {"title": "More", "tags": ["postgresql"]}],
    "panels": [
        {
            "id": 1,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "links": [{"url": f"{RUNBOOKS}/PostgreSQLDown.md"}, {"url": "/d/pg-instance?${job:queryparam}"}],
        }
    ],
    "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dashboards = tmp_path / "dashboards"
    dashboards.mkdir()
    (dashboards / "pg-shop.json").write_text(json.dumps(DASHBOARD, indent=2, ensure_ascii=False) + "\n")
    (dashboards / "README.md").write_text("not one\n")
    return dashboards


def with_values(folder: Path, **values: str) -> str:
    """The text of the one dashboard with these values."""
    files = dashboard_files(Values.model_validate(values), folder)
    assert files.keys() == {"pg-shop.json"}
    return files["pg-shop.json"]


def test_without_values_they_are_what_they_are(folder: Path) -> None:
    assert with_values(folder) == (folder / "pg-shop.json").read_text()


def test_links_begin_with_what_one_says(folder: Path) -> None:
    text = with_values(folder, runbookBaseUrl='https://wiki/"pg"/')
    assert json.loads(text) == json.loads(json.dumps(DASHBOARD).replace(RUNBOOKS, r"https://wiki/\"pg\""))


def test_a_link_that_leads_nowhere_is_left_out(folder: Path) -> None:
    changed = json.loads(with_values(folder, runbookBaseUrl=""))
    assert changed["links"] == DASHBOARD["links"][1:]  # type: ignore[index]
    assert changed["panels"][0]["links"] == [{"url": "/d/pg-instance?${job:queryparam}"}]
    assert {key: changed[key] for key in ("uid", "title", "templating")} == {
        key: DASHBOARD[key] for key in ("uid", "title", "templating")
    }


def test_the_command_writes_our_dashboards_byte_by_byte(tmp_path: Path) -> None:
    ours = {file.name: file.read_bytes() for file in built_in().glob("*.json")}
    done = run("dashboards", str(tmp_path / "out"))
    if not ours:
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: {built_in()}: holds no dashboards")
        return
    assert (done.returncode, done.stdout) == (0, f"wrote {len(ours)} files to {tmp_path / 'out'}\n"), done.stderr
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.json")} == ours


def test_the_command_says_what_it_removed(tmp_path: Path) -> None:
    (tmp_path / "former.json").touch()
    (tmp_path / ".pgvigil-dashboards").write_text("former.json\n")
    done = run("dashboards", str(tmp_path))
    assert done.stdout.splitlines()[1:] == ["former.json: no longer shipped; removed"]


def test_a_folder_that_cannot_be_made_and_wrong_values_are_said_in_a_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "my.yml").write_text("runbookBaseURL: x")
    done = run("dashboards", str(tmp_path / "out"), "--values", str(tmp_path / "my.yml"))
    assert (done.returncode, done.stderr.partition(";")[0]) == (1, "pgvigil: my.yml: runbookBaseURL: no such key")
    if list(built_in().glob("*.json")):
        (tmp_path / "file").touch()
        done = run("dashboards", str(tmp_path / "file" / "out"))
        assert (done.returncode, done.stderr) == (
            1,
            f"Error: {tmp_path / 'file' / 'out'}: Not a directory. Choose a folder that can be written.\n",
        )
