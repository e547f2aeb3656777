"""Members of a Patroni cluster, by its REST API (https://patroni.readthedocs.io/en/latest/rest_api.html). Blocking."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.connection_settings import SourceSettings
from exporter.discovery.http_json import SECONDS, asked, reason
from exporter.discovery.member import Answer, Member
from exporter.errors import DiscoveryError

_SECONDS = 16.0
"""Seconds for all members together: a question is given up after twenty."""

_LEAST_SECONDS = 0.5


def patroni(source: SourceSettings) -> Answer:
    """Ask one member after another for its cluster, until one answers; DiscoveryError where none does."""
    failures, until = list[str](), time.monotonic() + _SECONDS
    for place, url in enumerate(source.urls):
        share = (until - time.monotonic()) / (len(source.urls) - place)
        seconds = min(max(share, _LEAST_SECONDS), SECONDS)
        try:
            if found := list(_members(asked(f"{url.rstrip('/')}/cluster", source.ca_file, seconds=seconds))):
                return Answer(found)
            failures.append(f"{url}: names no member, though it is one")
        except Exception as error:  # noqa: BLE001  # whatever it answers, the next may know better
            failures.append(f"{url}: {reason(error)}")
    raise DiscoveryError(f"{source.title}: no member answers: {'; '.join(failures)}")


def _members(cluster: Mapping[str, Any]) -> Iterator[Member]:
    """Read the members. One that has never run has no address yet."""
    for each in cluster["members"]:
        if host := each.get("host"):
            labels = {"cluster": str(cluster["scope"])} if "scope" in cluster else {}
            yield Member(str(each["name"]), str(host), int(each.get("port", 5432)), labels)
