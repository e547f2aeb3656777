"""The names of databases, roles and relations by oid, so that the vital few need no catalog that may be locked."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from exporter.catalog.model import NameKind

Relation = tuple[int, int]
"""The oids of a relation and of its database; a shared relation's database is 0."""


class Names:
    """A cached map of oids; what it does not know yet it writes as the number."""

    def __init__(self) -> None:
        self.version = 0
        """Counts the changes."""
        self._databases: Mapping[int, str] = {}
        self._roles: Mapping[int, str] = {}
        self._relations: dict[Relation, str] = {}

    def replace(self, databases: Mapping[int, str], roles: Mapping[int, str]) -> None:
        """Replace both maps."""
        self.version += (databases, roles) != (self._databases, self._roles)
        self._databases = databases
        self._roles = roles

    def forget_relations(self) -> None:
        """Forget the relations, which may have been renamed."""
        self.version += bool(self._relations)
        self._relations = {}

    def learn(self, relations: Mapping[Relation, str]) -> None:
        """Remember the names of some relations until they are to be forgotten."""
        self.version += bool(relations)
        self._relations.update(relations)

    def database(self, oid: int) -> str | None:
        """Name one database; None when it is not known."""
        return self._databases.get(oid)

    def matching(self, kind: NameKind, pattern: str) -> frozenset[int]:
        """Return the OIDs of the databases or roles whose name matches a shell pattern."""
        known: Mapping[int, str] = self._known(kind)
        return frozenset(oid for oid, name in known.items() if fnmatchcase(name, pattern))

    def unknown(self, kind: NameKind, values: Iterable[Any]) -> set[Any]:
        """Select the oids, or pairs of oids, whose name has yet to be asked for."""
        known: Mapping[Any, str] = self._known(kind)
        return {key for value in values if (key := _key(kind, value)) and key not in known}

    def text(self, kind: NameKind, values: Sequence[Any]) -> list[str]:
        """Write each oid of a column as its name, no oid as nothing, and an unknown one as its number."""
        known: Mapping[Any, str] = self._known(kind)
        keys = [_key(kind, value) for value in values]
        return [known[key] if key in known else _number(key) for key in keys]

    def _known(self, kind: NameKind) -> Mapping[Any, str]:
        maps: dict[NameKind, Mapping[Any, str]] = {
            "database": self._databases,
            "role": self._roles,
            "relation": self._relations,
        }
        return maps[kind]


def _key(kind: NameKind, value: Any) -> Any:
    """Turn a column's value into a key of the map; None for no oid."""
    if kind != "relation":
        return value or None
    return (value[0] or 0, value[1]) if value and value[1] else None


def _number(key: Any) -> str:
    if key is None:
        return ""
    return str(key[1] if isinstance(key, tuple) else key)
