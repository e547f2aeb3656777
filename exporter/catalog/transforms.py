"""Steps in code between the rows of a query and its metrics: declared here, done where samples are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Transform:
    """A step in code between the rows of a query and the metrics, for what SQL cannot do in linear time."""

    needs: tuple[str, ...]
    """Columns that the query has to have."""
    adds: tuple[str, ...]
    """Columns that the metrics may use besides those of the query."""


TransformName = Literal["wait_roots"]


TRANSFORMS: Mapping[TransformName, Transform] = {
    "wait_roots": Transform(
        needs=("owner", "object", "locktype", "mode", "granted", "waited_seconds"),
        adds=("held_mode", "blocked_sessions", "longest_wait_seconds", "longest_data_wait_seconds"),
    )
}
