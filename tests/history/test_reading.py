"""Work between two readings of the counters of statements."""

from exporter.history.minute import Use
from exporter.history.reading import Reading

SEARCH = 'datname="shop",usename="web",queryid="42"'
STATEMENT = ("shop", "web", "42")


def reading(calls: float, at: float, server: float = 1.0) -> Reading:
    """Counters of one statement, of a tenth of a second a call."""
    return Reading({SEARCH: Use(calls, calls / 10, 0)}, at, server)


def test_the_work_between_two_readings_is_told_with_its_length() -> None:
    assert reading(100, 0).until(reading(150, 60)) == ({STATEMENT: Use(50, 5, 0)}, 60)


def test_what_cannot_be_told_has_no_work_and_no_length() -> None:
    nothing: tuple[dict[object, Use], float] = ({}, 0.0)
    assert reading(100, 0).until(reading(150, 0.5)) == nothing, "nothing was read meanwhile"
    assert reading(100, 60).until(reading(150, 0)) == nothing, "the clock was set back"
    assert reading(100, 0).until(reading(150, 3660)) == nothing, "the clock was set an hour forward"
    assert reading(5, 0).until(reading(605, 60, server=2.0)) == nothing, "another server was switched to"
