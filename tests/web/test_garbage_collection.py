"""Garbage is collected in small steps, and none stays for ever."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from exporter.web.garbage_collection import GarbageCollection, Pace


class Node:
    """Refers to itself once it has lived."""

    def __init__(self, freight: int = 0) -> None:
        self.me = self
        self.freight = [[number] for number in range(freight)]


@pytest.fixture(autouse=True)
def _by_hand() -> Iterator[None]:
    """No collection but those of the test, which leave nothing frozen."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def begun(**pace: float) -> GarbageCollection:
    made = GarbageCollection(Pace(**{"cpu_seconds": 0, "warm_up_seconds": 0, "bound_seconds": 0} | pace))
    made.begin()
    return made


def test_a_cycle_is_collected() -> None:
    garbage = begun()
    gone = weakref.ref(Node())
    assert gone()
    garbage.step()
    assert gone() is None


def test_a_process_that_does_not_work_collects_nothing() -> None:
    garbage = begun(cpu_seconds=1e6)
    waiting = weakref.ref(Node())
    garbage.step()
    assert waiting()


@pytest.mark.parametrize(("long_seconds", "is_frozen"), [(0.0, True), (1e6, False)])
def test_only_what_a_long_collection_kept_is_not_looked_at_again(long_seconds: float, is_frozen: bool) -> None:
    garbage = begun(long_seconds=long_seconds)
    node = Node()
    garbage.step()
    gone = weakref.ref(node)
    del node
    garbage.step()
    assert bool(gone()) is is_frozen


def test_a_frozen_object_that_nothing_refers_to_is_freed_at_once() -> None:
    garbage = begun(long_seconds=0)
    node = Node()
    garbage.step()
    gone = weakref.ref(node)
    node.me = None  # type: ignore[assignment]
    del node
    assert gone() is None


def test_frozen_cycles_are_collected_when_half_as_much_again_is_frozen() -> None:
    garbage = begun(long_seconds=0)
    garbage.step()
    node = Node(gc.get_freeze_count() // 4)
    garbage.step()
    gone = weakref.ref(node)
    del node
    garbage.step()
    assert gone(), "a quarter more is left alone"
    more = Node(gc.get_freeze_count() // 2)
    garbage.step()
    assert gone() is None
    assert more.freight


def test_growth_until_it_is_warm_is_no_garbage() -> None:
    garbage = begun(long_seconds=0, warm_up_seconds=1e6)
    node = Node()
    garbage.step()
    gone = weakref.ref(node)
    del node
    more = Node(2 * gc.get_freeze_count())
    garbage.step()
    assert gone()
    assert more.freight
