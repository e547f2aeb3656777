"""Every exception this package raises.

PgvigilError
├── SettingsError          a setting, a variable or the configuration file is wrong
├── CatalogError           a collector file is wrong
├── ValuesError            the values that the alert rules are to have are wrong
├── PortInUseError         somebody else listens where we should
├── ClusterError           a server of our own (demo, tests) did not do as it was told
└── DatabaseError          PostgreSQL did not do what was asked; `reason` says why in one word
    ├── BusyError          all connections that we may use are in use
    ├── ConnectError       no session: its reason is one of CONNECT_REASONS
    └── QueryError         a session, but no rows: its reason is one of QUERY_REASONS
"""

CONNECT_REASONS = (
    "refused",
    "unreachable",
    "authentication",
    "too_many_connections",
    "starting_up",
    "shutting_down",
    "recovery_conflict",
    "timeout",
    "hung",
    "other",
)
"""Why there is no session, as `pg_up_reason` says it."""

QUERY_REASONS = ("timeout", "lock_timeout", "permission", "connection", "query")
"""Why a collector has no rows, as `pgvigil_collector_errors_total` says it."""


class PgvigilError(Exception):
    """The root: `str()` of it is a sentence for the person who runs the exporter."""


class SettingsError(PgvigilError):
    """A setting, a `PGVIGIL_*` variable or the configuration file is wrong."""


class CatalogError(PgvigilError):
    """A collector file is wrong: `file: place: what is wrong`."""


class ValuesError(PgvigilError):
    """The values that the alert rules are to have are wrong: `file: place: what is wrong`."""


class PortInUseError(PgvigilError):
    """The address of `PGVIGIL_LISTEN` is taken."""


class ProvisioningError(PgvigilError):
    """What a Grafana is to read cannot be written."""


class ClusterError(PgvigilError):
    """A server of our own did not do as it was told; the message ends with its log."""


class DatabaseError(PgvigilError):
    """PostgreSQL did not do what was asked."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConnectError(DatabaseError):
    """There is no session."""


class QueryError(DatabaseError):
    """There are no rows."""


class BusyError(DatabaseError):
    """All connections that we may use are in use; says nothing about the server."""

    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)
