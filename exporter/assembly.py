"""Builds the parts as the settings say: catalog, options and connectors."""

from typing import TYPE_CHECKING

from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load
from exporter.catalog.model import Catalog
from exporter.connection_settings import Connection
from exporter.connections.credentials import Credentials, FromFile, from_command
from exporter.connections.postgres import Postgres
from exporter.connections.session import Connector
from exporter.errors import SettingsError
from exporter.planning.database_filter import DatabaseFilter
from exporter.planning.statement_filter import StatementFilter
from exporter.planning.table_filter import TableFilter
from exporter.scrape.target import Options
from exporter.settings import Settings
from exporter.watch.loop import WatchOptions
from exporter.watch.own_load import OwnLoad

if TYPE_CHECKING:
    from exporter.connections.pgbouncer import PgBouncer

_CONSOLES = 2
"""Connections to the console of a PgBouncer at most, each of which counts there as a client."""


def catalog_of(settings: Settings) -> Catalog:
    """Load the built-in collectors, those of compatibility where asked for, and the user's, as the settings say."""
    compatible = [COMPATIBILITY] if settings.compatibility_names else []
    own = [settings.collectors_dir] if settings.collectors_dir else []
    return settings.applied_to(load(BUILT_IN, *compatible, *own, runs=settings.runs))


def database_filter_of(connection: Connection, settings: Settings) -> DatabaseFilter:
    """Look into the databases that a target's own patterns choose, else those of all targets."""
    return DatabaseFilter(
        connection.include_databases or settings.include_databases,
        connection.exclude_databases or settings.exclude_databases,
    )


def table_filter_of(connection: Connection, settings: Settings) -> TableFilter:
    """Tell of the tables that a target's own patterns choose, else those of all targets."""
    return TableFilter(
        connection.include_tables or settings.include_tables, connection.exclude_tables or settings.exclude_tables
    )


def statement_filter_of(connection: Connection, settings: Settings) -> StatementFilter:
    """Exclude the statements that a target's own patterns choose, else those of all targets."""
    return StatementFilter(
        connection.statements_exclude_users or settings.statements_exclude_users,
        connection.statements_exclude_databases or settings.statements_exclude_databases,
    )


def options_of(connection: Connection, settings: Settings, own_load: OwnLoad) -> Options:
    """Treat a target as the settings say; PgBouncer gets two connections and no looks between scrapes."""
    kind = connection.kind
    watch = WatchOptions(
        interval=settings.sample_interval,
        cost_budget=settings.cost_budget,
        lock_wait=settings.incident_lock_wait,
        connections=settings.incident_connections,
        literals=settings.incident_literals,
        text_length=settings.statement_text_length,
        own_load=own_load,
    )
    return Options(
        max_connections=settings.max_connections_per_target if kind == "postgresql" else _CONSOLES,
        last_good=settings.last_good,
        max_samples=settings.max_samples,
        databases=database_filter_of(connection, settings) if kind == "postgresql" else DatabaseFilter(),
        tables=table_filter_of(connection, settings),
        excluded_statements=statement_filter_of(connection, settings),
        cost_budget=settings.cost_budget,
        statement_text_length=settings.statement_text_length,
        watch=watch if settings.sample_interval and kind == "postgresql" else None,
    )


def server_of(connection: Connection, settings: Settings) -> Connector:
    """Address one server of whatever kind."""
    return pgbouncer_of(connection, settings) if connection.kind == "pgbouncer" else postgres_of(connection, settings)


def pgbouncer_of(connection: Connection, settings: Settings) -> "PgBouncer":
    """Address one PgBouncer. Its driver, an extra, is imported here only."""
    try:
        from exporter.connections.pgbouncer import PgBouncer
    except ImportError as error:
        raise SettingsError(f"kind: pgbouncer needs a driver: pip install 'pgvigil[pgbouncer]' ({error})") from error
    return PgBouncer(
        connection.dsn_file or connection.dsn, credentials_of(connection, settings), settings.connect_timeout
    )


def postgres_of(connection: Connection, settings: Settings) -> Postgres:
    """Address one server; its DSN may stand in a file."""
    return Postgres(
        connection.dsn_file or connection.dsn, credentials_of(connection, settings), settings.connect_timeout
    )


def credentials_of(connection: Connection, settings: Settings) -> Credentials | None:
    """Return where passwords come from beside the DSN: as the target says, else as is said for all of them."""
    said = next((each for each in (connection, settings) if each.has_credentials), None)
    if said is None:
        return None
    if said.password_source:
        from exporter.connections.cloud_tokens import from_cloud

        return from_cloud(said.password_source)
    if said.password_command:
        return from_command(said.password_command, settings.password_ttl)
    assert said.password_file  # noqa: S101  # has_credentials
    return FromFile(said.password_file)
