"""Counters that add up members of a relation, such as all indexes of a table, and do not fall when one is dropped."""

from dataclasses import replace

from exporter.samples.model import Family, Number, Samples

MOST_SERIES = 10_000
"""The most series of one job that are remembered; those seen last stay."""


class Sums:
    """Remembers what fell off the sums of one job, and adds it to what they are now.

    By what the other members grew between the two looks, the sum is too low from then on. Statistics that are reset
    look like members that are dropped: such a sum goes on from where it was, too.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Number, Number]] = {}

    def keep(self, found: Samples) -> Samples:
        """Return the samples with no sum below what it was the last time."""
        families = tuple(self._kept(family) if family.metric.sum else family for family in found.families)
        for key in list(self._known)[:-MOST_SERIES]:
            del self._known[key]
        return replace(found, families=families)

    def _kept(self, family: Family) -> Family:
        values = [self._value(family.metric.name, *row) for row in zip(family.labels, family.values, strict=True)]
        return replace(family, values=values)

    def _value(self, metric: str, labels: str, now: Number | None) -> Number | None:
        last, lost = self._known.pop((metric, labels), (0, 0))
        if now is not None:
            lost += max(last - now, 0)
        self._known[metric, labels] = last if now is None else now, lost
        return None if now is None else now + lost
