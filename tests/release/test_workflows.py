"""The workflows do what they may, and nothing that others could turn against us."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from release.notes import REPOSITORY
from release.pythons import MINORS
from servers import MAJORS

GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
WRITING = {  # whatever else a job may write is a mistake
    "release.yml": {
        "image": {"attestations", "id-token", "packages"},
        "chart": {"attestations", "id-token", "packages"},
        "pypi": {"attestations", "id-token"},
        "release": {"contents"},
    }
}


def jobs(workflow: Path) -> dict[str, Any]:
    """The jobs of a workflow."""
    found: dict[str, Any] = yaml.safe_load(workflow.read_text("utf-8"))["jobs"]
    return found


def program(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that is among our development dependencies."""
    command = [Path(sys.executable).with_name(name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_zizmor_finds_nothing() -> None:
    done = program("zizmor", "--offline", "--persona=pedantic", "--no-progress", GITHUB)
    assert done.returncode == 0, done.stdout
    assert "No findings to report" in done.stdout


def test_zizmor_would_find_something(tmp_path: Path) -> None:
    text = (GITHUB / "workflows" / "ci.yml").read_text("utf-8")
    loose = re.sub("@[0-9a-f]{40} # v", "@v", text).replace("$MAJOR", "${{ github.head_ref }}")
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    (tmp_path / ".github" / "workflows" / "ci.yml").write_text(loose)
    done = program("zizmor", "--offline", "--no-progress", "--color=never", tmp_path)
    assert done.returncode != 0
    assert {"unpinned-uses", "template-injection"} <= set(re.findall(r"^\w+\[([a-z-]+)\]", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_fits_githubs_schema(workflow: Path) -> None:
    done = program("check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)
    assert done.returncode == 0, done.stdout


def test_dependabots_file_fits_its_schema() -> None:
    done = program("check-jsonschema", "--builtin-schema", "vendor.dependabot", GITHUB / "dependabot.yml")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_permissions_are_given_job_by_job(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text("utf-8"))["permissions"] == {}
    writing = {
        name: {what for what, access in job["permissions"].items() if access == "write"}
        for name, job in jobs(workflow).items()
    }
    assert {name: what for name, what in writing.items() if what} == WRITING.get(workflow.name, {})


def _actions() -> Iterator[str]:
    for workflow in WORKFLOWS:
        yield from re.findall(r"uses: ([^./\s].*)", workflow.read_text("utf-8"))


def test_each_action_is_pinned_to_a_commit_and_the_same_one_everywhere() -> None:
    actions = set(_actions())
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)] == []
    assert len({action.partition("@")[0] for action in actions}) == len(actions)


def test_the_matrix_is_every_python_with_every_postgresql() -> None:
    matrix = jobs(GITHUB / "workflows" / "ci.yml")["tests"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minor}" for minor in MINORS]
    assert matrix["major"] == [*MAJORS, "none"]
