"""Has the OpenAPI document say of each field of a dataclass what its docstring says."""

from pydantic import with_config

documented = with_config({"use_attribute_docstrings": True})
"""Decorates a dataclass that programs are answered with."""
