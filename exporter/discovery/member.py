"""A server that a source names, and the target that it becomes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr, ValidationError

from exporter.connection_settings import Connection, SourceSettings, TargetSettings
from exporter.connections.dsn import explicit, parameters
from exporter.errors import DiscoveryError, SettingsError
from exporter.validation_errors import explain


@dataclass(frozen=True)
class Member:
    """A server that a source names."""

    name: str
    host: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the source says of it that does not change, such as the name of its cluster."""


@dataclass(frozen=True)
class Answer:
    """What a source says."""

    members: Sequence[Member]
    version: str = ""
    """What the source calls the state that it told, where it tells of changes since one."""


def check(source: SourceSettings) -> None:
    """Look whether the DSN of a source can be used with what it names; SettingsError says why not."""
    dsn = source.dsn.get_secret_value()
    try:
        if own := [name for name in ("host", "hostaddr", "port") if name in explicit(dsn)]:
            raise SettingsError(f"dsn: {own[0]}: the source says where its servers are. Leave it out")
        parameters(dsn)
    except SettingsError as error:
        raise SettingsError(f"discovery: {source.title}: {error}") from None


_LONGEST_HOST = 255
"""Characters of a host at most, as DNS has it."""


def target_of(member: Member, source: SourceSettings) -> TargetSettings:
    """Make the target of a member: DSN, credentials and filters are those of its source."""
    if len(member.host) > _LONGEST_HOST:
        raise DiscoveryError(f"{source.title}: {member.name}: its host has more than {_LONGEST_HOST} characters")
    values = {name: getattr(source, name) for name in Connection.model_fields}
    said = {**explicit(source.dsn.get_secret_value()), "host": member.host, "port": str(member.port)}
    values["dsn"] = SecretStr(" ".join(f"{name}={_quoted(value)}" for name, value in said.items()))
    labels = {**member.labels, **source.labels}
    try:
        name = source.name.format(member=member.name, **member.labels)
        return TargetSettings(**values, name=name, labels=labels)
    except KeyError as error:
        what = f"name: {member.name} has no {{{error.args[0]}}}"
        raise DiscoveryError(f"{source.title}: {what}. Leave it out of the name") from None
    except ValidationError as error:
        raise DiscoveryError(f"{source.title}: {member.name}: {'; '.join(explain(error))}") from None


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
