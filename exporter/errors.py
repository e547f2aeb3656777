"""Every exception this package raises, and the words for why a server or a collector gives no answer.

PgvigilError
├── SettingsError          a setting, a variable or the configuration file is wrong
├── DiscoveryError         a source of servers does not say which there are
├── CatalogError           a collector file is wrong
├── ValuesError            the values file of the alert rules is wrong
├── PortInUseError         another process listens on our address
├── StateError             the folder for what outlives a restart cannot be used
├── ExporterError          an exporter that was asked over HTTP gave no answer
├── ProvisioningError      the files for a Grafana cannot be written
├── ClusterError           a PostgreSQL server of the demo or the tests failed
└── DatabaseError          a server did not do what was asked; `reason` says why in one word
    ├── ConnectError       no session
    ├── QueryError         a session, but no rows
    │   └── ExcessError    the server sent more than is read: the connection was dropped
    └── BusyError          all connections that we may use are in use
"""

from collections.abc import Mapping
from typing import Literal, get_args

from exporter.passwords import without_passwords

ConnectReason = Literal[
    "refused",
    "unreachable",
    "authentication",
    "settings",
    "no_database",
    "too_many_connections",
    "starting_up",
    "shutting_down",
    "recovery_conflict",
    "pooler",
    "timeout",
    "hung",
    "out_of_files",
    "other",
]
"""Reason for no session: the label `reason` of `pg_up_reason`."""

MEANINGS: Mapping[ConnectReason, str] = {
    "refused": "no process listens at its address",
    "unreachable": "there is no way to its host",
    "authentication": "it does not let the exporter in; others may get in",
    "settings": "the exporter's own DSN, password file or command cannot be used, so the server itself was not asked",
    "no_database": "the database that the exporter connects to does not exist, or takes no connections",
    "too_many_connections": "no connection is left",
    "starting_up": "it starts, or recovers from a crash",
    "shutting_down": "somebody stops it",
    "recovery_conflict": "replay on this standby ended the exporter's session",
    "pooler": "a pooler stands before it, through which the exporter cannot watch",
    "timeout": "nobody answered in time",
    "hung": "it takes connections and does not answer",
    "out_of_files": "the exporter may open no more files",
    "other": "the exporter's log has the error",
}
"""What each reason means to whoever was paged."""

QueryReason = Literal["timeout", "lock_timeout", "permission", "connection", "query"]
"""Reason for no rows: the label `reason` of `pgvigil_collector_errors_total`."""

Reason = ConnectReason | QueryReason

CONNECT_REASONS: tuple[ConnectReason, ...] = get_args(ConnectReason)


class PgvigilError(Exception):
    """The root: `str()` of it is a sentence for the operator, without the password of any connection string in it."""

    def __str__(self) -> str:
        """Return the sentence."""
        return without_passwords(super().__str__())


class SettingsError(PgvigilError):
    """A setting, a `PGVIGIL_*` variable or the configuration file is wrong."""


class DiscoveryError(PgvigilError):
    """A source of servers does not say which there are, or says what no target can be made of."""


class CatalogError(PgvigilError):
    """A collector file is wrong: `file: place: what is wrong`."""


class ValuesError(PgvigilError):
    """The values file of the alert rules is wrong: `file: place: what is wrong`."""


class PortInUseError(PgvigilError):
    """The address of `PGVIGIL_LISTEN` is taken."""


class StateError(PgvigilError):
    """The folder for what outlives a restart cannot be used."""


class ExporterError(PgvigilError):
    """An exporter that was asked over HTTP gave no answer."""


class ProvisioningError(PgvigilError):
    """The files for a Grafana cannot be written."""


class ClusterError(PgvigilError):
    """A PostgreSQL server of the demo or the tests failed; the message ends with its log."""


class DatabaseError(PgvigilError):
    """A server did not do what was asked."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConnectError(DatabaseError):
    """There is no session."""

    reason: ConnectReason

    def __init__(self, reason: ConnectReason, message: str) -> None:
        super().__init__(reason, message)


class QueryError(DatabaseError):
    """There are no rows."""

    reason: QueryReason

    def __init__(self, reason: QueryReason, message: str) -> None:
        super().__init__(reason, message)


class ExcessError(QueryError):
    """The server sent more than is read: the connection was dropped."""

    def __init__(self, message: str) -> None:
        super().__init__("query", message)


class BusyError(DatabaseError):
    """All connections that we may use are in use; says nothing about the server."""

    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)
