"""Instances of RDS and Aurora by their tags (DescribeDBInstances). Blocking; its library is an extra."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.connection_settings import SourceSettings
from exporter.discovery.member import Answer, Member
from exporter.errors import DiscoveryError, SettingsError


def aws(source: SourceSettings, client: Any = None) -> Answer:
    """List the instances that have all the tags; DiscoveryError where they cannot be listed."""
    try:
        import botocore.exceptions
        from botocore.session import Session
    except ImportError as error:
        raise SettingsError(f"{source.title}: needs its library: pip install 'pgvigil[aws]' ({error})") from None
    try:
        region = source.region or os.environ.get("AWS_REGION")  # which botocore does not heed
        client = client or Session().create_client("rds", region_name=region)
        pages = client.get_paginator("describe_db_instances").paginate()
        return Answer([member for page in pages for member in _members(page["DBInstances"], source.tags)])
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise DiscoveryError(f"{source.title}: {type(error).__name__}: {error}") from None


def _members(instances: list[Mapping[str, Any]], tags: Mapping[str, str]) -> Iterator[Member]:
    """Choose among instances. One that is being created has no endpoint yet."""
    for each in instances:
        has = {tag["Key"]: tag.get("Value", "") for tag in each.get("TagList", ())}
        if "postgres" in each["Engine"] and tags.items() <= has.items() and (place := each.get("Endpoint")):
            cluster = each.get("DBClusterIdentifier")
            labels = {"cluster": cluster} if cluster else {}
            yield Member(each["DBInstanceIdentifier"], place["Address"], int(place["Port"]), labels)
