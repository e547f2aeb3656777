"""A statement that begins within a minute is counted from its beginning, and one that was there before is not."""

from exporter.history.minute import Use, used
from exporter.samples.ledger import Ledger

OLD, NEW, SMALL = ("old",), ("new",), ("small",)


def test_the_counters_of_one_that_joins_are_its_work_since_the_look_before() -> None:
    ledger = Ledger(size=1, width=3, rank=1)
    first = ledger.update({OLD: (1000, 500.0, 7), SMALL: (900, 1.0, 0)}, 0.0)
    before = {str(key): Use(*map(float, counts)) for key, counts in first.members.items()}
    assert before == {"('old',)": Use(1000, 500.0, 7)}
    second = ledger.update({OLD: (1000, 500.0, 7), SMALL: (930, 90.0, 0), NEW: (3, 0.5, 0)}, 60.0)
    now = {str(key): Use(*map(float, counts)) for key, counts in second.members.items()}
    assert used(now, before) == {"('small',)": Use(30, 89.0, 0)}, "not what it had done before, as one of the others"
    third = ledger.update({OLD: (1000, 500.0, 7), SMALL: (930, 90.0, 0), NEW: (45, 900.5, 3)}, 120.0)
    last = {str(key): Use(*map(float, counts)) for key, counts in third.members.items()}
    assert used(last, now) == {"('new',)": Use(42, 900.0, 3)}
