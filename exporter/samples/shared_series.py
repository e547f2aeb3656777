"""Names the series that statements share instead of having one of their own. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.samples.model import Columns

OWN = "pgvigil"
"""Stands for the exporter's own statements in the last label."""

OTHER = "other"
"""Stands for the statements without series of their own in the last label."""


@dataclass(frozen=True)
class SharedSeries:
    """Statements that get no series of their own, however much time they take."""

    role: int = 0
    """OID of the exporter's role."""
    own: frozenset[int] = frozenset()
    """Query identifiers of the exporter's statements; another role's statements may have the same ones."""
    users: frozenset[int] = frozenset()
    """OIDs of the roles whose statements are excluded."""
    databases: frozenset[int] = frozenset()
    """OIDs of the databases whose statements are excluded."""

    def places(self, table: Columns) -> Mapping[int, str]:
        """Map the place of each row that shares a series to the name of that series."""
        if not (self.own or self.users or self.databases) or not table:
            return {}
        places = {}
        rows = zip(table["userid"], table["dbid"], table["queryid"], strict=True)
        for i, (userid, dbid, queryid) in enumerate(rows):
            if userid == self.role and queryid in self.own:
                places[i] = OWN
            elif userid in self.users or dbid in self.databases:
                places[i] = OTHER
        return places
