"""Sums that do not fall when a member is dropped."""

import pytest

from exporter.catalog.model import Metric
from exporter.samples.model import Family, Number, Samples
from exporter.samples.sums import MOST_SERIES, Sums

METRIC = Metric(name="scans_total", type="counter", help="Scans.", column="scans", sum=True)
PLAIN = METRIC.model_copy(update={"name": "plain_total", "sum": False})


def kept(sums: Sums, value: Number | None, labels: str = 'relname="t"') -> Number | None:
    """What becomes of one value."""
    found = Samples((Family(METRIC, [labels], [value]), Family(PLAIN, [labels], [value])), rows=1)
    first, second = sums.keep(found).families
    assert second.values == [value]
    return first.values[0]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        pytest.param([10, 12, 40], [10, 12, 40], id="one that grows is left as it is"),
        pytest.param([100, 60, 61, 20, 25], [100, 100, 101, 101, 106], id="each member that is dropped stays counted"),
        pytest.param([100, 0, 3], [100, 100, 103], id="a reset looks like members that are dropped"),
        pytest.param([100, None, 40, 50], [100, None, 100, 110], id="a row without a value does not forget"),
    ],
)
def test_a_sum_never_falls(values: list[Number | None], shown: list[Number | None]) -> None:
    sums = Sums()
    assert [kept(sums, value) for value in values] == shown


def test_each_series_has_its_own_and_those_seen_last_are_remembered() -> None:
    sums = Sums()
    kept(sums, 100, "first")
    for number in range(MOST_SERIES):
        kept(sums, 7, f"{number}")
    assert kept(sums, 5, f"{MOST_SERIES - 1}") == 7
    assert kept(sums, 5, "first") == 5
