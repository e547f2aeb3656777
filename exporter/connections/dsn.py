"""Reads libpq's connection strings, both forms, with what service files and the environment add."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from exporter.connections.libpq import BY_NAME, checked, variables
from exporter.connections.service_file import service
from exporter.errors import SettingsError
from exporter.validation_errors import nearest

_PAIR = re.compile(r"\s*([a-zA-Z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s\\']|\\.)*))(?=\s|$)", re.DOTALL)

_SEVERAL = (
    "dsn: names several servers, separated by commas, as postgres_exporter takes them. Give each a name in"
    " PGVIGIL_TARGETS, or under targets in the configuration file"
)

_IN_A_URI = "dsn: not a URI; write the characters / ? # @ [ ] of a password as %2F %3F %23 %40 %5B %5D"


def parameters(dsn: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what a DSN says, completed by its service and `PG*` variables; no value is empty.

    Raises SettingsError for what is wrong or cannot be kept; the message never repeats a value, which may be a secret.
    """
    given = explicit(dsn.strip())
    for parameter, value in variables(environment):
        checked({parameter.name: value} if parameter.name not in given else {}, parameter.variable)
    known = {parameter.name: value for parameter, value in variables(environment)}
    if name := given.get("service", known.get("service")):
        path, of_service = service(name, environment)
        known |= checked(of_service, str(path))
    known |= given
    kept = {name: value for name, value in checked(known, "dsn").items() if value and name != "service"}
    return _one_host(kept)


def service_file(dsn: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of the service that a DSN names, which `parameters` takes; None without one."""
    name = explicit(dsn.strip()).get("service", environment.get("PGSERVICE"))
    return service(name, environment)[0] if name else None


def but_password(known: Mapping[str, str]) -> dict[str, str]:
    """Leave the password out: with another one it is the same server, database and user."""
    return {name: value for name, value in known.items() if name != "password"}


def explicit(dsn: str) -> dict[str, str]:
    """Return what the string itself says; of a parameter that is named twice the last value."""
    if "://" not in dsn.split("=", 1)[0]:
        return dict(_named(_pairs(dsn)))
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise SettingsError("dsn: a connection URI starts with postgresql://")
    return dict(_uri(dsn))


def _uri(dsn: str) -> list[tuple[str, str]]:
    if re.search(r",\s*postgres(ql)?://", dsn):
        raise SettingsError(_SEVERAL)
    if re.search(r"[/?#@\[\]]", dsn.partition("://")[2].partition("?")[0].rpartition("@")[0]):
        raise SettingsError(_IN_A_URI)
    try:
        parts = urlsplit(dsn.translate(_AS_THEY_ARE))
    except ValueError:
        raise SettingsError(_IN_A_URI) from None
    userinfo, _, servers = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    hosts, ports = _servers(servers)
    pairs = [("user", user), ("password", password), ("host", hosts), ("dbname", parts.path.removeprefix("/"))]
    named = [(name, _decoded(value)) for name, value in pairs if value]
    before = [*named, *([("port", ports)] if ports.strip(",") else [])]
    return [*before, *_named(_query(parts.query), " of the URI")]


def _servers(servers: str) -> tuple[str, str]:
    """Split `host:port,[address]:port` into hosts and ports."""
    found = [re.fullmatch(r"(\[[^]]*\]|[^:\[\]]*)(?::(.*))?", server) for server in servers.split(",")]
    if not all(found):
        raise SettingsError(_IN_A_URI)
    return ",".join(each[1].strip("[]") for each in found if each), ",".join(each[2] or "" for each in found if each)


def _query(query: str) -> Iterable[tuple[str, str]]:
    """Read the parameters of a URI. A `+` is a plus, as in libpq."""
    for number, pair in enumerate(filter(None, query.split("&")), 1):
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"dsn: parameter {number} of the URI has no value; write a & of a password as %26")
        if (name, value) == ("ssl", "true"):
            name, value = "sslmode", "require"
        yield _decoded(name), _decoded(value)


_AS_THEY_ARE = str.maketrans({character: f"%{ord(character):02X}" for character in "#\t\r\n"})
"""Characters that mean nothing to libpq, where Python's URIs lose them or what follows."""


def _decoded(text: str) -> str:
    """Undo the percent-encoding, as strictly as libpq."""
    if re.search("%(?![0-9A-Fa-f]{2})|%00", text):
        raise SettingsError("dsn: a % of the URI has no two hexadecimal digits behind it; write %25 for the character")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise SettingsError("dsn: %-encoded bytes of the URI are no UTF-8; encode the characters as UTF-8") from None


def _pairs(dsn: str) -> Iterable[tuple[str, str]]:
    at = 0
    while at < len(dsn):
        found = _PAIR.match(dsn, at)
        if not found:
            raise SettingsError(
                f"dsn: character {at + 1}: expected key=value; write postgresql://user@host/database"
                " or host=... dbname=..., and put a value with blanks into quotes: 'my secret'"
            )
        if found[3] and re.search(r",(host|hostaddr|port|user|dbname|sslmode)=", found[3]):
            raise SettingsError(_SEVERAL)
        value = found[2] if found[2] is not None else found[3]
        yield found[1], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        at = found.end()


def _named(pairs: Iterable[tuple[str, str]], where: str = "") -> Iterable[tuple[str, str]]:
    """Refuse a name that libpq does not know; it is not repeated, since a password may have been torn apart."""
    for number, (name, value) in enumerate(pairs, 1):
        if name == "requiressl":  # deprecated, and taken by libpq all the same
            name, value = "sslmode", "require" if value.startswith("1") else "prefer"
        if name not in BY_NAME:
            hint = nearest(name, BY_NAME) or "; a setting of the server goes into options=-c name=value"
            raise SettingsError(f"dsn: parameter {number}{where} has a name that libpq does not know{hint}")
        yield name, value


def _one_host(kept: dict[str, str]) -> dict[str, str]:
    """Make an address the host; libpq would connect to it and still hold the certificate against the name."""
    if "hostaddr" in kept and "host" in kept:
        raise SettingsError(
            "dsn: host and hostaddr: give one of them (PGHOST and PGHOSTADDR count), since this exporter's driver"
            " checks the certificate against what it connects to; with host, let the name lead to the address, for"
            " example in /etc/hosts"
        )
    host = kept.get("host") or kept.get("hostaddr") or ""
    hosts, ports = host.split(","), kept.get("port", "").split(",")
    if not all(hosts) and len(hosts) > 1:
        raise SettingsError("dsn: host: one of the list is empty. Name each host.")
    if not all(not port or (port.isascii() and port.isdecimal() and 0 < int(port) < 65536) for port in ports):
        raise SettingsError(
            "dsn: port is no number up to 65535. In a URI a password stands before @: postgresql://user:PASSWORD@host/"
        )
    if len(ports) > 1 and len(ports) != len(hosts):
        raise SettingsError(f"dsn: {len(ports)} ports for {len(hosts)} hosts. Give one for all, or one for each.")
    rest = {name: value for name, value in kept.items() if name not in ("host", "hostaddr")}
    return rest | ({"host": host} if host else {})


def address_of(known: Mapping[str, str]) -> str:
    """Name the server by `host:port`; no secret is in it."""
    host, port = known.get("host", "localhost").split(",")[0], known.get("port", "").split(",")[0]
    return f"{host}:{port or '5432'}"
