"""Reads YAML that users write: every failure is one line of `file: place: what is wrong. remedy`."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import PgvigilError
from exporter.small_file import OddFileError, read_small

try:
    from yaml import CSafeLoader as _Loader  # ten times as fast as the one in Python
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

_DEEPEST_LEVEL = 100
"""Upper bound on nesting: libyaml's loader recurses in C and crashes the process some ten thousand levels down."""

_BOOL = "tag:yaml.org,2002:bool"
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


def load(file: Path, error: type[PgvigilError], name: str, loader: "type[StrictLoader] | None" = None) -> Any:
    """Read and parse a file, which errors call by this name; raises `error`."""
    return parse(read(file, error, name), error, name, loader or WordsLoader)


def read(file: Path, error: type[PgvigilError], name: str) -> str:
    """Read a regular file of bounded size; raises `error`."""
    raw = b""
    try:
        raw = read_small(file)
        return raw.decode("utf-8")
    except OddFileError as found:
        raise error(f"{name}: {found}.") from None
    except UnicodeDecodeError as found:
        line = raw.count(b"\n", 0, found.start) + 1
        raise error(f"{name}: cannot be read: line {line} is not UTF-8. Save the file as UTF-8.") from None
    except OSError as found:
        raise error(f"{name}: cannot be read: {found.strerror}. Correct its path or its permissions.") from None


class StrictLoader(_Loader):
    """Refuses a key written twice, of which PyYAML keeps the last without a word."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; one that its tag does not fit is an error with its line."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            tag = node.tag.rpartition(":")[2]
            raise _Refused(node, f"value is no valid {tag}. Correct it, or quote it if it is text.") from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys are plain and different."""
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # !!set may stand at anything
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _Refused(key_node, "a key must be plain. Write a word or a number.")
            if (type(key), key) in seen:  # `on` and 1 are equal for Python
                raise _Refused(key_node, f"key {key!r} is written twice. Keep one of them.")
            seen.add((type(key), key))
        return super().construct_mapping(node, deep)


class WordsLoader(StrictLoader):
    """Takes only true and false for truth values, as YAML 1.2 does: `pages: off`, a label `country: no`."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # so is PyYAML's
        first: [(tag, shape) for tag, shape in tags if tag != _BOOL or first in "tTfF"]
        for first, tags in StrictLoader.yaml_implicit_resolvers.items()
    }


class TextsLoader(StrictLoader):
    """Leaves values as they are written, but for null: a user 007 is not 7. Whoever wants a number makes it one."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # so is PyYAML's
        first: [(tag, shape) for tag, shape in tags if tag in (_NULL, _MERGE)]
        for first, tags in StrictLoader.yaml_implicit_resolvers.items()
    }


class _Refused(yaml.MarkedYAMLError):
    """A fault that this module finds itself, with its place and remedy."""

    def __init__(self, where: Any, what: str) -> None:
        super().__init__(problem=what, problem_mark=where.start_mark)


def parse(text: str, error: type[PgvigilError], name: str, loader: type[StrictLoader] = StrictLoader) -> Any:
    """Parse YAML; raises `error`, which never quotes a value, since that may be a secret."""
    try:
        _refuse_deep(text)
        return yaml.load(text, loader)  # noqa: S506  # it is a SafeLoader
    except yaml.MarkedYAMLError as found:
        mark = found.problem_mark or found.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        said = ", ".join(filter(None, (found.context, found.problem)))
        what = re.sub(r"the tag '.*'|alias '.*'", _without_name, said)  # text that begins with ! or * reads as one
        remedy = "" if isinstance(found, _Refused) else ". Correct the YAML there."
        raise error(f"{name}: {place}{what}{remedy}") from None
    except yaml.reader.ReaderError as found:
        line = text.encode().count(b"\n", 0, found.position) + 1
        raise error(f"{name}: line {line}: holds a character that YAML does not allow. Remove it.") from None
    except RecursionError:  # aliases within aliases
        raise error(f"{name}: is nested too deeply. Use fewer levels.") from None


def _without_name(found: re.Match[str]) -> str:
    return found[0].partition("'")[0].rstrip()


def _refuse_deep(text: str) -> None:
    level = 0
    for event in yaml.parse(text, _Loader):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > _DEEPEST_LEVEL:
            raise _Refused(event, f"is nested more than {_DEEPEST_LEVEL} levels deep. Use fewer levels.")
