"""How often jobs may run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.schedule.cost_budget import LONGEST_INTERVAL_SECONDS, Need, intervals, longest, parts

SECONDS = st.floats(0, 10)


def test_nothing_is_held_back_within_the_budget() -> None:
    assert intervals({"a": Need(0.1, 15), "b": Need(0.01, 15)}, 0.01) == {}


def test_the_expensive_one_is_held_back_and_the_cheap_one_is_not() -> None:
    assert intervals({"dear": Need(0.9, 15), "cheap": Need(0.001, 15)}, 0.01) == {
        "dear": pytest.approx(0.9 / (0.01 - 0.001 / 15))
    }


def test_there_is_always_a_next_run_and_what_is_seldom_is_never_more_seldom() -> None:
    needs = {"each minute": Need(1.0, 60), "each five minutes": Need(1.0, 300)}
    assert intervals(needs, 0.0) == {"each minute": LONGEST_INTERVAL_SECONDS}


@given(st.dictionaries(st.integers(0, 9), st.tuples(SECONDS, st.floats(1, 60)), min_size=1), st.floats(0.001, 1))
def test_together_they_keep_within_the_budget(jobs: dict[int, tuple[float, float]], share: float) -> None:
    needs = {key: Need(*job) for key, job in jobs.items()}
    paced = intervals(needs, share)
    spent = {key: need.cost / paced.get(key, need.period) for key, need in needs.items()}
    at_the_limit = any(seconds == longest(needs[key].period) for key, seconds in paced.items())
    assert sum(spent.values()) <= share * 1.0001 or at_the_limit
    assert all(seconds >= needs[key].period * 0.9999 for key, seconds in paced.items())


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(0, 0, (1, 1)), (0.3, 5, (0.5, 0.7)), (5, 0.3, (0.7, 0.5)), (5, 5, (0.5, 0.5)), (0.4, 0.3, (0.7, 0.6))],
)
def test_who_needs_less_than_half_leaves_the_rest_to_the_other(
    left: float, right: float, expected: tuple[float, float]
) -> None:
    assert parts([Need(left, 1)], [Need(right, 1)], 1) == pytest.approx(expected)
