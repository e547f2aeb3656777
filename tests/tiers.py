"""Decides which tests a run is made of: by default what gives confidence within minutes, with --full all of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import NEWEST

HEAVY = (
    "tests/alerts/test_routing.py",
    "tests/bench/test_run.py",
    "tests/catalog/test_queries_yaml.py::test_names_labels_and_values_are_those_of_the_real_one",
    "tests/collectors/test_pile_ups.py",
    "tests/commands/test_compatibility.py::test_names_labels_and_values_agree_with_the_real_one",
    "tests/dashboards/test_live.py",
    "tests/demo/test_demo.py",
    "tests/faults",
    "tests/helm/test_values.py::test_helm_lints_it_and_kubernetes_takes_it",
    "tests/image/test_image.py",
    "tests/incidents/test_incidents.py",
    "tests/release/test_wheel.py",
    "tests/scrape/test_many_databases.py",
    "tests/scrape/test_target.py::test_a_page_is_bounded_and_says_what_it_left_off",
    "tests/test_prometheus.py",
    "tests/test_servers.py",
    "tests/watch/test_loop.py::test_a_lock_wait_of_8_s_between_two_scrapes_15_s_apart_is_counted_and_recorded",
)
"""Folders, files and tests of --full only: each takes minutes, or programs that few machines have."""

EVERY_MAJOR = ("tests/collectors/test_contract.py",)
"""Tests that run on every major version even by default: the contract between collectors and servers."""

SLOWEST = (
    "tests/web/test_reloads.py",
    "tests/web/test_now.py",
    "tests/alerts/test_rules.py",
    "tests/collectors/test_replication.py",
    "tests/web/test_browser.py",
    "tests/faults/test_fault_connections.py",
    "tests/dashboards/test_live.py",
    "tests/faults/test_fault_locks.py",
    "tests/collectors/test_lock_culprits.py",
    "tests/collectors/test_wraparound.py",
    "tests/collectors/test_tables.py",
    "tests/scrape/test_target.py",
    "tests/faults/test_soak.py",
    "tests/faults/test_fault_network.py",
    "tests/collectors/test_vacuum.py",
    "tests/commands/test_compatibility.py",
    "tests/faults/test_fault_databases.py",
    "tests/commands/test_check.py",
    "tests/image/test_image.py",
    "tests/collectors/test_pile_ups.py",
    "tests/incidents/test_incidents.py",
    "tests/web/test_server.py",
    "tests/release/test_wheel.py",
    "tests/connections/test_pgbouncer.py",
    "tests/faults/test_fault_hostile.py",
    "tests/collectors/test_server_settings.py",
    "tests/collectors/test_database_activity.py",
    "tests/web/test_clients.py",
    "tests/faults/test_fault_server.py",
    "tests/collectors/test_wal_and_io.py",
    "tests/alerts/test_routing.py",
    "tests/collectors/test_top_statements.py",
    "tests/faults/test_fault_logins.py",
    "tests/collectors/test_indexes.py",
    "tests/connections/test_poolers.py",
    "tests/faults/test_fault_scrapers.py",
)
"""Files that start first, the slowest before the others: one that starts last leaves the other cores idle."""


def examples(number: int) -> int:
    """Return how many examples of a property are tried: by default a fifth of those of --full."""
    return number if _is_full else number // 5


_is_full = False


def begin(*, full: bool) -> None:
    """Note the tier before tests are collected."""
    global _is_full  # decorators of tests ask for it
    _is_full = full


@dataclass(frozen=True)
class Asked:
    """What the command line asks for: a tier, a server, and the places it names below `tests`."""

    full: bool = False
    major: str | None = None
    places: tuple[str, ...] = ()

    @classmethod
    def by(cls, config: pytest.Config) -> "Asked":
        """Read the command line."""
        split = [argument.partition("::") for argument in config.args]
        paths = [((config.invocation_params.dir / path).resolve(), separator + name) for path, separator, name in split]
        tests = Path(__file__).parent
        places = [path.relative_to(config.rootpath).as_posix() + name for path, name in paths if tests in path.parents]
        return cls(config.option.full, config.option.major, tuple(places))

    def of_full(self, test: "Test") -> bool:
        """Return whether --full would run a test: all but those on other servers than the one asked for."""
        return self.major is None or self.major == str(test.major or "none")

    def runs(self, test: "Test") -> bool:
        """Return whether the run has a test.

        Without --full a heavy test runs if its folder, file or function is named, one on an older server if its id is.
        """
        if self.full or test.nodeid in self.places or not self.of_full(test):
            return self.of_full(test)
        is_light = not (test.heavy or test.is_in(HEAVY)) or test.is_in(self.places)
        is_new = self.major is not None or test.major in (None, NEWEST) or test.is_in(EVERY_MAJOR)
        return is_light and is_new


@dataclass(frozen=True)
class Test:
    """A test as far as the tiers know it: its id, the PostgreSQL it is parametrized with, and its mark `full`."""

    __test__ = False

    nodeid: str
    major: int | None = None
    heavy: bool = False

    @classmethod
    def of(cls, item: pytest.Item) -> "Test":
        """Read what pytest collected."""
        parameters: dict[str, int] = getattr(getattr(item, "callspec", None), "params", {})
        return cls(item.nodeid, parameters.get("major"), item.get_closest_marker("full") is not None)

    def is_in(self, places: Iterable[str]) -> bool:
        """Return whether one of these folders, files, or functions has it."""
        return any(re.match(rf"{re.escape(place)}(/|::|\[|$)", self.nodeid) for place in places)

    @property
    def start(self) -> tuple[int, str]:
        """Give tests this order to start the slowest files first, and to finish a file before the next."""
        file = self.nodeid.partition("::")[0]
        return SLOWEST.index(file) if file in SLOWEST else len(SLOWEST), file
