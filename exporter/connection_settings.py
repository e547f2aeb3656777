"""Settings of one server: how to reach it, and what of it to look at."""

import json
import re
import shlex
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from exporter.kinds import Kind
from exporter.validation_errors import shaped


def arguments(value: object) -> object:
    """Split a command as a shell would; ValueError where a quote does not end."""
    return shlex.split(value) if isinstance(value, str) and not value.lstrip().startswith("[") else _json_list(value)


def _json_list(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _named(value: object) -> object:
    """Refuse an empty path, which would stand for the working folder."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty. Name a path, or leave it out")
    return value


NamedPath = Annotated[Path, BeforeValidator(_named)]


def words(value: object) -> object:
    """Split what is separated by commas."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _pattern(value: str) -> str:
    if re.search(r"\[(?!!?.[^]]*\])", value):
        raise ValueError(f"{value!r} is no pattern: a [ has no ]; shell patterns have *, ? and [abc]")
    for part in re.findall(r"\[!?(.[^]]*)\]", value):
        if found := next((each for each in re.findall(r"(?=(.-.))", part) if each[0] > each[2]), None):
            raise ValueError(f"{value!r} is no pattern: the range {found} is reversed")
    return value


Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], NoDecode, BeforeValidator(words)]
"""Shell patterns: a list, or separated by commas."""


def _url(value: str) -> str:
    """Check a URL. Its error does not repeat it: a password may be in it."""
    try:
        is_one = bool(re.fullmatch(r"https?://[^@\s?#]+", value)) and urlsplit(value).port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError(
            "is no URL that can be asked: begin it with http:// or https://, without user, password and parameters"
        )
    return value


def _resolver(value: str) -> str:
    """Check an address and a port, an IPv6 address in brackets or not; return them without brackets."""
    host, _, port = value.rpartition(":")
    try:
        if value:
            ip_address(host.removeprefix("[").removesuffix("]"))
            int(port)
    except ValueError:
        raise ValueError(f"{value!r} is no address: write ADDRESS:PORT, such as 10.0.0.2:53 or [fd00::2]:53") from None
    return f"{host.removeprefix('[').removesuffix(']')}:{port}" if value else ""


LabelName = Annotated[
    str,
    shaped(
        "([a-zA-Z]|_[a-zA-Z0-9])[a-zA-Z0-9_]*|_",
        "name of a label: letters, digits and _ make one, no digit in front, no __",
    ),
]
"""Name of a label that Prometheus does not keep for itself."""

TargetName = Annotated[
    str, shaped("[A-Za-z0-9._-]{1,200}", "name of a server: letters, digits, `.`, `_` and `-` make one, at most 200")
]


_LONGEST_DSN = 10_000
"""Characters of a DSN at most: hosts of it stand on pages."""

_LONGEST_LABEL = 1000


def _label_value(value: str) -> str:
    if len(value) > _LONGEST_LABEL:
        raise ValueError(f"is longer than {_LONGEST_LABEL} characters. Shorten it")
    return value


LabelValue = Annotated[str, AfterValidator(_label_value)]


class Connection(BaseModel):
    """Connection to one server."""

    dsn: SecretStr = Field(
        SecretStr(""),
        description="libpq URI or key=value string; what it leaves out comes from the `PG*` variables, `.pgpass` and"
        " service files.",
    )
    dsn_file: NamedPath | None = Field(
        None, description="A file that holds the DSN instead; read again when it changes."
    )
    password_file: NamedPath | None = Field(
        None,
        description="A file that holds the password; read again for every new connection. Beside `targets` it is"
        " that of each target that names none.",
    )
    password_command: Annotated[tuple[str, ...], NoDecode, BeforeValidator(arguments)] = Field(
        (),
        description="A command that prints the password, with its arguments, as a list or quoted as in a shell, which"
        " is not involved. It has 30 s; its output is never shown.",
    )
    password_source: Literal["aws", "google", "azure"] | None = Field(
        None,
        description="Tokens instead of a password, one for each login: IAM of `aws` or `google`, Entra ID of `azure`;"
        " `pip install 'pgvigil[aws]'` and so on. Each of these three beside `targets` is for those that name none.",
    )
    kind: Kind = Field(
        "postgresql",
        description="What the DSN leads to: `postgresql`, or `pgbouncer` for the admin console of one, which needs"
        " `pip install 'pgvigil[pgbouncer]'`.",
    )
    include_databases: Patterns = Field(
        (), description="Databases to look into, as shell patterns (`shop_*`) separated by commas; all without it."
    )
    exclude_databases: Patterns = Field(
        (), description="Databases not to look into, likewise. What counts for the whole server is not affected."
    )
    include_tables: Patterns = Field(
        (),
        description="Tables that get series of their own, as shell patterns of schema and table (`shop.*`) or of the"
        " table alone (`order*`), separated by commas; all without it. Locks and transaction ids are of all tables.",
    )
    exclude_tables: Patterns = Field((), description="Tables that get no series of their own, likewise.")
    statements_exclude_users: Patterns = Field(
        (),
        description="Users whose statements get no series of their own, as shell patterns (`batch_*`) separated by"
        ' commas. They count in `queryid="other"` and in the totals.',
    )
    statements_exclude_databases: Patterns = Field(
        (),
        description="Databases whose statements get no series of their own, as shell patterns separated by commas. They"
        ' count in `queryid="other"` and in the totals.',
    )

    @field_validator("dsn")
    @classmethod
    def _is_no_novel(cls, dsn: SecretStr) -> SecretStr:
        if len(dsn) > _LONGEST_DSN:
            raise ValueError(f"is longer than {_LONGEST_DSN} characters. Write a connection string")
        return dsn

    @model_validator(mode="after")
    def _one_dsn(self) -> Self:
        if self.dsn_file and self.dsn.get_secret_value():
            raise ValueError("dsn and dsn_file: give one of them")
        named = [name for name in ("password_file", "password_command", "password_source") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)}: give one of them")
        return self

    @property
    def has_credentials(self) -> bool:
        """Return whether it says where passwords come from, beside the DSN."""
        return bool(self.password_file or self.password_command or self.password_source)


class TargetSettings(Connection):
    """One of several servers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: TargetName = Field(description="What `/probe?target=` and the label `target` call it.")
    labels: dict[LabelName, LabelValue] = Field(
        {}, description="Labels that `/sd` gives Prometheus for it, such as `cluster` or `team`."
    )

    @model_validator(mode="after")
    def _is_text(self) -> Self:
        for what, value in (
            ("dsn", self.dsn.get_secret_value()),
            *((f"labels: {n}", v) for n, v in self.labels.items()),
        ):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{what}: has half of a character (a surrogate), which no page can show") from None
        return self


SourceKind = Literal["patroni", "kubernetes", "dns", "aws"]

_NEEDS: Mapping[SourceKind, str] = {"patroni": "urls", "kubernetes": "selector", "dns": "srv", "aws": "tags"}
"""The key that each kind of source needs."""


class SourceSettings(Connection):
    """Where servers are found; DSN, credentials and filters are for each that is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceKind = Field(
        description="`patroni` (its REST API), `kubernetes` (pods by labels), `dns` (SRV records; `pip install"
        " 'pgvigil[dns]'`) or `aws` (RDS and Aurora; `pgvigil[aws]`)."
    )
    name: str = Field("{member}", description="What a server is called: `{member}`, or `{cluster}-{member}`.")
    labels: dict[LabelName, LabelValue] = Field({}, description="Labels that `/sd` gives each of them.")
    urls: tuple[Annotated[str, AfterValidator(_url)], ...] = Field(
        (),
        description="REST APIs of members of a Patroni cluster, such as `http://db1:8008`; one after another is asked."
        " Of Kubernetes, the address of its API where the exporter is in no pod.",
    )
    ca_file: NamedPath | None = Field(None, description="Certificate authorities for their https.")
    selector: str = Field("", description="Labels of pods, such as `cnpg.io/cluster=shop,cnpg.io/podRole=instance`.")
    namespace: str = Field("", description="Namespace of the pods; by default that of the exporter's own pod.")
    port: int = Field(5432, ge=1, le=65535, description="Port of PostgreSQL in the pods.")
    srv: str = Field("", description="Name of SRV records, such as `_postgresql._tcp.db.example`.")
    resolver: Annotated[str, AfterValidator(_resolver)] = Field(
        "", description="Address and port of the DNS server to ask."
    )
    region: str = Field("", description="Region of AWS; that of its configuration otherwise.")
    tags: dict[str, str] = Field({}, description="Tags that instances have to have.")

    @property
    def title(self) -> str:
        """Name of the source in errors, lines of the log and labels."""
        tags = ", ".join(f"{name}={value}" for name, value in self.tags.items())
        named = (", ".join(self.urls), self.namespace, self.selector, self.srv, self.region, tags)
        return " ".join((self.source, *filter(None, named)))

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        key = _NEEDS[self.source]
        if not getattr(self, key):
            raise ValueError(f"{key}: {self.source} needs it")
        try:
            self.name.format(member="", cluster="")
        except (AttributeError, IndexError, KeyError, ValueError):
            raise ValueError(f"name: {self.name!r} is no name: {{member}} and {{cluster}} may stand in it") from None
        if self.dsn_file:
            raise ValueError("dsn_file: give a dsn without host and port, and password_file beside it")
        return self

    def __hash__(self) -> int:
        """Tell sources apart by what they say."""
        return hash(self.model_dump_json())
