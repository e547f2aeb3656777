"""The benchmark runs from beginning to end."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bench.exporters import PROGRAM
from bench.run import main


def test_exporters_and_a_peer_are_compared_while_locks_are_held(
    tool: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tool(PROGRAM, f"apt-get install {PROGRAM}")
    report = tmp_path / "report.md"
    short = ("--only=locks_10", "--major=18", "--repeats=1", "--scrapes=2", "--interval=1")
    peer = f"twin=env DATA_SOURCE_NAME={{dsn}} {theirs} --web.listen-address={{address}}"
    main([*short, f"--postgres-exporter={theirs}", f"--peer={peer}", f"--markdown={report}"])
    text = report.read_text()
    assert text in capsys.readouterr().out
    lines = text.partition("### Of one scrape")[2].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| 10 locks")][:4]
    assert [row[1] for row in rows] == ["pgvigil, as shipped", "pgvigil, equal freshness", "postgres_exporter", "twin"]
    for _, exporter, series, _, *figures in rows:
        assert int(series.split(" ")[0].replace(",", "")) > 200, exporter
        page, _, cpu, server, backends, rss = (float(each.replace(",", "")) for each in figures[:6])
        assert min(page, cpu, server, backends, rss) > 0, exporter
        assert 1 <= int(figures[8]) <= 5, exporter
