"""Formats validation errors for users: place, fault, and the name that a misspelt one may stand for. Pure."""

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import AfterValidator, BaseModel, ValidationError

_MESSAGES = {
    "bool_parsing": "Input should be true or false",
    "bool_type": "Input should be true or false",
    "extra_forbidden": "no such key",
    "dict_type": "Input should be a mapping",
    "list_type": "Input should be a list",
    "model_type": "Input should be a mapping",
    "path_type": "Input should be a path",
    "tuple_type": "Input should be a list",
}
"""Messages in YAML's words instead of Python's."""


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """Format each error of pydantic as `place: what is wrong`; with its model, suggest a key for a misspelt one."""
    lines = []
    for found in error.errors(include_url=False, include_input=False):
        place = ".".join(_shown(part) for part in found["loc"])
        message = _MESSAGES.get(found["type"]) or found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden" and model:
            message += nearest(_unprefixed(str(found["loc"][-1])), _keys(model, found["loc"][:-1]))
        lines.append(f"{place}: {message}" if place else message)
    return lines


def _shown(part: str | int) -> str:
    """Return a part of a place; a key that looks like no name may be a secret that slipped into its place."""
    return str(part) if re.fullmatch(r"\[key\]|[\w .:-]{1,40}", str(part)) else "(a key that is not repeated here)"


def _unprefixed(key: str) -> str:
    """Return the key of a file for the variable of the environment that was written in its place."""
    return key.lower().removeprefix("pgvigil_")


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the name that a misspelt one may stand for, as the end of a sentence; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _keys(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """List the keys that a model takes at a place; an index, or a key of a mapping, leads no deeper."""
    for part in place:
        if field := model.model_fields.get(str(part)):
            within = _model_in(field.annotation)
            if within is None:
                return []
            model = within
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model within a type such as `dict[str, Model] | None`."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def shaped(pattern: str, what: str) -> AfterValidator:
    """Make a validator of the shape of a text; `what` says in words what a wrong one is none of."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value[:_MOST_REPEATED]!r} is no {what}")
        return value

    return AfterValidator(check)


_MOST_REPEATED = 100
"""Characters of a wrong value that its error repeats."""
