"""Every expression is one that Prometheus 2.42 and 3 understand, with every value that a variable may have."""

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import promql_parser
import pytest
import yaml
from dashboards.boards import board, expanded, targets, uids, usual, variables
from prom import PROMTOOL

REGULAR = ".+"


def _expressions(uid: str) -> dict[str, str]:
    """The expressions of a dashboard by their places, those of annotations included."""
    shown = board(uid)
    found = {target.place: target.expr for target in targets(shown)}
    return found | {f"{uid}: {one['name']}": one["expr"] for one in shown["annotations"]["list"]}


def _values(uid: str) -> Mapping[str, str]:
    """What Grafana puts in place of variables, where several values, with characters to escape, are chosen."""
    several = r"(db-1\\.example\\.com:9187|db\\|2)"
    shown = board(uid)
    return usual(shown) | {name: several for name, each in variables(shown).items() if each.get("multi")}


@pytest.mark.parametrize("uid", uids())
def test_a_parser_of_prometheus_3_accepts_the_expression(uid: str) -> None:
    for place, expr in _expressions(uid).items():
        for values in (usual(board(uid)), _values(uid)):
            assert not re.search(r"\$(?!\d)", expanded(expr, values)), place
            promql_parser.parse(expanded(expr, values))


def _checked(promtool: Path, folder: Path, expressions: Mapping[str, str]) -> str:
    """What promtool says of expressions, which it reads from a file of recording rules."""
    rules = [
        {"record": "checked", "expr": expr, "labels": {"place": str(index)}}
        for index, expr in enumerate(expressions.values())
    ]
    file = folder / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}), "utf-8")
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("uid", uids())
def test_promtool_accepts_the_expression(uid: str, tool: Callable[..., Path], tmp_path: Path) -> None:
    places = _expressions(uid).items()
    for values in (usual(board(uid)), _values(uid)):
        assert _checked(tool(*PROMTOOL), tmp_path, {place: expanded(expr, values) for place, expr in places}) == ""


def test_promtool_is_heard_when_it_refuses(tool: Callable[..., Path], tmp_path: Path) -> None:
    assert "unknown function" in _checked(tool(*PROMTOOL), tmp_path, {"a": "up", "b": "info(up)"})
