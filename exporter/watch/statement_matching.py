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
_SPACE_BESIDE_SIGN = re.compile(r" ?([^\w ]) ?")
_NEGATIVE = re.compile(r"(?<=[=<>(,\[+*/-])-\?")
_NEGATIVE_WORD = re.compile(
    r"\b(AND|BETWEEN|BY|CASE|ELSE|IN|LIKE|LIMIT|NOT|OFFSET|ON|OR|RETURNING|SELECT|THEN|VALUES|WHEN|WHERE)-\?",
    re.IGNORECASE,
)
"""Words after which a sign belongs to the constant."""
_LIST = re.compile(r"\?(?:,\?)+")
_SPACE = re.compile(r"\s+")


def comparable(text: str, *, folds_lists: bool = False) -> str:
    """Write a statement such that the text of pg_stat_statements and that of a session are the same.

    Args:
        text: either of them.
        folds_lists: whether a list of constants is one, however long it is: so PostgreSQL 18 counts them.

    """
    bare = _SPACE.sub(" ", _PARAMETER.sub("?", without_literals(text)))
    bare = _SPACE_BESIDE_SIGN.sub(r"\1", bare)
    bare = _NEGATIVE_WORD.sub(r"\1?", _NEGATIVE.sub("?", bare))
    bare = _LIST.sub("?", bare) if folds_lists else bare
    return _SPACE.sub(" ", bare).strip(" ;")


class StatementMatcher:
    """Remembers which text belongs to which of the listed statements."""

    def __init__(self) -> None:
        self._listed: Mapping[Statement, str] = {}
        self._folds_lists = False
        self._by_text: dict[Statement, Statement] = {}
        """Database, user and comparable text of each listed statement."""
        self._known: dict[tuple[str, str, bytes], Statement] = {}
        self._new_texts = 0

    def begin(self, listed: Mapping[Statement, str], *, folds_lists: bool = False) -> None:
        """Begin a look, with the statements that are listed and their texts."""
        self._new_texts = 0
        if listed is self._listed and folds_lists == self._folds_lists:
            return
        known = {self._listed.get(found): text for (*_, text), found in self._by_text.items()}
        known = known if folds_lists == self._folds_lists else {}
        self._listed, self._folds_lists, self._known, self._by_text = listed, folds_lists, {}, {}
        for statement, text in listed.items():
            if text:
                key = (*statement[:2], known.get(text) or comparable(text, folds_lists=folds_lists))
                self._by_text[key] = OTHER if key in self._by_text else statement  # of two it may be either

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
            written = comparable(text.decode(errors="replace"), folds_lists=self._folds_lists)
            self._known[key] = self._by_text.get((database, user, written), OTHER)
        return self._known[key]
