"""Files of ours in a user's folder: what an earlier run wrote goes, everything else stays."""

import os
from pathlib import Path

import pytest

from exporter.commands.owned_files import write_owned

LEGACY_RULES = "# Written by `pgvigil rules`, which overwrites or removes this file when it runs again.\n"
LEGACY_DASHBOARDS = "# Written by `pgvigil dashboards`, which overwrites or removes these files when it runs again.\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def listed(out: Path, command: str) -> list[str]:
    """What the manifest lists, below its first line."""
    return (out / f".pgvigil-{command}").read_text().splitlines()[1:]


@pytest.mark.parametrize(("command", "suffix"), [("rules", "yml"), ("dashboards", "json")])
def test_what_an_earlier_run_wrote_and_this_one_does_not_is_removed(out: Path, command: str, suffix: str) -> None:
    assert write_owned(command, {f"a.{suffix}": "1", f"b.{suffix}": "2"}, out) == []
    (out / f"mine.{suffix}").write_text("3")
    assert write_owned(command, {f"b.{suffix}": "4", f"c.{suffix}": "5"}, out) == [f"a.{suffix}"]
    assert names(out) == {f"b.{suffix}", f"c.{suffix}", f"mine.{suffix}", f".pgvigil-{command}"}
    assert (out / f"b.{suffix}").read_text().endswith("4")
    assert listed(out, command) == [f"b.{suffix}", f"c.{suffix}"]
    assert write_owned(command, {}, out) == [f"b.{suffix}", f"c.{suffix}"]
    assert names(out) == {f"mine.{suffix}", f".pgvigil-{command}"}


def test_two_commands_in_one_folder_leave_each_others_files(out: Path) -> None:
    write_owned("rules", {"a.yml": "1"}, out)
    write_owned("dashboards", {"a.json": "2"}, out)
    assert write_owned("rules", {}, out) == ["a.yml"]
    assert write_owned("dashboards", {}, out) == ["a.json"]


def test_what_the_first_versions_wrote_is_known(out: Path) -> None:
    """Rules had a first line and no manifest; dashboards had the manifest."""
    out.mkdir()
    (out / "former.yml").write_text(LEGACY_RULES + "groups: []\n")
    (out / "mine.yml").write_text("groups: []\n" + LEGACY_RULES)
    (out / "former.json").write_text("{}")
    (out / ".pgvigil-dashboards").write_text(f"{LEGACY_DASHBOARDS}former.json\nstays.json\n")
    assert write_owned("rules", {"new.yml": "groups: []\n"}, out) == ["former.yml"]
    assert write_owned("dashboards", {"stays.json": "{}"}, out) == ["former.json"]
    assert names(out) == {"mine.yml", "new.yml", "stays.json", ".pgvigil-rules", ".pgvigil-dashboards"}


def test_yaml_says_itself_whose_it_is(out: Path) -> None:
    write_owned("rules", {"a.yml": "groups: []\n"}, out)
    assert (out / "a.yml").read_text() == LEGACY_RULES + "groups: []\n"


@pytest.mark.parametrize("name", ["../other.json", "{folder}/other.json", "sub/other.json", "..", ".", "", ".hidden"])
def test_nothing_outside_the_folder_is_removed(out: Path, name: str) -> None:
    for file in (out.parent / "other.json", out / "sub" / "other.json", out / ".hidden"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (out / ".pgvigil-dashboards").write_text(name.format(folder=out.parent) + "\n")
    before = sorted(out.parent.rglob("*"))
    assert write_owned("dashboards", {}, out) == []
    assert sorted(out.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.json", ".a.json.new", ".pgvigil-dashboards"])
def test_a_link_is_not_followed_out(out: Path, name: str) -> None:
    """Neither where a file is to be written, nor where its new content is prepared, nor the manifest."""
    out.mkdir()
    outside = out.parent / "outside.json"
    outside.write_text("keep.json\n")
    (out / "keep.json").touch()
    (out / name).symlink_to(outside)
    assert write_owned("dashboards", {"a.json": "1"}, out) == []
    assert outside.read_text() == "keep.json\n"
    assert (out / "a.json").read_text() == "1"
    assert names(out) == {"a.json", "keep.json", ".pgvigil-dashboards"}


def test_a_link_that_was_put_in_the_place_of_a_file_stays(out: Path) -> None:
    write_owned("rules", {"a.yml": "1"}, out)
    outside = (out / "a.yml").rename(out.parent / "a.yml")
    (out / "a.yml").symlink_to(outside)
    (out / "folder.yml").mkdir()
    os.mkfifo(out / "pipe.yml")
    assert write_owned("rules", {}, out) == []
    assert outside.exists()
    assert names(out) == {"a.yml", "folder.yml", "pipe.yml", ".pgvigil-rules"}


def test_an_interrupted_run_loses_track_of_nothing(out: Path) -> None:
    """A folder has the name of a file, so that writing ends half-way."""
    write_owned("dashboards", {"a.json": "1"}, out)
    (out / "c.json").mkdir()
    with pytest.raises(OSError, match="directory") as failed:
        write_owned("dashboards", {"b.json": "2", "c.json": "3"}, out)
    assert failed.value.filename == str(out / "c.json")
    assert names(out) == {"a.json", "b.json", "c.json", ".pgvigil-dashboards"}
    assert write_owned("dashboards", {}, out) == ["a.json", "b.json"]


def test_files_can_be_read_by_others(out: Path) -> None:
    """Prometheus and Grafana run as other users."""
    umask = os.umask(0o022)
    try:
        write_owned("dashboards", {"a.json": "1"}, out)
    finally:
        os.umask(umask)
    assert (out / "a.json").stat().st_mode & 0o777 == 0o644
