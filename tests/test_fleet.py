"""Targets that come and go while somebody asks all of them."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from exporter.assembly import catalog_of
from exporter.connection_settings import TargetSettings
from exporter.errors import SettingsError
from exporter.fleet import MOST_TARGETS, Fleet
from exporter.settings import Settings
from exporter.web.scraper_routes import of_all


def settings(*names: str) -> Settings:
    """Servers by these names, which nobody reaches."""
    return Settings(
        targets=tuple(TargetSettings(name=name, dsn=f"host=127.0.0.1 port=1 user={name}") for name in names)
    )


async def test_what_is_said_stays_with_its_target_while_others_come_and_go() -> None:
    before = settings("a", "b", "c")
    catalog = catalog_of(before)
    fleet = Fleet(before, catalog)
    names = {target: name for name, target in fleet.items()}

    async def ask(target: Any) -> Any:
        fleet.adopt(fleet.prepare(settings("b", "c", "d"), catalog))
        return names[target]

    said: Mapping[str, Any] = await of_all(fleet, ask)
    assert said == {"a": "a", "b": "b", "c": "c"}


async def test_going_through_targets_does_not_end_where_one_has_gone() -> None:
    before = settings("a", "b", "c")
    catalog = catalog_of(before)
    fleet = Fleet(before, catalog)
    through: Iterator[Any] = iter(fleet.values())
    first = next(through)
    change = fleet.adopt(fleet.prepare(settings("a"), catalog))
    assert [first, *through] == [fleet["a"], *change.gone.values()]


def test_more_than_one_process_can_watch_are_refused() -> None:
    before = settings("a")
    catalog = catalog_of(before)
    fleet = Fleet(before, catalog)
    many = settings(*(f"t{number}" for number in range(MOST_TARGETS + 1)))
    with pytest.raises(SettingsError, match="targets: 1001 are named, of which one exporter cannot watch more than"):
        fleet.prepare(many, catalog)
    assert set(fleet) == {"a"}


def test_a_target_whose_settings_are_the_same_stays() -> None:
    before = settings("a", "b")
    catalog = catalog_of(before)
    fleet = Fleet(before, catalog)
    known: Mapping[str, Any] = dict(fleet)
    change = fleet.adopt(fleet.prepare(settings("b", "c"), catalog))
    assert (set(change.gone), set(change.come)) == ({"a"}, {"c"})
    assert fleet["b"] is known["b"]
