"""Ranges of versions as postgres_exporter writes them (`>=13.0.0 <17.0.0 || 18.x`) -> a query by version. Pure."""

import re

_Bound = tuple[str, tuple[int, ...]]
"""A comparison, and the parts of a version that it is with; parts left out or x may be anything."""

_TERM = r"(>=|<=|==|!=|[<>=!])?\s*(\d+|x)(?:\.(\d+|x))?(?:\.(\d+|x))?"


def checked(text: str) -> str:
    """Return a range of versions as it is; a ValueError says what is wrong with it."""
    for alternative in text.split("||"):
        if not re.fullmatch(rf"\s*({_TERM}(\s+|$))+", alternative):
            raise ValueError(f'{text!r} is no range of versions: write, for example, ">=13.0.0 <17.0.0 || 18.x"')
    return text


def by_first_version(text: str, sql: str) -> dict[str, str | None]:
    """Write a range of versions as our map: first version -> query, or null from where it does not run."""
    alternatives = [[_bound(found) for found in re.finditer(_TERM, part)] for part in text.split("||")]
    limits = {limit for terms in alternatives for _, parts in terms for limit in _limits(parts)}
    runs = {
        limit: any(all(_holds(term, limit) for term in terms) for terms in alternatives)
        for limit in sorted({(0,), *limits})
    }
    return {".".join(map(str, first)): sql if there else None for first, there in runs.items()}


def _bound(term: re.Match[str]) -> _Bound:
    parts = []
    for part in term.groups()[1:]:
        if part is None or part == "x":
            break
        parts.append(int(part))
    return term[1] or "=", tuple(parts)


def _limits(parts: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Name the first version that begins with these parts, and the first after the last of them."""
    first = parts
    while len(first) > 1 and first[-1] == 0:
        first = first[:-1]
    return first or (0,), (*parts[:-1], parts[-1] + 1) if parts else (10**6,)


def _holds(bound: _Bound, version: tuple[int, ...]) -> bool:
    comparison, parts = bound
    first, after = _limits(parts)
    match comparison:
        case "<":
            return version < first
        case "<=":
            return version < after
        case ">":
            return version >= after
        case ">=":
            return version >= first
        case "!=" | "!":
            return not first <= version < after
    return first <= version < after
