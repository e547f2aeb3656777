"""Facts of one server that a plan is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.catalog.by_version import Version


@dataclass(frozen=True)
class Extension:
    """An extension as one database has it."""

    version: Version
    schema: str


@dataclass(frozen=True)
class Server:
    """Facts of a server that a plan is made from."""

    version: Version
    in_recovery: bool
    database: str
    """The database of the DSN: collectors of scope `server` run here."""
    databases: tuple[str, ...] = ()
    """Every database that the role may connect to, templates left out."""
    extensions: Mapping[str, Mapping[str, Extension]] = field(default_factory=dict)
    """Database -> extension name -> extension; a database not looked into yet is absent."""
    without_tables: frozenset[str] = frozenset()
    """Databases without user tables: they hold system catalogs only."""
    own: bool = True
    """True if collectors of scope `database` run in the database of the DSN as well."""
