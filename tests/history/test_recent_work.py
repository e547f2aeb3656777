"""The last five minutes of statements, and the hour before that fades."""

import pytest

from exporter.history.minute import MOST_STATEMENTS, Use
from exporter.history.recent_work import MINUTES, RecentWork, added
from exporter.watch.active_sessions import Activity

SEARCH = ("shop", "web", "42")
REPORT = ("shop", "web", "43")


def test_the_last_minutes_are_added_up_and_those_before_are_apart() -> None:
    recent = RecentWork()
    assert (recent.latest, recent.before) == ((), {})
    for minute in range(1, 8):
        recent.add({SEARCH: Use(calls=10, seconds=minute, blocks=1)}, 59.0, {})
    assert [seconds for _, seconds in recent.latest] == [59] * MINUTES
    assert added(work for work, _ in recent.latest) == {SEARCH: Use(50, 3 + 4 + 5 + 6 + 7, 5)}
    assert recent.before[SEARCH].calls == pytest.approx(10 * 59 / 60 + 10)
    assert recent.before[SEARCH].seconds == pytest.approx(1 * 59 / 60 + 2)


def test_what_no_longer_runs_fades_within_hours_and_is_forgotten_for_others() -> None:
    recent = RecentWork()
    for minute in range(180 + MINUTES):
        recent.add({REPORT: Use(60, 60, 0)} if minute == 0 else {SEARCH: Use(1, 1, 0)}, 60, {})
    assert recent.before[REPORT].seconds == pytest.approx(60 * (59 / 60) ** 179)
    assert recent.before[REPORT].seconds_per_call == pytest.approx(1)
    for number in range(MOST_STATEMENTS + MINUTES):
        recent.add({("shop", "web", f"{100 + number}"): Use(1000, 1, 0)}, 60, {})
    assert len(recent.before) == MOST_STATEMENTS
    assert REPORT not in recent.before


def test_a_statement_has_the_application_that_was_most_active_with_it_lately() -> None:
    def activity(application: str, event: str = "") -> Activity:
        return Activity(SEARCH, application, "CPU", event)

    recent = RecentWork()
    use = {SEARCH: Use(1, 1, 0)}
    recent.add(use, 60, {activity("shop"): 2.0, activity("search"): 9.0, Activity(REPORT, "night", "CPU", ""): 60.0})
    assert recent.applications == {SEARCH: "search"}
    recent.add({}, 60, {activity("shop"): 1.0})
    assert recent.applications == {SEARCH: "shop"}
    for _ in range(MINUTES):
        recent.add({}, 60, {})
    assert recent.applications == {}
