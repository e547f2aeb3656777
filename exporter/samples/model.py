"""The samples of one job: families of label text and values, column by column. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from exporter.catalog.model import Metric

Number = int | float

PLAIN_NUMBERS = frozenset({int, float, type(None)})
"""The types of values that need no conversion."""


Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Family:
    """The samples of one metric: label text and value side by side; a value of None is no sample.

    The list of label texts is shared by all metrics of a job that have the same labels: a sample costs no object.
    """

    metric: Metric
    labels: Sequence[str]
    values: Sequence[Number | None]


@dataclass(frozen=True)
class Rest:
    """Rows that a limit cut, for one metric: their sum, and the sum of all rows."""

    metric: str
    sum: float
    total: float

    @property
    def ratio(self) -> float:
        """The share, from 0 to 1, that was cut."""
        return self.sum / self.total if self.total else 0.0


@dataclass(frozen=True)
class Samples:
    """Samples of one job."""

    families: tuple[Family, ...] = ()
    rows: int = 0
    truncated_rows: int = 0
    rest: tuple[Rest, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rows left out, by reason: `duplicate` or `malformed`."""
    label_values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Label -> its value in each row, not escaped; of a ledger only, whose rows are also shown to users."""
    unread_rows: int = 0
    """Rows that the query had beyond those that were read: at least so many."""

    @property
    def unread(self) -> int:
        """Samples that the unread rows would have become: at least so many."""
        return self.unread_rows * len(self.families)

    @cached_property
    def size(self) -> int:
        """Number of samples, those without a value included."""
        return sum(len(family.values) for family in self.families)
