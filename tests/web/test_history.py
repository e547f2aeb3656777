"""What a restart leaves: the exporter is killed in the middle of an incident, and the next one goes on with it."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from pages import read
from patience import wait_until
from queues import queue, running
from serving import Exporter

from exporter.demo.cluster import Cluster
from exporter.history.file import HistoryFile
from exporter.history.minute import Minute, Use
from exporter.watch.active_sessions import Activity


def incidents(exporter: Exporter, kind: str = "lock_wait") -> list[dict[str, Any]]:
    """The incidents of a kind, the newest first."""
    return [each for each in exporter.get("/incidents?format=json").json() if each["kind"] == kind]


def stored(folder: Path) -> list[dict[str, Any]]:
    """What a process that is killed now leaves."""
    return [each for path in folder.glob("*.sqlite") for each in HistoryFile(path).incidents()]


def test_an_incident_outlives_a_kill_and_goes_on_as_the_same_one(server18: Cluster, tmp_path: Path) -> None:
    with queue(server18, "nightly") as pid:
        with running(server18, state_dir=str(tmp_path)) as exporter:
            wait_until(lambda: stored(tmp_path))
            exporter.process.kill()
        [before] = [each for each in stored(tmp_path) if each["kind"] == "lock_wait"]
        with running(server18, state_dir=str(tmp_path)) as exporter:
            [first] = incidents(exporter)
            assert (first["id"], first["started"], first["ended"]) == (before["id"], before["started"], None)
            assert first["snapshots"] >= len(before["snapshots"])
            wait_until(lambda: f"pid {pid}" in exporter.get("/").text)  # it was found wrong again
            time.sleep(6)
            [still] = incidents(exporter)
            assert (still["id"], still["ended"]) == (before["id"], None)
            assert still["seconds"] > first["seconds"]


def test_the_page_shows_what_the_file_knows(server18: Cluster, tmp_path: Path) -> None:
    deals = ("shop", "web", "42")
    this = int(time.time()) // 60 * 60
    sessions = {Activity(deals, "checkout <b>", "Lock", "transactionid"): 90.0}
    texts = {deals: "SELECT * FROM deals WHERE id = $1"}
    with running(server18, state_dir=str(tmp_path)) as exporter:
        [path] = wait_until(lambda: list(tmp_path.glob("*.sqlite")))
        for number in (2, 3, 10):
            HistoryFile(path).write(Minute(this - 60 * number, sessions, {deals: Use(10, 2.5, 7)}, {}, texts))
        page = wait_until(lambda: shown(exporter, "/"))
        assert page.count('<rect class="wait-lock"') >= 3
        assert "SELECT * FROM deals WHERE id = $1" in page
        assert "checkout &lt;b&gt;" in page
        assert "Lock transactionid" in page
        of_minute = exporter.get(f"/?minute={this - 120}&top=60&by=calls").text
        assert f"Who was active: {time.strftime('%H:%M', time.gmtime(this - 120))} UTC" in of_minute
        assert '<td class="number" data-label="sessions">1.50</td>' in of_minute
        assert '<td class="number" data-label="calls">30</td>' in of_minute
        for odd in ("minute=x", "minute=9" * 30, "top=7&by=<b>"):
            assert "the last hour" in exporter.get(f"/?{odd}").text
        [told] = exporter.get("/api/v1/sessions/history?minutes=5").json()
        ours = [each for each in told["history"]["minutes"] if each["at"] < this - 60]  # it writes its own as well
        assert [(each["at"], each["sessions"]) for each in ours] == [(this - 180, 1.5), (this - 120, 1.5)]
        assert told["history"]["applications"][0]["name"] == "checkout <b>"
        [statement] = [each for each in told["statements"] if each["queryid"] == "42"]
        assert (statement["calls"], statement["query"]) == (20, "SELECT * FROM deals WHERE id = $1")
        assert 0.5 <= statement["change"] <= 1
        metrics = read(exporter.get("/metrics").text)
        assert metrics.value("pgvigil_history_success") == 1
        with closing(sqlite3.connect(path)) as database:
            database.execute("DROP TABLE activity")
            database.commit()
        assert exporter.get("/").status_code == 200


def shown(exporter: Exporter, path: str) -> str:
    """The page once it has a chart; empty until then."""
    text = exporter.get(path).text
    return text if 'class="chart"' in text else ""


def test_without_a_place_for_it_there_is_no_history_and_all_else(server18: Cluster, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with running(server18, state_dir=str(blocked)) as exporter:
        assert read(exporter.get("/metrics").text).value("pg_up") == 1
        wait_until(lambda: "pgvigil_history_success 0" in exporter.get("/metrics").text)
        page = exporter.get("/").text
        assert "The history cannot be read" in page
        exporter.process.terminate()
        _, log = exporter.process.communicate(timeout=30)
    assert log.count("history is not kept") == 1
    assert "File exists" in log
    with running(server18, history_hours="0") as exporter:
        assert "pgvigil_history" not in exporter.get("/metrics").text
        assert "No history is kept." in exporter.get("/").text
