"""Names one server among those that a DSN leads to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Host and port, and which address of a host that has several; no secret is in it."""

    host: str
    port: str
    address: str = ""
    """As it was looked up; empty for a socket."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def is_named(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether the parameters of one server lead to this host and port."""
        return place_of(parameters) == Place(self.host, self.port)


def place_of(parameters: Mapping[str, Any], address: str = "") -> Place:
    """Return where the parameters of one server lead to."""
    return Place(str(parameters.get("host", "localhost")), str(parameters.get("port", "5432")), address)
