"""What is read again keeps no other target waiting."""

import asyncio
import threading
from pathlib import Path

import pytest

from exporter.assembly import catalog_of
from exporter.configuration import load_settings
from exporter.fleet import Fleet
from exporter.reloads import Reloads


async def test_a_dsn_file_on_a_mount_that_hangs_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood in the way of every page, for good: the file was read on the event loop."""
    monkeypatch.setattr("exporter.reloads._PATIENCE_SECONDS", 0.3)
    is_back = threading.Event()

    def hanging(_: Path, __: str) -> str:
        is_back.wait(60)
        return "host=127.0.0.1 port=1"

    config = tmp_path / "pgvigil.yml"
    config.write_text("targets: [{name: a, dsn: host=127.0.0.1 port=1}]")
    settings = load_settings(config)
    catalog = catalog_of(settings)
    fleet = Fleet(settings, catalog)
    known = fleet["a"]
    reloads = Reloads(fleet, settings, catalog, config)
    monkeypatch.setattr("exporter.connections.postgres.secret_in", hanging)
    config.write_text(f"targets: [{{name: a, dsn: host=127.0.0.1 port=1}}, {{name: b, dsn_file: {tmp_path}/dsn}}]")
    try:
        assert await reloads.reload() == "files of the DSNs: not read within 0.3 s"
        assert dict(fleet) == {"a": known}
        is_back.set()
        while await reloads.reload():
            await asyncio.sleep(0.01)
        assert set(fleet) == {"a", "b"}
        assert fleet["a"] is known
    finally:
        is_back.set()
