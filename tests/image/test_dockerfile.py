"""What can be said of the Dockerfile without building it."""

import subprocess
import sys
from pathlib import Path

from image.engine import REPOSITORY


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    """As in the Dockerfile, no rule is switched off where it is called from."""
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && pip install uv\n")
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert {"DL3006", "DL3013", "DL3042"} <= {line.split()[1].strip(":") for line in done.stdout.splitlines()}


def test_the_base_may_be_named_by_digest() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text("utf-8").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("FROM ")] == ["${PYTHON}"] * 2
    assert not (REPOSITORY / ".hadolint.yaml").exists()
