"""Everything in a collector file that depends on a version: how it is read, chosen, and put into a query. Pure."""

import re
from collections.abc import Iterator, Mapping, Set
from typing import Annotated

from pydantic import BeforeValidator

from exporter.literals import without_literals

Version = tuple[int, ...]
"""A server's or an extension's version, as numbers: (17,), (1, 11)."""


OLDEST = 13
"""Oldest major version of PostgreSQL that is supported: a query without a version runs from here on."""


NEWEST = 18
"""Newest major version of PostgreSQL that the tests run on: a query from a later one on has not been run on it."""


def _version(value: object) -> Version:
    """Read `17` or `"1.11"`; a bare 1.10 is the number 1.1, so it has to be quoted."""
    if isinstance(value, float):
        raise ValueError(f"version {value} must be quoted: YAML reads 1.10 as the number 1.1")
    if isinstance(value, bool) or not re.fullmatch(r"\d+(\.\d+)*", str(value)):
        raise ValueError(f'{value!r} is no version: write 17 or "1.11"')
    return tuple(int(part) for part in str(value).split("."))


def _texts(value: object) -> object:
    """Sort a map of first version to text, oldest first; one text alone is for every version."""
    if isinstance(value, str):
        return {"0": value}
    if not isinstance(value, Mapping) or not value:
        raise ValueError("expected SQL, or a map of first version to SQL")
    if len({_version(key) for key in value}) < len(value):
        raise ValueError("a version is written twice, once with quotes; keep one of the two")
    return dict(sorted(value.items(), key=lambda pair: _version(pair[0])))


VersionField = Annotated[Version, BeforeValidator(_version)]


ByVersion = Annotated[dict[VersionField, str | None], BeforeValidator(_texts)]
"""First version -> text, oldest first; None = gone from that version on."""


_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")

_OUTSIDE_STRINGS = re.compile(rf'"[^"]*"|{_PLACEHOLDER.pattern}')
"""Finds placeholders in SQL without literals. Braces are no SQL there, so a valid query has no others."""

SCHEMA = "schema"
"""Placeholder of the schema in which the extension lives, which the plan fills in."""


def newest(texts: Mapping[Version, str | None], version: Version) -> str | None:
    """Choose the newest text that is not newer than this version; None where there is none."""
    fitting = [text for first, text in texts.items() if first <= version]
    return fitting[-1] if fitting else None


def expanded(sql: str, fragments: Mapping[str, ByVersion], version: Version) -> str | None:
    """Put the fragments of this version into a query; None where it is older than a fragment that the query uses."""
    used = {name: fragments[name] for name in _PLACEHOLDER.findall(sql) if name in fragments}
    if any(version < next(iter(texts)) for texts in used.values()):
        return None
    text = {name: newest(texts, version) or "" for name, texts in used.items()}
    return _PLACEHOLDER.sub(lambda found: text.get(found[1], found[0]), sql)


def faults(
    queries: Mapping[str, ByVersion], fragments: Mapping[str, ByVersion], start: Version, *, with_schema: bool
) -> Iterator[str]:
    """Say what does not fit together, as `place: fault; remedy`.

    Args:
        queries: key of the file -> its queries.
        fragments: name -> its texts.
        start: the first version on which the queries run.
        with_schema: whether there is an extension, in whose schema the queries look.

    """
    used: set[str] = set()
    for key, texts in queries.items():
        for first, sql in texts.items():
            place, found = _place(key, first), _placeholders(sql or "", fragments)
            used |= found
            yield from _undeclared(place, found - fragments.keys(), with_schema=with_schema)
            yield from _too_late(place, {name: fragments[name] for name in found & fragments.keys()}, max(first, start))
    for name, texts in fragments.items():
        if name == SCHEMA:
            yield f"fragments.{name}: reserved for the schema of an extension; choose another name"
        elif name not in used:
            yield f"fragments.{name}: no query uses {{{name}}}; remove it"
        for first, text in texts.items():
            place, found = _place(f"fragments.{name}", first), _placeholders(text or "", fragments)
            yield from _undeclared(place, found - fragments.keys(), with_schema=with_schema)
            for other in sorted(found & fragments.keys()):
                yield f"{place}: uses {{{other}}}, and a fragment cannot use another; put both into the query"


def _undeclared(place: str, names: Set[str], *, with_schema: bool) -> Iterator[str]:
    for name in sorted(names):
        if name != SCHEMA:
            yield f"{place}: {{{name}}} is no fragment; declare it under fragments"
        elif not with_schema:
            yield f"{place}: {{{name}}} is the schema of an extension; name the extension with the key extension"


def _too_late(query: str, fragments: Mapping[str, ByVersion], start: Version) -> Iterator[str]:
    """Say which fragments begin after the query that uses them, which runs from `start` on."""
    for name, texts in fragments.items():
        if start < (first := next(iter(texts))):
            place = f"{_place(f'fragments.{name}', first)}: begins too late: {query} runs"
            if any(start):
                yield f"{place} from {_text(start)} on; add {_text(start)}, with null for no text"
            else:
                yield f'{place} on every version; make it a map that begins with "{_text(first)}"'


def _placeholders(sql: str, fragments: Mapping[str, ByVersion]) -> set[str]:
    """Find the names of fragments, and whatever else is in braces outside of strings, quoted names and comments."""
    anywhere = {name for name in _PLACEHOLDER.findall(sql) if name in fragments}
    return anywhere | {name for name in _OUTSIDE_STRINGS.findall(without_literals(sql)) if name}


def _place(key: str, version: Version) -> str:
    """Name the place of a text; one text for every version stands right below its key."""
    return f"{key}.{_text(version)}" if any(version) else key


def _text(version: Version) -> str:
    return ".".join(map(str, version))
