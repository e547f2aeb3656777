"""Shortens the text of a statement to what tells it from others: verb, tables and predicate. Pure."""

import re
from collections.abc import Iterator

GAP = "…"
"""Stands for what was left out."""

_TOKEN = re.compile(r'"(?:[^"]|"")*(?:"|$)|[\w$\x80-\U0010ffff]+|\s+|.', re.DOTALL)

_WHERE = re.compile(" WHERE ", re.IGNORECASE)

_SHORT = 20
"""Length up to which a list of columns, or what is in parentheses, stays as it is."""

_LISTS = {"SELECT": ("FROM",), "SET": ("WHERE", "FROM"), "RETURNING": ()}
"""Word -> words that end the list after it, which tells little of a statement."""

_TAIL = {"GROUP", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR", "WINDOW"}
"""Words after which a statement tells little."""


def shortened(text: str, length: int) -> str:
    """Fold white space, and leave out what tells least until the text has no more than `length` characters.

    Args:
        text: a statement without literals and comments.
        length: upper bound on the characters of the result.

    """
    words = [" " if token.isspace() else token for token in _TOKEN.findall(text)]
    for shorten in (_without_lists, _without_groups, _without_tail):
        if len("".join(words).strip()) <= length:
            break
        words = list(shorten(words))
    return _cut("".join(words).strip(), length)


def _without_lists(words: list[str]) -> Iterator[str]:
    """Leave out the lists of columns that are not within parentheses."""
    depth, place = 0, 0
    while place < len(words):
        word = words[place]
        depth += (word == "(") - (word == ")")
        yield word
        place += 1
        if depth == 0 and (ends := _LISTS.get(word.upper())) is not None:
            end = _end(words, place, ends)
            inside = "".join(words[place:end])
            yield f" {GAP} " if len(inside) > _SHORT else inside
            place = end


def _end(words: list[str], start: int, ends: tuple[str, ...]) -> int:
    """Return where the list from `start` on ends: at one of the words, outside of parentheses, or at the end."""
    depth = 0
    for place in range(start, len(words)):
        depth += (words[place] == "(") - (words[place] == ")")
        if depth == 0 and words[place].upper() in ends:
            return place
    return len(words)


def _without_groups(words: list[str]) -> Iterator[str]:
    """Leave out what is within parentheses, unless it is short, or the whole predicate."""
    place, last = 0, ""
    while place < len(words):
        if words[place] != "(" or last == "WHERE":
            yield words[place]
            last = words[place].upper() if words[place] != " " else last
            place += 1
            continue
        end = _end(words, place, (")",))
        inside = "".join(words[place + 1 : end])
        yield f"({GAP})" if len(inside) > _SHORT else f"({inside})"
        place, last = end + 1, ")"


def _without_tail(words: list[str]) -> Iterator[str]:
    """Leave out what only sorts, groups and counts the rows."""
    for place, word in enumerate(words):
        if place and word.upper() in _TAIL:
            yield GAP
            return
        yield word


def _cut(text: str, length: int) -> str:
    """Cut a text that is still too long: half of it for verb and tables, the rest for the predicate."""
    if len(text) <= length:
        return text
    found = _WHERE.search(text)
    before, where, predicate = (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")
    room = length - len(where) - len(GAP)
    if not where or room < length // 2:
        return text[: length - len(GAP)] + GAP
    head = max(room // 2, room - len(predicate))
    before = before if len(before) <= head else before[: head - len(GAP)] + GAP
    text = before + where + predicate
    return text if len(text) <= length else text[: length - len(GAP)] + GAP
