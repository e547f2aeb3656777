"""Finds the listed statement that a session runs by its text, where the session shows no query identifier.

It shows none before PostgreSQL 14, and later while it parses and plans: so when it waits for a lock on a relation.
"""

import re
from collections.abc import Mapping

from exporter.literals import without_literals

Statement = tuple[str, str, str]
"""Database, user and query identifier, as the labels of pg_statements_calls_total have them."""

OTHER: Statement = ("", "", "other")
"""Stands for all statements without series of their own."""

MOST_BYTES = 1000
"""Bytes of a text that are read of a session, whatever their encoding; a longer text matches none."""

_MOST_NEW_TEXTS = 100
"""Upper bound on the texts compared for the first time in one look; each costs tens of microseconds."""

_REMEMBERED = 2000
"""Upper bound on the texts that are remembered with their statement."""

_PARAMETER = re.compile(r"\$\d+")
_SPACE_BESIDE_SIGN = re.compile(r"\s*([^\w\s])\s*")
_NEGATIVE = re.compile(r"(?<=[=<>(,])-\?")
_LIST = re.compile(r"\?(?:,\?)+")
_SPACE = re.compile(r"\s+")


def comparable(text: str) -> str:
    """Write a statement such that the text of pg_stat_statements and that of a session are the same."""
    bare = _SPACE_BESIDE_SIGN.sub(r"\1", _PARAMETER.sub("?", without_literals(text)))
    bare = _LIST.sub("?", _NEGATIVE.sub("?", bare))  # PostgreSQL 18 folds lists of constants
    return _SPACE.sub(" ", bare).strip(" ;")


class StatementMatcher:
    """Remembers which text belongs to which of the listed statements."""

    def __init__(self) -> None:
        self._listed: Mapping[Statement, str] = {}
        self._by_text: dict[tuple[str, str, str], Statement] = {}
        self._known: dict[tuple[str, str, bytes], Statement] = {}
        self._new_texts = 0

    def begin(self, listed: Mapping[Statement, str]) -> None:
        """Begin a look, with the statements that are listed and their texts."""
        self._new_texts = 0
        if listed is not self._listed:
            self._listed = listed
            self._known = {}
            texts = [(statement, comparable(text)) for statement, text in listed.items() if text]
            self._by_text = {(database, user, text): (database, user, key) for (database, user, key), text in texts}

    def statement(self, database: str, user: str, text: bytes) -> Statement:
        """Return the listed statement of a database and user with this text, or that of all others."""
        if not self._by_text or not text or len(text) >= MOST_BYTES:
            return OTHER
        key = database, user, text
        if key not in self._known:
            self._new_texts += 1
            if self._new_texts > _MOST_NEW_TEXTS:
                return OTHER
            if len(self._known) >= _REMEMBERED:
                self._known = {}
            self._known[key] = self._by_text.get((database, user, comparable(text.decode(errors="replace"))), OTHER)
        return self._known[key]
