"""Pods of PostgreSQL by their labels, as operators set them. Blocking.

CloudNativePG: `cnpg.io/cluster=NAME,cnpg.io/podRole=instance`. Zalando: `application=spilo,cluster-name=NAME`. Crunchy:
`postgres-operator.crunchydata.com/cluster=NAME,postgres-operator.crunchydata.com/data=postgres`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

from exporter.connection_settings import SourceSettings
from exporter.discovery.http_json import asked, first_line, reason
from exporter.discovery.member import Answer, Member
from exporter.errors import DiscoveryError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder of the account of a pod: its token, which is renewed, the authority of the API, and its namespace."""

CLUSTER_LABELS = ("cnpg.io/cluster", "cluster-name", "postgres-operator.crunchydata.com/cluster")
"""Labels by which operators name the cluster of a pod."""

_PAGE = 100
"""Pods of a page: each may have tens of kilobytes."""

_MOST_PAGES = 10


def kubernetes(source: SourceSettings, account: Path = ACCOUNT) -> Answer:
    """List the pods that have an address and have not ended; DiscoveryError where they cannot be listed."""
    with _reasons(source):
        api, after, version = _Api.of(source, account), "", ""
        members = list[Member]()
        for _ in range(_MOST_PAGES):
            page = asked(api.url(limit=str(_PAGE), **{"continue": after} if after else {}), api.ca_file, api.headers)
            members += [member for pod in page["items"] for member in _members(pod, source.port)]
            about = page.get("metadata", {})
            after, version = about.get("continue", ""), str(about.get("resourceVersion", ""))
            if not after:
                return Answer(members, version)
        raise DiscoveryError(f"{source.title}: the list has no end. Name fewer pods by the selector")


def have_pods_changed(source: SourceSettings, version: str, seconds: float, account: Path = ACCOUNT) -> bool:
    """Wait until one of the pods changes, appears or goes, or `seconds` have passed; DiscoveryError where it cannot.

    Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. Whatever is
    said, the list says what there is: a version that is too old (410 Gone) is one more reason to read it.
    """
    with _reasons(source):
        api = _Api.of(source, account)
        url = api.url(watch="1", resourceVersion=version, timeoutSeconds=str(max(int(seconds), 1)))
        try:
            return bool(first_line(url, api.ca_file, api.headers, seconds))
        except HTTPError as error:
            if error.code == HTTPStatus.GONE:
                return True
            raise


@contextmanager
def _reasons(source: SourceSettings) -> Iterator[None]:
    """Have whatever it answers be a DiscoveryError."""
    try:
        yield
    except DiscoveryError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it answers
        raise DiscoveryError(f"{source.title}: {reason(error)}") from None


@dataclass(frozen=True)
class _Api:
    """Where the pods are listed, and as whom."""

    pods: str
    """URL of the list, with the selector."""
    ca_file: Path | None
    headers: Mapping[str, str]

    @classmethod
    def of(cls, source: SourceSettings, account: Path) -> Self:
        """Read what the pod of the exporter knows of its API, anew each time: the token is renewed."""
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{what}", "") for what in ("HOST", "PORT"))
        api = source.urls[0].rstrip("/") if source.urls else f"https://{f'[{host}]' if ':' in host else host}:{port}"
        if not source.urls and not host:
            why = "this is no pod. Give `urls` the address of the API, such as that of `kubectl proxy`"
            raise DiscoveryError(f"{source.title}: {why}")
        token, authority = account / "token", source.ca_file or account / "ca.crt"
        own = account / "namespace"
        if not source.namespace and not own.exists():
            raise DiscoveryError(f"{source.title}: namespace: none is given, and this is no pod. Name it")
        namespace = source.namespace or own.read_text("utf-8").strip()
        secret = token.read_text("utf-8").strip() if token.exists() else ""
        if re.search(r"[^!-~]", secret):
            raise DiscoveryError(f"{source.title}: {token}: holds no token")  # nor is it repeated
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        pods = f"{api}/api/v1/namespaces/{quote(namespace)}/pods?labelSelector={quote(source.selector)}"
        if api.startswith("https:") and not authority.exists():
            raise DiscoveryError(f"{source.title}: ca_file: no file: {authority}. Name the authority of the API")
        return cls(pods, authority if api.startswith("https:") else None, headers)

    def url(self, **parameters: str) -> str:
        """Add parameters."""
        return f"{self.pods}&{urlencode(parameters)}"


def _members(pod: Mapping[str, Any], port: int) -> Iterator[Member]:
    about, status = pod["metadata"], pod.get("status") or {}
    has_ended = about.get("deletionTimestamp") or status.get("phase") in ("Failed", "Succeeded")
    if (address := status.get("podIP")) and not has_ended:  # of one that has ended, another may have the address
        labels = about.get("labels") or {}
        cluster = next((labels[name] for name in CLUSTER_LABELS if name in labels), "")
        yield Member(about["name"], address, port, {"cluster": cluster} if cluster else {})
