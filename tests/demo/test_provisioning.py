"""A Grafana that a person has is given all that it needs to show the demo, and a Prometheus to ask."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from demo.test_demo import running
from prom import PROMTOOL

from exporter.demo.provisioning import provision
from exporter.errors import ProvisioningError

FOLDER = Path(__file__).parents[2] / "dashboards"


def _uids(folder: Path) -> set[str]:
    return {json.loads(file.read_text("utf-8"))["uid"] for file in folder.glob("*.json")}


def test_grafana_finds_every_dashboard_where_the_provider_says(tmp_path: Path) -> None:
    provision(tmp_path, "http://localhost:9090", "127.0.0.1:9187")
    [found] = yaml.safe_load((tmp_path / "dashboards" / "pgvigil.yaml").read_text())["providers"]

    assert _uids(Path(found["options"]["path"])) == _uids(FOLDER) != set()
    assert found["type"] == "file"


def test_the_data_source_is_the_prometheus_that_was_asked_for_and_not_the_default(tmp_path: Path) -> None:
    provision(tmp_path, "http://prometheus.example:9090", "127.0.0.1:9187")
    [source] = yaml.safe_load((tmp_path / "datasources" / "pgvigil.yaml").read_text())["datasources"]

    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus.example:9090")
    assert "isDefault" not in source  # a Grafana that has a default already would not start


def test_prometheus_accepts_its_configuration_with_our_rules(tool: Callable[..., Path], tmp_path: Path) -> None:
    provision(tmp_path, "http://localhost:9090", "[::1]:9187")
    done = subprocess.run(
        [tool(*PROMTOOL), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"SUCCESS: \d+ rules found", done.stdout)) == len(list(Path("alerts/rules").glob("*.yml")))
    assert "[::1]:9187" in (tmp_path / "prometheus.yml").read_text()


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    def all_files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    provision(tmp_path, "http://localhost:9090", "127.0.0.1:9187")
    before = all_files()
    provision(tmp_path, "http://localhost:9090", "127.0.0.1:9187")

    assert all_files() == before


@pytest.mark.parametrize("name", ["prometheus.yml", "dashboards/pgvigil.yaml"])
def test_a_file_of_the_user_is_not_overwritten(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("theirs")
    with pytest.raises(ProvisioningError, match=r"is there already, and not ours; move it, or name another folder$"):
        provision(tmp_path, "http://localhost:9090", "127.0.0.1:9187")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [theirs]
    assert theirs.read_text() == "theirs"


def test_the_demo_writes_the_address_at_which_it_serves_and_says_how_to_go_on(temporary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grafana"
    with running(temporary, "--listen", "127.0.0.1:0", "--grafana-provisioning", str(folder)) as demo:
        place = demo.url.removeprefix("http://").rstrip("/")
        scraped = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
        said = "".join(takewhile(lambda line: "What is wrong just now" not in line, demo.process.stdout or ()))
        demo.process.send_signal(signal.SIGINT)
        demo.rest()

    assert scraped == [{"targets": [place]}]
    assert f"--config.file={folder / 'prometheus.yml'}" in said.replace("\n", "")
    assert f"GF_PATHS_PROVISIONING={folder}" in said.replace("\n", "")
    assert (folder / "dashboards" / "pgvigil.yaml").is_file()  # it stays for the next time


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "exporter", "demo", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--grafana-provisioning", str(tmp_path / "file" / "below")],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert re.fullmatch(r"pgvigil: .*file.*: Not a directory\n", done.stderr), done.stderr
