"""Every setting with its default and meaning."""

import json
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.catalog.model import Catalog, Collector
from exporter.connection_settings import Connection, NamedPath, Patterns, SourceSettings, TargetSettings, words
from exporter.errors import SettingsError
from exporter.validation_errors import nearest

PREFIX = "PGVIGIL_"

Pages = Literal["off", "local", "authenticated"]
"""Who may see the pages for users."""


def _network(value: object) -> object:
    try:
        return ip_network(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} is no network: write it as 10.0.0.0/8, with no bits set beyond its mask") from None


def _from_json(value: object) -> object:
    """Say where the JSON of a variable is wrong."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        raise ValueError('is no list. Write JSON, such as [{"name": "shop", "dsn": "host=db1 dbname=shop"}]')
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"expected JSON: {error}") from None


Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ValueError(f"{value!r} is no address: write host:port, for example 0.0.0.0:9187, with a port up to 65535")
    return value


def _addresses(value: str) -> str:
    """Check addresses that are separated by commas."""
    return ",".join(_address(each.strip()) for each in value.split(","))


class CollectorSettings(BaseModel):
    """Overrides of one collector."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    timeout: float | None = Field(None, ge=0.001, le=3600, description="Seconds for its query.")
    cache: float | None = Field(None, ge=0, description="Seconds a result is served again.")
    limit: int | None = Field(None, ge=0, description="Rows kept; 0 for all of them.")
    enabled: bool | None = Field(None, description="On or off.")
    databases: Patterns | None = Field(
        None, description="Shell patterns of the databases it runs in, where it runs in each database."
    )


class Settings(Connection, BaseSettings):
    """All settings: each is a variable `PGVIGIL_<NAME>` or a key of the configuration file; the variable wins.

    An empty variable is as one that is not there.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    targets: Annotated[tuple[TargetSettings, ...] | None, BeforeValidator(_from_json)] = Field(
        None,
        description="Several servers instead of one: a list of name, dsn and kind, each served at"
        " `/probe?target=NAME`; `[]` for none.",
    )
    targets_files: Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)] = Field(
        (),
        description="Files with more targets, each a list like `targets`, as paths or shell patterns"
        " (`/etc/pgvigil/targets/*.yml`) separated by commas. They are read again when they change.",
    )
    discovery: tuple[SourceSettings, ...] = Field(
        (),
        description="Sources of servers that come and go: a list of `source`, what it needs, and a dsn without host and"
        " port. They are asked every 10 s.",
    )
    listen: Annotated[str, AfterValidator(_addresses)] = Field(
        "0.0.0.0:9187", description="Address and port to serve on; several separated by commas."
    )
    web_config_file: NamedPath | None = Field(
        None,
        description="A web configuration file of Prometheus' exporter-toolkit: TLS, client certificates,"
        " `basic_auth_users`, headers, a rate limit. It and its files are read again when they change.",
    )
    bearer_token_file: NamedPath | None = Field(
        None, description="A file of bearer tokens, one a line, for Prometheus (`authorization`); read again likewise."
    )
    pages: Pages | None = Field(
        None,
        description="Who may see the pages for users, which show texts of statements: `off` for nobody, `local` for"
        " this machine and `pages_from`, `authenticated` for users, tokens and verified certificates. By default"
        " `authenticated` where there are some, else `local`.",
    )
    pages_from: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(words)] = Field(
        (), description="Networks that count as local for `pages`, such as `10.0.0.0/8`, separated by commas."
    )
    collectors_dir: NamedPath | None = Field(None, description="A folder of your own collector files.")
    collectors: dict[str, CollectorSettings] = Field(
        {}, description="Collector name -> timeout, cache, limit, enabled, databases."
    )
    disable: Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)] = Field(
        (), description="Names of collectors to switch off, separated by commas."
    )
    compatibility_names: bool = Field(
        False,
        description="Serve postgres_exporter's names beside ours;"
        " `pgvigil reference --diff postgres_exporter` lists them.",
    )
    scrape_timeout: float = Field(
        10.0, ge=0.1, le=3600, description="Seconds for a page when the scraper does not say."
    )
    scrape_timeout_offset: float = Field(
        0.5, ge=0, description="Seconds before the scraper's time limit at which the page is sent."
    )
    last_good: float = Field(
        60.0, ge=0, description="Seconds that the last good result of a failing collector is served, beyond its cache."
    )
    connect_timeout: float = Field(3.0, ge=0.1, le=600, description="Seconds for a new connection.")
    password_ttl: float = Field(
        300.0,
        ge=0,
        description="Seconds for which what `password_command` prints is used again, unless it is refused.",
    )
    max_connections_per_target: int = Field(
        5,
        ge=3,
        description="Connections to one server at most: two kept, others borrowed for other databases"
        " and a login a minute.",
    )
    max_samples: int = Field(
        500_000, ge=1000, description="Samples on a page at most; what is cut of the largest collectors is counted."
    )
    cost_budget: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of a core that we may cost a server; beyond it the most expensive collectors run less often."
        " 0 for no limit.",
    )
    statement_text_length: int = Field(
        160,
        ge=0,
        le=1000,
        description="Characters of a statement's text on the page at most (`pg_statement_info`,"
        " `pg_lock_blocker_statement_info`); 0 for none.",
    )
    sample_interval: float = Field(
        1.0,
        ge=0,
        description="Seconds between the looks at what sessions wait for, and at incidents; 0 switches both off.",
    )
    incident_lock_wait: float = Field(
        5.0, ge=0.1, description="Seconds that a session waits for a lock before it is recorded as an incident."
    )
    incident_connections: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the unreserved connections in use from which it is recorded as an incident.",
    )
    incident_literals: bool = Field(
        False, description="Keep the literals of query texts in incidents, which may be personal data."
    )
    history_hours: float = Field(
        24.0,
        ge=0,
        le=24,
        description="Hours of active sessions, statements, key gauges and incidents that are kept; 0 for none.",
    )
    state_dir: NamedPath | None = Field(
        None,
        description="A folder for the history, so that a restart forgets nothing: one SQLite file of 50 MB at most for"
        " each target. A temporary folder by default, which ends with the process.",
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines that are logged."
    )

    @model_validator(mode="after")
    def _distinct_targets(self) -> Self:
        names = Counter(target.name for target in self.targets or ())
        if twice := next((name for name, times in names.items() if times > 1), ""):
            raise ValueError(f"targets: two are called {twice}. Give each a name of its own")
        if twice := next((title for title, n in Counter(each.title for each in self.discovery).items() if n > 1), ""):
            raise ValueError(f"discovery: two are {twice}. Name it once")
        several = "targets" if self.targets is not None else "targets_files" if self.targets_files else "discovery"
        if self.has_names and (self.dsn.get_secret_value() or self.dsn_file):
            raise ValueError(f"{several} and dsn: give one of them")
        if self.has_names and self.kind != "postgresql":
            raise ValueError(f"{several} and kind: give each target its own kind")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content comes as arguments."""
        return env_settings, init_settings

    @property
    def has_names(self) -> bool:
        """Return whether its servers have names; the only one of a plain configuration has none."""
        return self.targets is not None or bool(self.targets_files or self.discovery)

    @property
    def servers(self) -> tuple[tuple[str, Connection], ...]:
        """Every server with its name; the only one of a plain configuration has the empty name."""
        return tuple((target.name, target) for target in self.targets or ()) if self.has_names else (("", self),)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Hosts and ports of `listen`."""
        parted = (each.rpartition(":") for each in self.listen.split(","))
        return [(host.strip("[]") or "0.0.0.0", int(port)) for host, _, port in parted]  # noqa: S104  # to be scraped

    def applied_to(self, catalog: Catalog) -> Catalog:
        """Change the catalog as `disable` and `collectors` say; a name that is no collector is a SettingsError."""
        known = [collector.name for collector in catalog]
        named = [("disable", name) for name in self.disable] + [("collectors", name) for name in self.collectors]
        if unknown := [
            f"{place}: {name}: no such collector{nearest(name, known)}" for place, name in named if name not in known
        ]:
            raise SettingsError("\n".join(unknown))
        for collector in catalog:
            if "databases" in self._changes(collector.name) and collector.scope != "database":
                raise SettingsError(
                    f"collectors: {collector.name}: databases: runs once for the whole server. Remove it"
                )
        changed = (collector.model_copy(update=self._changes(collector.name)) for collector in catalog)
        return replace(catalog, collectors=tuple(each.with_texts(self.statement_text_length) for each in changed))

    def runs(self, collector: Collector) -> bool:
        """Return whether a collector is switched on."""
        return bool(self._changes(collector.name).get("enabled", collector.enabled))

    def _changes(self, name: str) -> dict[str, object]:
        found = self.collectors.get(name)
        changes = found.model_dump(exclude_none=True) if found else {}
        if changes.get("limit") == 0:
            changes["limit"] = None
        if "cache" in changes:
            changes["fresh"] = False
        return changes | ({"enabled": False} if name in self.disable else {})
