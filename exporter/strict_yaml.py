"""YAML that people write: strictly read, and what is wrong said with its place."""

from typing import Any

import yaml
from pydantic import ValidationError


def explain(error: ValidationError) -> list[str]:
    """Say each thing that pydantic found wrong as `place: what is wrong`."""
    lines = []
    for found in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in found["loc"])
        message = found["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if place else message)
    return lines


_MERGE = "tag:yaml.org,2002:merge"


class StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, where PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys are plain and different."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.MarkedYAMLError(problem="a key must be plain", problem_mark=key_node.start_mark)
            if (type(key), key) in seen:  # `on` and 1 are equal for Python
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is written twice", problem_mark=key_node.start_mark)
            seen.add((type(key), key))
        return super().construct_mapping(node, deep)
