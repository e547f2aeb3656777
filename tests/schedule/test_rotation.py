"""Which database is visited next."""

from clock import Clock

from exporter.schedule.rotation import Rotation

NAMES = [f"d{n:02}" for n in range(40)]


def line(rotation: Rotation, *, early: bool) -> list[str]:
    """Take out all that are in line."""
    found = []
    while name := rotation.next(early=early):
        found.append(name)
    return found


def visit(rotation: Rotation, clock: Clock, names: list[str], seconds: float = 1.0) -> None:
    for name in names:
        clock.advance(seconds)
        rotation.line_up([name], {name}, 15)
        assert rotation.next(early=False) == name


def test_what_was_not_visited_for_longest_comes_first() -> None:
    clock = Clock()
    rotation = Rotation(clock)
    visit(rotation, clock, ["c", "a", "b"])
    rotation.line_up(["a", "b", "c", "new"], {"a", "b", "c", "new"}, 15)
    assert line(rotation, early=False) == ["new", "c", "a", "b"]


def test_until_the_next_scrape_as_many_are_visited_as_keep_the_round_even() -> None:
    """Forty in four minutes, and a little faster, are five in 27 s: what is due first, and of the others the oldest."""
    clock = Clock()
    rotation = Rotation(clock)
    visit(rotation, clock, NAMES)
    for name in NAMES:
        rotation.turn(name).period = 240
    clock.advance(100)
    rotation.line_up(NAMES, {"d39", "d38"}, 27)
    assert line(rotation, early=False) == ["d38", "d39"]
    assert line(rotation, early=True) == ["d00", "d01", "d02"]


def test_nothing_is_visited_early_that_was_visited_of_late() -> None:
    clock = Clock()
    rotation = Rotation(clock)
    visit(rotation, clock, NAMES, seconds=0.0)
    for name in NAMES:
        rotation.turn(name).period = 240
    clock.advance(35)
    rotation.line_up(NAMES, set(), 54)
    assert line(rotation, early=True) == []
    clock.advance(1)
    rotation.line_up(NAMES, set(), 54)
    assert line(rotation, early=True) == NAMES[:10]


def test_a_few_databases_are_visited_when_they_are_due_and_not_before() -> None:
    clock = Clock()
    rotation = Rotation(clock)
    visit(rotation, clock, ["a", "b", "c"])
    clock.advance(50)
    rotation.line_up(["a", "b", "c"], set(), 15)
    assert line(rotation, early=True) == line(rotation, early=False) == []


def test_a_login_costs_what_the_middle_one_of_the_last_three_cost() -> None:
    rotation = Rotation()
    for seconds in (9.0, 0.1, 0.3, 0.2):
        rotation.record_login("a", seconds)
    assert (rotation.turn("a").cost, rotation.login_seconds) == (0.2, 9.6)


def test_what_is_gone_is_forgotten() -> None:
    rotation = Rotation()
    rotation.record_login("gone", 1.0)
    rotation.record_login("here", 2.0)
    assert rotation.visits == 2
    rotation.forget_all_but({"here"})
    assert (rotation.turn("gone").cost, rotation.turn("here").cost) == (0.0, 2.0)
