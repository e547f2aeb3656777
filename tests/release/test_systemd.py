"""The systemd unit, as systemd reads it."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from release.notes import REPOSITORY

UNIT = REPOSITORY / "exporter" / "systemd" / "pgvigil.service"
MOST_EXPOSED = 1.5
"""Of 10; what is left is that it has a network."""


def test_systemd_takes_it(tmp_path: Path, tool: Callable[..., Path]) -> None:
    text = UNIT.read_text("utf-8")
    program = re.search("^ExecStart=(/opt/pgvigil/bin/pgvigil) serve$", text, re.MULTILINE)
    assert program
    (tmp_path / UNIT.name).write_text(text.replace(program[1], "/bin/true"))  # which has to be there to be verified
    command = [str(tool("systemd-analyze", "it comes with systemd")), "verify", "--man=no", str(tmp_path / UNIT.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    about_us = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, about_us) == (0, [])


def test_it_exposes_little(tool: Callable[..., Path]) -> None:
    command = [
        str(tool("systemd-analyze", "it comes with systemd")),
        "security",
        "--offline=true",
        "--no-pager",
        str(UNIT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    level = re.search(r"Overall exposure level for pgvigil.service: ([0-9.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= MOST_EXPOSED
