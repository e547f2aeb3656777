"""CONTRIBUTING.md tells the truth: what it says to write works as it stands there."""

import ast
import re
from pathlib import Path

from pages import MONITOR, catalog, read
from serving import serving

from exporter.catalog.load import load
from exporter.demo.cluster import Cluster

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")


def block(language: str) -> str:
    """The only block of that language."""
    [found] = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_its_collector_gives_what_its_test_asks_for(server18: Cluster, tmp_path: Path) -> None:
    (tmp_path / "event_triggers.yaml").write_text(block("yaml"))
    [collector] = load(tmp_path).collectors
    tried = collector.name in {each.name for each in catalog()}  # by whom reads it just now
    settings = {} if tried else {"collectors_dir": str(tmp_path)}
    server18.execute(
        "CREATE FUNCTION nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER watched ON ddl_command_end EXECUTE FUNCTION nothing()"
    )
    try:
        with serving(dsn=server18.dsn(user=MONITOR), **settings) as running:
            found = read(running.get().text)
    finally:
        server18.execute("DROP EVENT TRIGGER watched; DROP FUNCTION nothing()")
    [metric] = collector.metrics
    assert found.value(metric.name, datname="postgres", evtname="watched") == 1
    assert metric.name in block("python")


def test_its_test_is_python_and_the_files_it_names_are_there() -> None:
    ast.parse(block("python"))
    named = set(re.findall(r"(?:tests|exporter|\.ci|\.github)/[\w./]+", TEXT))
    new = {"exporter/collectors/event_triggers.yaml", "tests/collectors/test_event_triggers.py"}
    assert {name for name in named if not (REPOSITORY / name.rstrip(".")).exists()} <= new <= named
