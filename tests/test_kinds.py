"""The kinds of target: all that is said of one, is said of each."""

from typing import get_args

from exporter.kinds import PREFIXES, PRODUCTS, Kind


def test_each_kind_has_a_product_and_a_prefix() -> None:
    assert [*PRODUCTS] == [*PREFIXES] == [*get_args(Kind)]
