"""A tape says at any moment what the exporter would have said: counters go on, gauges stay or go on as told."""

from incidents.tape import Phase, Recorder, Recording, Tape, openmetrics, read

PAGE = """\
# HELP pg_calls_total Calls.
# TYPE pg_calls_total counter
pg_calls_total{queryid="1"} %s
# TYPE pg_held_bytes gauge
pg_held_bytes %s
# TYPE pg_begun_timestamp_seconds gauge
pg_begun_timestamp_seconds %s
"""
CALLS, HELD, BEGUN = ("pg_calls_total", 'queryid="1"'), ("pg_held_bytes", ""), ("pg_begun_timestamp_seconds", "")


def recording(at: float, *values: float) -> Recording:
    return read(PAGE % values, at)


def tape(*moving: str) -> Tape:
    """Ten seconds at one call a second, then at five; the second state begins with a jump of what is held."""
    quiet = Phase(recording(100, 50, 7, 90), recording(110, 60, 8, 90), 10, frozenset(moving))
    busy = Phase(recording(200, 70, 100, 190), recording(210, 120, 150, 190), 20, frozenset(moving))
    return Tape([quiet, busy], cause=1, cure=2)


def test_counters_go_on_from_one_state_to_the_next() -> None:
    calls = [tape().page(second, 1000 + second, 2)[CALLS] for second in (0, 10, 11, 20)]
    assert calls == [50, 60, 65, 110]


def test_gauges_stay_unless_they_are_told_to_go_on() -> None:
    assert [tape().page(second, 1000, 2)[HELD] for second in (5, 15, 20)] == [8, 150, 150]
    assert [tape("pg_held_bytes").page(second, 1000, 2)[HELD] for second in (5, 15, 20)] == [7.5, 125, 150]


def test_moments_keep_their_distance_to_the_state_they_were_recorded_in() -> None:
    begun = [tape().page(second, 1000 + second, 2)[BEGUN] for second in (0, 10, 15, 20)]
    assert begun == [980, 980, 990, 990]


def test_the_last_state_lasts_as_long_as_one_asks() -> None:
    assert tape().page(10 + 1000, 5000, 2)[CALLS] == 60 + 5 * 1000


def test_the_past_is_what_promtool_reads() -> None:
    lines = list(openmetrics("a:1", "pg", tape(), 1030, [30, 0]))
    assert 'pg_calls_total{queryid="1",job="pg",instance="a:1"} 50.0 1000.000\n' in lines
    assert 'pg_held_bytes{job="pg",instance="a:1"} 150.0 1030.000\n' in lines
    assert 'up{job="pg",instance="a:1"} 1 1030.000\n' in lines


def test_nothing_but_what_is_wanted_is_recorded() -> None:
    recorder = Recorder("postgresql://nobody@example.com/", frozenset({"pg_held_bytes"}))
    assert set(recorder.wanted(recording(1, 2, 3, 4)).values) == {HELD}
