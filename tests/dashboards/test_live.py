"""Every query of every dashboard has data, from real servers by way of a real Prometheus, or is empty for a reason.

This is what `uv run python tests/dashboards/live.py` does, in less time: less of the recorded trouble is remembered.
The shops work for two lock queues, since a busy machine may have no scrape during the first.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from dashboards.boards import uids
from dashboards.live import Look, complaints, quiet, situations
from prom import PROMETHEUS, PROMTOOL

SECONDS = 60.0
MINUTES = 20

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all situations


@pytest.fixture(scope="module")
def looks(tool: Callable[..., Path]) -> Mapping[str, Look]:
    """What came back, by situation."""
    tool(*PROMETHEUS)
    tool(*PROMTOOL)
    return dict(situations(SECONDS, MINUTES))


@pytest.mark.parametrize("uid", uids())
def test_every_query_has_data_or_is_rightly_empty(uid: str, looks: Mapping[str, Look]) -> None:
    assert [told for told in complaints(looks, quiet()) if told.startswith(f"{uid}: ")] == []


def test_every_query_of_every_dashboard_was_asked(looks: Mapping[str, Look]) -> None:
    assert {uid for uid, _, _ in looks["work"].answers} == set(uids())
    assert all(look.answers.keys() == looks["work"].answers.keys() for look in looks.values())


def test_an_empty_panel_is_found(looks: Mapping[str, Look]) -> None:
    """Without the list, what is empty while servers work is complained of."""
    assert any("Disk: A: empty while servers work" in told for told in complaints(looks, []))
