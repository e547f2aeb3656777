"""Reads libpq's connection strings, both forms, into what asyncpg takes."""

import os
import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from exporter.errors import SettingsError

_PAIR = re.compile(r"\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s\\']|\\.)*))(?=\s|$)", re.DOTALL)

_OURS = {"application_name", "fallback_application_name", "client_encoding", "connect_timeout", "replication"}
"""Parameters that the exporter decides itself: the session's name and guard rails are fixed."""

_TRANSPORT = re.compile(
    r"keepalives\w*|tcp_user_timeout|gssencmode|channel_binding|load_balance_hosts|sslcompression|sslsni|require_auth"
)
"""Parameters of libpq's transport that asyncpg has no counterpart for; harmless unless they demand something."""


def asyncpg_dsn(dsn: str) -> str:
    """Turn a libpq URI or `key=value` string into a URI that asyncpg takes; the empty string leaves all to `PG*`.

    Raises SettingsError when it is neither; the message never repeats the string, which may hold a password.
    """
    if not dsn.strip():
        return "postgresql://"
    if "://" in dsn.split("=", 1)[0]:
        return _uri(dsn.strip())
    return "postgresql://?" + urlencode(_kept(_pairs(dsn)))


def _uri(dsn: str) -> str:
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise SettingsError("dsn: a connection URI starts with postgresql://")
    try:
        parts = urlsplit(dsn)
        well_formed = parts.hostname is None or not re.search(r"[/?#\[\]]", _userinfo(dsn))
    except ValueError:
        well_formed = False
    if not well_formed:
        raise SettingsError("dsn: not a URI; write the characters / ? # @ [ ] of a password as %2F %3F %23 %40 %5B %5D")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    return urlunsplit(parts._replace(query=urlencode(_kept(pairs, parts.hostname))))


def _userinfo(dsn: str) -> str:
    """What a person means by the part before the host: all up to the last @ of what is no query."""
    return dsn.partition("://")[2].rpartition("@")[0]


def _pairs(dsn: str) -> list[tuple[str, str]]:
    pairs, at = [], 0
    while at < len(dsn.rstrip()):
        found = _PAIR.match(dsn, at)
        if not found:
            raise SettingsError(
                f"dsn: character {at + 1}: expected key=value; write postgresql://user@host/database"
                " or host=... dbname=..., and quote a value with blanks: password='my secret'"
            )
        value = found[2] if found[2] is not None else found[3]
        pairs.append((found[1], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)))
        at = found.end()
    return pairs


def _kept(pairs: list[tuple[str, str]], host: str | None = None) -> list[tuple[str, str]]:
    kept = []
    for key, value in _one_host(pairs, host):
        if _TRANSPORT.fullmatch(key):
            if value in ("require", "required"):
                raise SettingsError(f"dsn: {key}={value} cannot be kept by this exporter's driver; leave {key} out")
        elif key not in _OURS:
            kept.append((key, value))
    return kept


def _one_host(pairs: list[tuple[str, str]], host: str | None) -> list[tuple[str, str]]:
    """Write an address as the host; libpq would connect to it and still hold the certificate against the name."""
    given = {key for key, value in pairs if value}
    if "hostaddr" in given and (host or "host" in given):
        raise SettingsError(
            "dsn: host and hostaddr: give one of them, since this exporter's driver checks the certificate against"
            " what it connects to; with host, let the name lead to the address, for example in /etc/hosts"
        )
    return [
        ("host", _bracketed(value)) if key in ("host", "hostaddr") else (key, value)
        for key, value in pairs
        if key != "hostaddr" or value
    ]


def _bracketed(hosts: str) -> str:
    """Put IPv6 addresses into the brackets without which asyncpg takes what follows a colon for the port."""
    return ",".join(f"[{host}]" if re.fullmatch(r"[0-9a-fA-F]*:.*:.*", host) else host for host in hosts.split(","))


def address_of(dsn: str) -> str:
    """Name the server of a connection URI by `host:port`, as `PG*` variables complete it; no secret is in it."""
    parts = urlsplit(dsn)
    said = dict(parse_qsl(parts.query))
    host = parts.hostname or said.get("host") or os.environ.get("PGHOST") or "localhost"
    port = parts.netloc.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    return f"{host}:{port or said.get('port') or os.environ.get('PGPORT') or '5432'}"
