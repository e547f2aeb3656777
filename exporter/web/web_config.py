"""Reads the web configuration file of Prometheus' exporter-toolkit: TLS, users, headers, a rate limit.

Its format is that of https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md, so that the
file of another exporter works unchanged. HTTP/2 is accepted and not spoken: Prometheus falls back to HTTP/1.1.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from exporter import strict_yaml
from exporter.errors import SettingsError
from exporter.validation_errors import explain

ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]
"""Go's names; `RequireClientCert` is an older name of `RequireAnyClientCert`."""

Curve = Literal["CurveP256", "CurveP384", "CurveP521", "X25519"]

CIPHERS: Mapping[str, str] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
}
"""Cipher suites that Go calls secure -> OpenSSL's names; empty for those of TLS 1.3, which are not configurable."""

HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("", "nosniff"),
    "X-Frame-Options": ("", "deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Headers that may be set, and their values where these are fixed."""

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")

_COSTS = range(4, 19)
"""Costs of bcrypt that are taken: from 19 on a guess takes a core for half a minute."""

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _cipher(name: str) -> str:
    if name not in CIPHERS:
        raise ValueError(f"unknown cipher suite {name!r}. Write one of {', '.join(CIPHERS)}")
    return name


def _version(name: object) -> object:
    if name in ("TLS10", "TLS11"):
        raise ValueError(f"{name} is no longer served: it can be broken. Write TLS12 or TLS13")
    return name


def _seconds(text: object) -> object:
    """Read a duration as Go writes it, such as `1s` or `1m30s`."""
    if text in (0, "0"):
        return 0.0
    parts = _DURATION.findall(text) if isinstance(text, str) else []
    if not parts or "".join(map("".join, parts)) != text:
        raise ValueError(f"{text!r} is no duration. Write a number with a unit, such as 1s or 200ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


Version = Annotated[Literal["TLS12", "TLS13"], BeforeValidator(_version)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_the_default(cls, data: Any) -> Any:
        """A key without a value, or with an empty one, is as one that is not there."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value not in (None, "") or key not in cls.model_fields}


class TlsConfig(_Part):
    """TLS as it is served, and what is asked of the certificates of clients."""

    cert: str = ""
    key: SecretStr = SecretStr("")
    client_ca: str = ""
    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[Annotated[str, AfterValidator(_cipher)], ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Curve, ...] = ()

    @property
    def is_enabled(self) -> bool:
        """Return whether TLS is served."""
        named = (self.cert, self.key.get_secret_value(), self.client_ca)
        return any(named) or any((self.cert_file, self.key_file, self.client_ca_file)) or self._asks

    @property
    def _asks(self) -> bool:
        return self.client_auth_type != "NoClientCert"

    @property
    def verifies(self) -> bool:
        """Return whether a certificate of a client has to come from one of the authorities."""
        return self.client_auth_type in ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")

    @property
    def requires(self) -> bool:
        """Return whether a client has to have a certificate."""
        return self.client_auth_type in ("RequireAnyClientCert", "RequireClientCert", "RequireAndVerifyClientCert")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read for it."""
        return tuple(filter(None, (self.cert_file, self.key_file, self.client_ca_file)))

    @model_validator(mode="after")
    def _has_certificate(self) -> Self:
        """Each part is given once, inline or as a file; with TLS there are a certificate and its key."""
        key = self.key.get_secret_value()
        for name, inline, file, is_needed in (
            ("cert", self.cert, self.cert_file, self.is_enabled),
            ("key", key, self.key_file, self.is_enabled),
            ("client_ca", self.client_ca, self.client_ca_file, self.verifies),
        ):
            if inline and file:
                raise ValueError(f"both {name} and {name}_file are given. Remove one of them")
            if is_needed and not inline and not file:
                raise ValueError(f"neither {name} nor {name}_file is given. Name a PEM file in {name}_file")
        return self

    @model_validator(mode="after")
    def _asks_for_what_it_judges(self) -> Self:
        for name, is_given in (
            ("client_ca_file", bool(self.client_ca or self.client_ca_file)),
            ("client_allowed_sans", self.client_allowed_sans is not None),
        ):
            if is_given and not self._asks:
                raise ValueError(
                    f"{name}: no certificate is asked for. Write client_auth_type: RequireAndVerifyClientCert"
                )
        return self

    @model_validator(mode="after")
    def _has_a_protocol(self) -> Self:
        if self.min_version > self.max_version:
            raise ValueError("min_version is above max_version. Write TLS12 and TLS13")
        if self.cipher_suites and self.min_version == "TLS12" and not any(map(CIPHERS.get, self.cipher_suites)):
            raise ValueError("cipher_suites: has none of TLS 1.2, which is served. Write min_version: TLS13")
        return self


class HttpConfig(_Part):
    """Headers of every answer."""

    http2: bool = True
    headers: dict[str, str] = Field(default_factory=dict)

    @field_validator("headers", mode="before")
    @classmethod
    def _are_texts(cls, headers: Any) -> Any:
        """Take `0` for a text, and blanks at its ends away, as Go does."""
        if not isinstance(headers, dict):
            return headers
        texts = {name: "" if value is None else value for name, value in headers.items()}
        return {name: value.strip() if isinstance(value, str) else value for name, value in texts.items()}

    @field_validator("headers")
    @classmethod
    def _are_allowed(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            allowed = HEADERS.get(name)
            if allowed is None:
                raise ValueError(f"{name!r} cannot be configured. Write one of {', '.join(HEADERS)}")
            if allowed and value not in allowed:
                raise ValueError(f"{name}: {value!r} is no value of it. Write {' or '.join(filter(None, allowed))}")
            if not value.isprintable() or not value.isascii():
                raise ValueError(f"{name}: its value is no header. Write it on one line, in ASCII")
        return headers


class RateLimit(_Part):
    """A token bucket: so many requests at once, and then one each interval."""

    interval: Annotated[float, BeforeValidator(_seconds), Field(ge=0)] = 0.0
    """Seconds; 0 for no limit."""
    burst: int = Field(0, ge=0)


class WebConfig(_Part):
    """A whole file; an empty one changes nothing."""

    tls_server_config: TlsConfig = TlsConfig()
    http_server_config: HttpConfig = HttpConfig()
    rate_limit: RateLimit = RateLimit()
    basic_auth_users: dict[str, SecretStr] = Field(default_factory=dict)
    """User -> password, hashed with bcrypt."""

    @field_validator("basic_auth_users")
    @classmethod
    def _are_hashed(cls, users: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for user, word in users.items():
            found = _BCRYPT.fullmatch(word.get_secret_value())
            if not found:
                raise ValueError(
                    f"{user}: its password is not hashed with bcrypt. Write what `htpasswd -nBC 10 {user}` says"
                )
            if int(found[1]) not in _COSTS:
                raise ValueError(
                    f"{user}: cost {found[1]} is not between {_COSTS[0]} and {_COSTS[-1]}. Hash it with 10"
                )
            if ":" in user:
                raise ValueError(f"{user}: no user has a colon in basic authentication. Rename it")
        return users


def read_web_config(file: Path) -> WebConfig:
    """Read a file; its relative paths count from its folder. SettingsError names file, place and remedy."""
    content = strict_yaml.load(file, SettingsError, str(file), strict_yaml.TextsLoader)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise SettingsError(f"{file}: expected a mapping with tls_server_config, basic_auth_users or others")
    try:
        config = WebConfig.model_validate(content)
    except ValidationError as error:
        raise SettingsError("\n".join(f"{file}: {line}" for line in explain(error, WebConfig))) from None
    tls = config.tls_server_config
    paths = {
        name: file.parent / path
        for name in ("cert_file", "key_file", "client_ca_file")
        if (path := getattr(tls, name)) is not None
    }
    return config.model_copy(update={"tls_server_config": tls.model_copy(update=paths)})
