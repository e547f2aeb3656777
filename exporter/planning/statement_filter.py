"""Chooses the statements that get no series of their own, by the user's shell patterns. Pure."""

from dataclasses import dataclass

from exporter.catalog.model import NameKind
from exporter.planning.oid_names import Names


@dataclass(frozen=True)
class StatementFilter:
    """Shell patterns of users and of databases whose statements get no series of their own."""

    users: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()

    def excluded_users(self, names: Names) -> frozenset[int]:
        """Return the OIDs of the roles that match a pattern."""
        return _matching(names, "role", self.users)

    def excluded_databases(self, names: Names) -> frozenset[int]:
        """Return the OIDs of the databases that match a pattern."""
        return _matching(names, "database", self.databases)

    def unmatched(self, names: Names) -> dict[str, tuple[str, ...]]:
        """Return the patterns that match nothing, by the setting that has them; only settings with such patterns."""
        users = tuple(pattern for pattern in self.users if not names.matching("role", pattern))
        databases = tuple(pattern for pattern in self.databases if not names.matching("database", pattern))
        found = {"statements_exclude_users": users, "statements_exclude_databases": databases}
        return {setting: patterns for setting, patterns in found.items() if patterns}


def _matching(names: Names, kind: NameKind, patterns: tuple[str, ...]) -> frozenset[int]:
    return frozenset[int]().union(*(names.matching(kind, pattern) for pattern in patterns))
