"""The file that a restart finds: what was written is read, whatever happened to the file between."""

import os
import random
import shutil
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from exporter.errors import StateError
from exporter.history.file import MOST_OF_SPAN, HistoryFile
from exporter.history.minute import MOST_ACTIVITIES, Minute, Span, Use, largest, used
from exporter.history.state_folder import StateFolder
from exporter.watch.active_sessions import Activity
from exporter.watch.statement_matching import OTHER, Statement

DEALS: Statement = ("shop", "web", "42")
DEALS_TEXT = "SELECT * FROM deals WHERE id = $1"


def minute(at: int = 600, seconds: float = 30.0, **gauges: float) -> Minute:
    sessions = {
        Activity(DEALS, "checkout", "Lock", "transactionid"): seconds,
        Activity(OTHER, "", "CPU", ""): 1.5,
    }
    return Minute(at, sessions, {DEALS: Use(10, 2.5, 7)}, gauges, {DEALS: DEALS_TEXT})


def incident(name: str, seen: float, text: str = "") -> dict[str, object]:
    return {"id": name, "seen": seen, "summary": text}


def known(file: HistoryFile, since: float = 0, until: float = 1e9) -> Span:
    """What is known of a span."""
    [found] = file.spans([(since, until)])
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "main.sqlite"


def test_what_was_written_is_read_by_another_process(path: Path) -> None:
    size = HistoryFile(path).write(minute(pg_connections_used=12.0), [incident("a", 610.0, "one waits")])
    assert known(HistoryFile(path), 600, 660) == Span(
        {600: {"Lock": 30.0, "CPU": 1.5}},
        minute().sessions,
        {DEALS: Use(10, 2.5, 7)},
        {DEALS: DEALS_TEXT},
        {"pg_connections_used": {600: 12.0}},
    )
    assert HistoryFile(path).incidents() == [incident("a", 610.0, "one waits")]
    assert size == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in path.parent.iterdir()) == ["main.sqlite"]


def test_a_span_begins_with_its_first_minute_and_ends_before_its_last(path: Path) -> None:
    file = HistoryFile(path)
    for at in (1200, 600, 660, 540):
        file.write(minute(at))
    assert [*known(file, 600, 1200).waits] == [600, 660]


def test_two_parts_of_a_minute_are_added_up(path: Path) -> None:
    file = HistoryFile(path)
    file.write(minute(seconds=30.0))
    file.write(minute(seconds=5.0))
    found = known(file)
    assert found.waits == {600: {"Lock": 35.0, "CPU": 3.0}}
    assert found.sessions[Activity(DEALS, "checkout", "Lock", "transactionid")] == 35.0
    assert found.statements == {DEALS: Use(20, 5.0, 14)}


def test_a_text_that_becomes_known_is_kept(path: Path) -> None:
    file = HistoryFile(path)
    unknown = minute()
    file.write(Minute(600, unknown.sessions, unknown.statements))
    file.write(minute(660))
    file.write(Minute(720, unknown.sessions, unknown.statements))
    assert known(file).texts == {DEALS: DEALS_TEXT}


def test_an_incident_is_replaced_by_its_later_state(path: Path) -> None:
    file = HistoryFile(path)
    file.write(None, [incident("a", 10.0), incident("b", 5.0)])
    file.write(None, [incident("a", 20.0, "over")])
    assert file.incidents() == [incident("b", 5.0), incident("a", 20.0, "over")]


def test_a_quiet_minute_is_known_too(path: Path) -> None:
    file = HistoryFile(path)
    file.write(Minute(600))
    assert known(file) == Span({600: {}})


def test_spans_are_read_together_and_bounded(path: Path) -> None:
    file = HistoryFile(path)
    for at in (600, 660):
        file.write(Minute(at, {Activity(DEALS, f"app {n}", "CPU", ""): float(n) for n in range(1500)}))
    [both, one] = file.spans([(600, 720), (660, 720)])
    assert len(both.sessions) == MOST_OF_SPAN
    assert both.sessions[Activity(DEALS, "app 1499", "CPU", "")] == 2998.0
    assert min(both.sessions.values()) == 1000.0  # the largest are kept
    assert one.waits == {660: {"CPU": sum(range(1500))}}


def test_the_old_is_dropped_with_all_that_belongs_to_it(path: Path) -> None:
    file = HistoryFile(path)
    file.write(minute(600, pg_connections_used=1.0), [incident("old", 610.0)])
    new = Minute(1200, {Activity(("shop", "batch", "7"), "cron", "IO", "DataFileRead"): 3.0})
    file.write(new, [incident("new", 1210.0)])
    file.drop(oldest=1200)
    assert known(file) == Span({1200: {"IO": 3.0}}, new.sessions)
    assert [each["id"] for each in file.incidents()] == ["new"]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT queryid FROM statement").fetchall() == [("7",)]
        assert database.execute("SELECT application FROM kind").fetchall() == [("cron",)]


def test_a_file_that_fills_up_loses_its_oldest_part_and_goes_on(path: Path) -> None:
    most = 400_000
    file = HistoryFile(path, most_bytes=most)
    at, refused = 0, 0
    for at in range(0, 60 * 600, 60):
        sessions = {Activity(DEALS, f"app {number}", "CPU", ""): 1.0 for number in range(100)}
        try:
            file.write(Minute(at, sessions))
        except sqlite3.OperationalError:
            refused += 1
            file.drop(oldest=0)
    assert path.stat().st_size <= most
    left = [*known(file).waits]
    assert left[-1] == at
    assert left[0] > 0
    assert refused < 60
    assert len(left) > 60


def test_a_file_that_was_truncated_anywhere_is_begun_again_or_read(tmp_path: Path) -> None:
    """As a full disk or a crash of the machine may leave it."""
    whole = tmp_path / "whole.sqlite"
    file = HistoryFile(whole)
    for at in range(0, 60 * 60, 60):
        sessions = {Activity(DEALS, f"app {number}", "CPU", ""): 1.0 for number in range(20)}
        file.write(Minute(at, sessions, {DEALS: Use(1, 1, 1)}), [incident(f"{at}", at, "x" * 500)])
    size, chance, begun_again = whole.stat().st_size, random.Random(1), 0
    for number in range(100):
        path = tmp_path / f"{number}.sqlite"
        shutil.copy(whole, path)
        with path.open("r+b") as cut:
            cut.truncate(chance.randrange(size))
        after = HistoryFile(path)
        before = len(after.incidents())
        after.write(minute(6000), [incident("new", 6000.0)])
        assert [*known(after, 6000, 6060).waits] == [6000]
        assert after.incidents()[-1]["id"] == "new"
        assert len(after.incidents()) == before + 1
        assert before in (0, 60)
        begun_again += after.was_damaged
        assert path.with_name(f"{number}.sqlite.damaged").exists() == after.was_damaged
    assert begun_again > 80


@pytest.mark.parametrize("content", [b"", b"no database at all " * 300, b"\x00" * 8192])
def test_whatever_else_is_there_costs_the_history_only(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    file = HistoryFile(path)
    file.write(minute())
    assert [*known(file).waits] == [600]
    assert file.was_damaged == bool(content)


def test_a_file_of_another_version_is_kept_aside(path: Path) -> None:
    HistoryFile(path).write(minute())
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    file = HistoryFile(path)
    assert known(file) == Span()
    assert file.was_damaged


def test_a_file_damaged_while_it_is_in_use_is_begun_again(path: Path) -> None:
    file = HistoryFile(path)
    file.write(minute())
    path.write_bytes(b"\xff" * 20_000)
    file.write(minute())
    assert [*known(file).waits] == [600]


def test_a_file_that_is_deleted_while_it_is_in_use_is_begun_again(path: Path) -> None:
    file = HistoryFile(path)
    file.write(minute())
    path.unlink()
    file.write(minute(660))
    assert [*known(file).waits] == [660]
    path.write_bytes(b"")
    file.write(minute(720))
    assert [*known(file).waits] == [720]


def test_a_place_where_no_file_can_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        HistoryFile(tmp_path / "not there" / "main.sqlite").write(minute())


def test_two_exporters_do_not_share_a_folder(tmp_path: Path) -> None:
    first, second = StateFolder(tmp_path / "state"), StateFolder(tmp_path / "state")
    assert first.file("", "[::1]:5432") == tmp_path / "state" / "%5B%3A%3A1%5D%3A5432.pgvigil.sqlite"
    assert first.file("db-1", "10.0.0.1:5432").name == "db-1.pgvigil.sqlite"
    with pytest.raises(StateError, match="in use by another pgvigil"):
        second.file("", "[::1]:5432")
    first.close()
    assert second.file("", "x:1").parent == tmp_path / "state"
    second.close()


@pytest.mark.parametrize("asked_for", [True, False])
def test_all_targets_may_ask_for_their_files_at_once(tmp_path: Path, *, asked_for: bool) -> None:
    """Each does so in a thread of its own, and a second lock of the same process would be refused."""
    folder = StateFolder(tmp_path / "state" if asked_for else None)
    start = Barrier(20)

    def ask(number: int) -> Path:
        start.wait()
        return folder.file(f"db-{number}", "x:1")

    with ThreadPoolExecutor(20) as threads:
        found = [*threads.map(ask, range(20))]
    assert len({path.parent for path in found}) == 1
    folder.close()


def test_what_is_left_of_targets_that_have_gone_is_removed_once_it_is_too_old(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    gone, lately, here = (folder.file(name, "x:1") for name in ("gone", "lately", "here"))
    theirs = here.with_name("grafana.sqlite")
    for path in (gone, lately, here, theirs, *(gone.with_name(gone.name + tail) for tail in ("-wal", "-shm"))):
        path.write_text("")
        if path != lately:
            os.utime(path, (time.time() - 3700,) * 2)
    folder.remove_old(3600, [here])
    kept = {path.name for path in (lately, here, theirs)}
    assert {each.name for each in here.parent.iterdir()} == {*kept, "pgvigil.lock"}
    folder.close()


def test_a_temporary_folder_ends_with_its_process() -> None:
    folder = StateFolder(None)
    path = folder.file("main", "x:1")
    HistoryFile(path).write(minute())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    folder.close()
    assert not path.parent.exists()


def test_the_smallest_activities_are_added_up_and_the_sum_stays() -> None:
    sessions = {Activity(DEALS, f"app {n}", ("CPU", "Lock")[n % 2], ""): float(n) for n in range(1, 301)}
    kept = largest(sessions)
    assert len(kept) == MOST_ACTIVITIES + 2
    assert sum(kept.values()) == sum(sessions.values())
    assert kept[Activity(OTHER, "other", "Lock", "")] == sum(n for n in range(1, 101) if n % 2)
    assert kept[Activity(DEALS, "app 300", "CPU", "")] == 300.0


def test_the_work_of_a_minute_is_the_growth_of_the_counters() -> None:
    before = {"a": Use(10, 1.0, 5), "reset": Use(100, 50.0, 9), "idle": Use(3, 3.0, 3)}
    now = {"a": Use(14, 1.5, 5), "reset": Use(2, 0.25, 1), "idle": Use(3, 3.0, 3), "new": Use(1000, 99.0, 9)}
    assert used(now, before) == {"new": Use(1000, 99.0, 9), "a": Use(4, 0.5, 0), "reset": Use(2, 0.25, 1)}


def test_the_folder_of_a_process_that_was_killed_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    living = StateFolder(None)
    kept = living.file("main", "").parent
    orphan = tmp_path / "pgvigil-history-killed"
    orphan.mkdir()
    (orphan / "pgvigil.lock").touch()
    (orphan / "main.sqlite").write_bytes(b"old")
    foreign = tmp_path / "pgvigil-history-of-something-else"
    foreign.mkdir()
    found = StateFolder(None)
    place = found.file("main", "").parent
    assert {each.name for each in tmp_path.iterdir()} == {kept.name, place.name, foreign.name}
    found.close()
    living.close()
    assert [each.name for each in tmp_path.iterdir()] == [foreign.name]
