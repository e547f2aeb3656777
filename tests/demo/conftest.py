"""What tests of the demo share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that the server's user can reach too."""
    with tempfile.TemporaryDirectory(prefix="demo-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
