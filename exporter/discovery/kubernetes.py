"""Pods of PostgreSQL by their labels, as operators set them. Blocking.

CloudNativePG: `cnpg.io/cluster=NAME,cnpg.io/podRole=instance`. Zalando: `application=spilo,cluster-name=NAME`. Crunchy:
`postgres-operator.crunchydata.com/cluster=NAME,postgres-operator.crunchydata.com/data=postgres`.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from exporter.connection_settings import SourceSettings
from exporter.discovery.http_json import asked, reason
from exporter.discovery.member import Member
from exporter.errors import DiscoveryError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder of the account of a pod: its token, which is renewed, the authority of the API, and its namespace."""

CLUSTER_LABELS = ("cnpg.io/cluster", "cluster-name", "postgres-operator.crunchydata.com/cluster")
"""Labels by which operators name the cluster of a pod."""

_PAGE = 500

_MOST_PAGES = 10


def kubernetes(source: SourceSettings, account: Path = ACCOUNT) -> list[Member]:
    """List the pods that have an address and are not being deleted; DiscoveryError where they cannot be listed."""
    try:
        pods = list(_pods(source, account))
        return [member for pod in pods for member in _members(pod, source.port)]
    except DiscoveryError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it answers
        raise DiscoveryError(f"{source.title}: {reason(error)}") from None


def _pods(source: SourceSettings, account: Path) -> Iterator[Mapping[str, Any]]:
    """Read all pages of the list."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{what}", "") for what in ("HOST", "PORT"))
    api = source.urls[0].rstrip("/") if source.urls else f"https://{f'[{host}]' if ':' in host else host}:{port}"
    token, authority = account / "token", source.ca_file or account / "ca.crt"
    namespace = source.namespace or account.joinpath("namespace").read_text("utf-8").strip()
    headers = {"Authorization": f"Bearer {token.read_text('utf-8').strip()}"} if token.exists() else {}
    where = f"{api}/api/v1/namespaces/{quote(namespace)}/pods?limit={_PAGE}&labelSelector={quote(source.selector)}"
    trusted, after = authority if api.startswith("https:") else None, ""
    for _ in range(_MOST_PAGES):
        found = asked(f"{where}&continue={quote(after)}" if after else where, trusted, headers)
        yield from found["items"]
        after = found.get("metadata", {}).get("continue", "")
        if not after:
            return
    raise DiscoveryError(f"{source.title}: the list has no end. Name fewer pods by the selector")


def _members(pod: Mapping[str, Any], port: int) -> Iterator[Member]:
    about = pod["metadata"]
    if (address := pod.get("status", {}).get("podIP")) and not about.get("deletionTimestamp"):
        labels = about.get("labels", {})
        cluster = next((labels[name] for name in CLUSTER_LABELS if name in labels), "")
        yield Member(about["name"], address, port, {"cluster": cluster} if cluster else {})
