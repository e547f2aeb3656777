"""How often jobs may run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.pacing import LONGEST_SECONDS, intervals

SECONDS = st.floats(0, 10)


def test_nothing_is_held_back_within_the_budget() -> None:
    assert intervals({"a": 0.1, "b": 0.01}, {"a": 15, "b": 15}, 0.01) == {}


def test_the_expensive_one_is_held_back_and_the_cheap_one_is_not() -> None:
    assert intervals({"dear": 0.9, "cheap": 0.001}, {"dear": 15, "cheap": 15}, 0.01) == {
        "dear": pytest.approx(0.9 / (0.01 - 0.001 / 15))
    }


def test_there_is_always_a_next_run() -> None:
    assert intervals({"a": 1.0}, {"a": 15}, 0.0) == {"a": LONGEST_SECONDS}


@given(st.dictionaries(st.integers(0, 9), st.tuples(SECONDS, st.floats(1, 60)), min_size=1), st.floats(0.001, 1))
def test_together_they_keep_within_the_budget(jobs: dict[int, tuple[float, float]], share: float) -> None:
    costs = {key: cost for key, (cost, _) in jobs.items()}
    periods = {key: period for key, (_, period) in jobs.items()}
    paced = intervals(costs, periods, share)
    spent = {key: costs[key] / paced.get(key, periods[key]) for key in costs}
    at_the_limit = any(seconds == LONGEST_SECONDS for seconds in paced.values())
    assert sum(spent.values()) <= share * 1.0001 or at_the_limit
    assert all(seconds >= min(periods[key], LONGEST_SECONDS) * 0.9999 for key, seconds in paced.items())
