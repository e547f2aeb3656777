"""Members of a Patroni cluster, by its REST API (https://patroni.readthedocs.io/en/latest/rest_api.html). Blocking."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.connection_settings import SourceSettings
from exporter.discovery.member import Member
from exporter.errors import DiscoveryError

_SECONDS = 5.0
"""Timeout of one request; the next member is asked then."""

_MOST_BYTES = 1024 * 1024


def patroni(source: SourceSettings) -> list[Member]:
    """Ask one member after another for its cluster, until one answers; DiscoveryError where none does."""
    failures = list[str]()
    for url in source.urls:
        try:
            return list(_members(_asked(f"{url.rstrip('/')}/cluster", source)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            failures.append(f"{url}: {why or type(error).__name__}")
    raise DiscoveryError(f"{source.title}: no member answers: {'; '.join(failures)}")


def _asked(url: str, source: SourceSettings) -> Mapping[str, Any]:
    context = ssl.create_default_context(cafile=str(source.ca_file)) if source.ca_file else None
    with urllib.request.urlopen(url, timeout=_SECONDS, context=context) as answer:  # noqa: S310  # http and https only
        found: Mapping[str, Any] = json.loads(answer.read(_MOST_BYTES))
    return found


def _members(cluster: Mapping[str, Any]) -> Iterator[Member]:
    """Read the members. One that has never run has no address yet."""
    for each in cluster["members"]:
        if host := each.get("host"):
            labels = {"cluster": str(cluster["scope"])} if "scope" in cluster else {}
            yield Member(str(each["name"]), str(host), int(each.get("port", 5432)), labels)
