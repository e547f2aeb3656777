"""Which databases are looked into: patterns alone, and on a real server."""

from collections.abc import Iterator

import pytest
from pages import MONITOR, page

from exporter.demo.cluster import Cluster
from exporter.planning.database_filter import DatabaseFilter

NAMES = ("postgres", "shop_1", "shop_2", "Shop_3", "blog", "a.b")


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), NAMES),
        (("shop_*",), (), ("shop_1", "shop_2")),
        (("*hop_[13]",), (), ("shop_1", "Shop_3")),
        (("blog", "a.b"), (), ("blog", "a.b")),
        ((), ("shop_?", "postgres"), ("Shop_3", "blog", "a.b")),
        (("*_*",), ("*_2",), ("shop_1", "Shop_3")),
        (("a?b", "[!a-z]*"), (), ("Shop_3", "a.b")),
    ],
)
def test_patterns_are_those_of_the_shell(
    include: tuple[str, ...], exclude: tuple[str, ...], taken: tuple[str, ...]
) -> None:
    choice = DatabaseFilter(include, exclude)
    assert tuple(name for name in NAMES if choice.accepts(name)) == taken


def test_patterns_that_match_nothing_are_told() -> None:
    assert DatabaseFilter(("shop_*", "shop"), ("SHOP*",)).unmatched(NAMES) == ("shop", "SHOP*")


@pytest.fixture
def shops(server: Cluster) -> Iterator[Cluster]:
    """The shared server with three more databases."""
    names = ("shop_1", "shop_2", "blog")
    for name in names:
        server.execute(f"CREATE DATABASE {name}")
        server.execute("CREATE TABLE t ()", name)
    yield server
    for name in names:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_what_is_kept_in_each_database_comes_from_those_that_were_chosen(shops: Cluster) -> None:
    """Also where the DSN's is not among them; what counts for the whole server is all there."""
    found = page(shops.dsn(user=MONITOR), databases=DatabaseFilter(("*",), ("blog", "postgres")))
    assert {had["datname"] for had, _ in found.series("pg_table_live_tuples")} == {"shop_1", "shop_2"}
    assert {had["datname"] for had, _ in found.series("pg_database_xid_age")} >= {"postgres", "blog", "shop_1"}
    assert found.series("pg_statements_calls_total") != []
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
    per_database = {had["datname"] for had, _ in found.series("pgvigil_collector_success")}
    assert per_database == {"", "shop_1", "shop_2"}


def test_a_choice_of_none_is_no_error(shops: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    found = page(shops.dsn(user=MONITOR), databases=DatabaseFilter(("nobody_*",)))
    assert found.value("pg_up") == 1
    assert found.series("pg_table_live_tuples") == []
    assert {value for _, value in found.series("pgvigil_collector_success")} == {1}
    assert caplog.messages.count("no database matches nobody_*") == 1
