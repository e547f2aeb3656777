"""What tests of collectors share."""

from collections.abc import Iterator

import pages
import pytest


@pytest.fixture(autouse=True)
def _looked_at(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the pages of a module have the collectors that it names, as COLLECTORS, and no others."""
    if named := getattr(request.module, "COLLECTORS", None):
        with pages.only(named):
            yield
    else:
        yield
