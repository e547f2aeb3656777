"""Chooses the databases to look into, by the user's shell patterns. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

PROVIDERS = ("rdsadmin", "cloudsqladmin", "azure_maintenance", "azure_sys")
"""Databases that managed services keep to themselves: no user can be let in."""


@dataclass(frozen=True)
class DatabaseFilter:
    """Those that match a pattern to include, all where there is none, less those that match one to exclude."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def accepts(self, database: str) -> bool:
        """Return whether a database is looked into."""
        included = not self.include or any(fnmatchcase(database, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(database, pattern) for pattern in self.exclude)

    def unmatched(self, databases: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns that match none of these databases."""
        names = tuple(databases)
        return tuple(p for p in (*self.include, *self.exclude) if not any(fnmatchcase(name, p) for name in names))
