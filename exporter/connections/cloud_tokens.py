"""Tokens that stand for a password in the clouds, by the libraries of each: extras, imported when they are needed.

AWS: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html
Google: https://cloud.google.com/sql/docs/postgres/iam-authentication
Azure: https://learn.microsoft.com/azure/postgresql/flexible-server/how-to-configure-sign-in-azure-ad-authentication
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from exporter.connections.credentials import FromCloud
from exporter.errors import SettingsError

Cloud = Literal["aws", "google", "azure"]

Token = Callable[[Mapping[str, Any]], str]

_GOOGLE_SCOPE = "https://www.googleapis.com/auth/sqlservice.login"

_AZURE_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"


def from_cloud(cloud: Cloud) -> FromCloud:
    """Return what gives the tokens of a cloud; SettingsError where its library is not installed."""
    makers: Mapping[Cloud, Callable[[], Token]] = {"aws": _aws, "google": _google, "azure": _azure}
    try:
        return FromCloud(cloud, makers[cloud]())
    except ImportError as error:
        raise SettingsError(
            f"password_source: {cloud} needs its library: pip install 'pgvigil[{cloud}]' ({error})"
        ) from None


def _aws() -> Token:
    """Sign a request to connect with the credentials that botocore finds; no server is asked for it."""
    from botocore.session import Session

    session = Session()

    def token(server: Mapping[str, Any]) -> str:
        host = str(server.get("host", ""))
        region = _region(host) or os.environ.get("AWS_REGION") or session.get_config_variable("region")
        if not region:
            raise SettingsError(f"password_source: aws: {host} names no region. Set AWS_REGION")
        client = session.create_client("rds", region_name=region)
        return str(client.generate_db_auth_token(host, int(server.get("port", 5432)), str(server.get("user", ""))))

    return token


def _region(host: str) -> str:
    """Find the region in the name of a host of RDS or Aurora."""
    found = re.search(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.rds\.amazonaws\.com(?:\.cn)?$", host)
    return found[1] if found else ""


def _google() -> Token:
    """Fetch a token for the account that the machine, or the environment, has."""
    import google.auth
    import google.auth.transport.requests

    request = google.auth.transport.requests.Request()
    found: list[Any] = []

    def token(_: Mapping[str, Any]) -> str:
        if not found:
            found.append(google.auth.default(scopes=[_GOOGLE_SCOPE])[0])
        if not found[0].valid:
            found[0].refresh(request)
        return str(found[0].token)

    return token


def _azure() -> Token:
    """Fetch a token for the identity that the machine, or the environment, has."""
    from azure.identity import DefaultAzureCredential

    credential = DefaultAzureCredential()

    def token(_: Mapping[str, Any]) -> str:
        return str(credential.get_token(_AZURE_SCOPE).token)

    return token
