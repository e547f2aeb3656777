"""Texts of statements that run and are in no list yet: pg_stat_statements counts a statement at its end."""

from collections.abc import Collection, Mapping

from exporter.connections.session import Session
from exporter.errors import QueryError
from exporter.literals import without_literals
from exporter.statement_text import shortened
from exporter.watch.statement_matching import Statement

TEXTS = """
SELECT query_id AS queryid,
       (array_agg(substring(textsend(query) FOR 4000)))[1] AS query
  FROM pg_stat_get_activity(NULL)
 WHERE state = 'active'
   AND query_id::text = ANY(string_to_array($1, ','))
 GROUP BY 1
/* pgvigil:seen_texts */
"""
"""Source: pg_stat_activity, 14 and later. Texts are taken as bytes: `left` fails on another database's encoding."""

_LOOKS = 3
"""Looks in a row that a statement has to be seen at, so that a text is worth its query."""

_MOST_ASKED = 5
"""Upper bound on the statements that are asked for at a time."""

_PAUSE_SECONDS = 10.0
"""Seconds between two questions."""

_REMEMBERED = 200
"""Upper bound on the texts that are remembered, the oldest of which is forgotten first."""


class SeenTexts:
    """Asks for the text of what runs long, and remembers it by the query identifier, without literals."""

    def __init__(self, length: int) -> None:
        self.texts: dict[str, str] = {}
        self._length = length
        self._looks: Mapping[str, int] = {}
        self._asked_at = float("-inf")

    async def learn(
        self,
        session: Session,
        running: Collection[Statement],
        listed: Mapping[Statement, str],
        now: float,
        timeout: float,
    ) -> None:
        """Note a look, and ask for texts where that is due.

        Args:
            session: where to ask.
            running: the statements that active sessions are at.
            listed: statements whose texts are known.
            now: a clock in seconds.
            timeout: seconds for the answer.

        """
        ids = {each[2] for each in running if not listed.get(each) and each[2] not in self.texts}
        self._looks = {each: self._looks.get(each, 0) + 1 for each in ids if each.lstrip("-").isdecimal()}
        wanted = [each for each, looks in self._looks.items() if looks >= _LOOKS][:_MOST_ASKED]
        if not wanted or not self._length or now - self._asked_at < _PAUSE_SECONDS:
            return
        self._asked_at = now
        try:
            rows = (await session.fetch(TEXTS, timeout, ",".join(wanted), patience=timeout)).rows
        except QueryError:
            return  # a text is worth less than the look
        for row in rows:
            text = without_literals((row["query"] or b"").decode(errors="replace"))
            self.texts[str(row["queryid"])] = shortened(text, self._length)
        while len(self.texts) > _REMEMBERED:
            del self.texts[next(iter(self.texts))]
