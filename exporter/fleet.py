"""Holds the targets of the moment, which come and go with the configuration."""

from collections.abc import Iterator, Mapping, ValuesView
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.assembly import options_of, server_of
from exporter.catalog.model import Catalog
from exporter.connection_settings import Connection, TargetSettings
from exporter.connections.session import Connector
from exporter.errors import SettingsError
from exporter.scrape.target import Options, Target
from exporter.scrape.turns import Turns
from exporter.settings import Settings
from exporter.watch.own_load import OwnLoad


@dataclass(frozen=True)
class Change:
    """What a new configuration changed. A target with another connection or other options has gone and come."""

    gone: Mapping[str, Target]
    come: Mapping[str, Target]


@dataclass(frozen=True)
class _Treatment:
    """What a target is made of: it stays as long as this does."""

    connection: Mapping[str, object]
    options: Options
    defaults: tuple[object, ...]
    """Settings of all targets that its connections heed."""


@dataclass(frozen=True)
class _Member:
    treatment: _Treatment
    connector: Connector
    target: Target


@dataclass(frozen=True)
class Prepared:
    """What a fleet will be."""

    settings: Settings
    catalog: Catalog
    members: Mapping[str, _Member]


MOST_TARGETS = 1000
"""Upper bound on targets: several times what one process can watch."""

_OF_ALL = ("password_file", "password_command", "password_source", "password_ttl", "connect_timeout")
"""Settings beside `targets` that connections heed."""


class Fleet(Mapping[str, Target]):
    """The targets by name; the only one of a plain configuration has the empty name.

    Who awaits something between two looks at it takes a `dict` of it first: others may be there afterwards.

    Args:
        settings: name the servers, and how to treat them.
        catalog: the collectors.

    Raises:
        SettingsError: a server cannot be addressed as they say.

    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._turns, self._own_load = Turns(), OwnLoad()
        self._catalog = catalog
        self._members: Mapping[str, _Member] = {}
        self.adopt(self.prepare(settings, catalog))

    def __getitem__(self, name: str) -> Target:
        return self._members[name].target

    def values(self) -> ValuesView[Target]:
        """Return the targets of this moment, whatever comes while they are gone through."""
        return dict(self).values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def files(self) -> list[Path]:
        """List the files that DSNs come from."""
        return list(dict.fromkeys(file for member in self._members.values() for file in member.connector.files))

    def prepare(self, settings: Settings, catalog: Catalog, *, rereads: bool = True) -> Prepared:
        """Make the targets that the settings name, or find them among those that there are; nothing changes yet.

        Blocking: it reads the files that DSNs stand in, and libpq's service files. SettingsError as for the whole.

        Args:
            settings: name the servers.
            catalog: the collectors.
            rereads: whether to read the files of targets that there are as well: one that leads elsewhere has to go.

        """
        before, catalog = self._members, _with_same(self._catalog, catalog)
        if len(settings.servers) > MOST_TARGETS:
            raise SettingsError(
                f"targets: {len(settings.servers)} are named, of which one exporter cannot watch more than"
                f" {MOST_TARGETS}. Name fewer, or spread them over several exporters"
            )
        members = {
            name: self._member(name, connection, settings, catalog, before.get(name), rereads=rereads)
            for name, connection in settings.servers
        }
        return Prepared(settings, catalog, members)

    def adopt(self, prepared: Prepared) -> Change:
        """Treat the servers as the settings say from now on.

        A target whose connection and options are the same stays, with its connections, ledgers and history, and takes
        up the new collectors at its next run. What came is not started yet, and what has gone not closed.
        """
        before, members = self._members, prepared.members
        for name, connection in prepared.settings.servers:
            labels = connection.labels if isinstance(connection, TargetSettings) else {}
            members[name].target.adopt(prepared.catalog, labels)
        self._members, self._catalog = members, prepared.catalog
        stays = {name for name, member in before.items() if member is members.get(name)}
        return Change(
            gone={name: member.target for name, member in before.items() if name not in stays},
            come={name: member.target for name, member in members.items() if name not in stays},
        )

    def _member(
        self,
        name: str,
        connection: Connection,
        settings: Settings,
        catalog: Catalog,
        before: _Member | None,
        *,
        rereads: bool,
    ) -> _Member:
        options = options_of(connection, settings, self._own_load)
        plain = {field: getattr(connection, field) for field in Connection.model_fields}
        treatment = _Treatment(plain, options, tuple(getattr(settings, name) for name in _OF_ALL))
        try:
            if before and before.treatment == treatment and not (rereads and before.connector.is_another()):
                return before
            connector = server_of(connection, settings)
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}" if name else str(error)) from None
        return _Member(treatment, connector, Target(catalog, connector, options, name, turns=self._turns))


def _with_same(before: Catalog, catalog: Catalog) -> Catalog:
    """Keep the collectors that are the same as before, so that what is known of them is kept as well."""
    known = {collector.name: collector for collector in before}
    same = (known[each.name] if each == known.get(each.name) else each for each in catalog)
    return replace(catalog, collectors=tuple(same))
