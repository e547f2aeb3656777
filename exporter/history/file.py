"""The history of one target in an SQLite file: written once a minute, read when a page asks for it. Blocking."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from exporter.history.minute import Minute, Span, Use
from exporter.watch.active_sessions import Activity
from exporter.watch.statement_matching import Statement

MOST_BYTES = 50_000_000
"""Upper bound on the size of a file, in bytes."""

_PAGE_BYTES = 4096
_FULL = 0.9
"""Share of the bound from which on the oldest tenth of the history is dropped."""

_VERSION = 1
"""Version of the schema; a file of another one is moved aside."""

_PATIENCE_SECONDS = 5.0
"""Seconds to wait for a lock that a reader or a writer of the same process holds."""

_SCHEMA = """
CREATE TABLE statement (
  id INTEGER PRIMARY KEY, datname TEXT, usename TEXT, queryid TEXT, query TEXT, UNIQUE (datname, usename, queryid)
);
CREATE TABLE kind (
  id INTEGER PRIMARY KEY, application TEXT, wait_event_type TEXT, wait_event TEXT,
  UNIQUE (application, wait_event_type, wait_event)
);
CREATE TABLE minute (at INTEGER PRIMARY KEY);
CREATE TABLE activity (
  minute INTEGER, statement INTEGER, kind INTEGER, seconds REAL, PRIMARY KEY (minute, statement, kind)
) WITHOUT ROWID;
CREATE TABLE work (
  minute INTEGER, statement INTEGER, calls REAL, seconds REAL, blocks REAL, PRIMARY KEY (minute, statement)
) WITHOUT ROWID;
CREATE TABLE gauge (minute INTEGER, name TEXT, value REAL, PRIMARY KEY (minute, name)) WITHOUT ROWID;
CREATE TABLE incident (id TEXT PRIMARY KEY, seen REAL, whole TEXT);
"""

_TABLES = 7

MOST_OF_SPAN = 1000
"""Upper bound on the activities and on the statements that are read of a span, the largest first."""

_MINUTES = "SELECT at FROM minute WHERE at >= :since AND at < :until ORDER BY at"

_GAUGES = "SELECT minute, name, value FROM gauge WHERE minute >= :since AND minute < :until ORDER BY minute"

_WAITS = """
SELECT a.minute, k.wait_event_type, total(a.seconds)
  FROM activity AS a
  JOIN kind AS k ON k.id = a.kind
 WHERE a.minute >= :since
   AND a.minute < :until
 GROUP BY 1, 2
"""

_ACTIVITIES = """
SELECT s.datname, s.usename, s.queryid, s.query, k.application, k.wait_event_type, k.wait_event, a.seconds
  FROM (SELECT statement, kind, total(seconds) AS seconds
          FROM activity
         WHERE minute >= :since
           AND minute < :until
         GROUP BY 1, 2
         ORDER BY 3 DESC
         LIMIT :most) AS a
  JOIN statement AS s ON s.id = a.statement
  JOIN kind AS k ON k.id = a.kind
"""

_WORK = """
SELECT s.datname, s.usename, s.queryid, s.query, w.calls, w.seconds, w.blocks
  FROM (SELECT statement, total(calls) AS calls, total(seconds) AS seconds, total(blocks) AS blocks
          FROM work
         WHERE minute >= :since
           AND minute < :until
         GROUP BY 1
         ORDER BY 3 DESC
         LIMIT :most) AS w
  JOIN statement AS s ON s.id = w.statement
"""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""Primary result codes of a file whose content is not what we wrote. Beside them a short read is: other errors of the
disk leave the file as it is."""


class HistoryFile:
    """Every call opens the file and closes it: hundreds of targets hold neither memory nor files meanwhile.

    All methods raise sqlite3.Error or OSError. A damaged file is moved to `NAME.damaged` and a new one begun.
    """

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self._most_bytes = most_bytes
        self._is_checked = False
        self.was_damaged = False
        """True once a damaged file was moved aside."""

    def write(self, minute: Minute | None, incidents: Sequence[Mapping[str, Any]] = ()) -> int:
        """Add a minute and incidents; return the size in bytes.

        Args:
            minute: the minute; None for incidents alone.
            incidents: each replaces the one of the same `id`; its `seen` is when it was last going on, as Unix time.

        """
        rows = [(each["id"], each["seen"], json.dumps(each, default=str, separators=(",", ":"))) for each in incidents]
        with self._open() as database:
            with database:
                database.executemany("INSERT OR REPLACE INTO incident VALUES (?, ?, ?)", rows)
                if minute:
                    _add(database, minute)
            [pages] = database.execute("PRAGMA page_count").fetchone()
        return int(pages * _PAGE_BYTES)

    def drop(self, oldest: float) -> None:
        """Drop what is older than `oldest` (Unix time), and the oldest tenth of a file that is nearly full."""
        with self._open() as database, database:
            if _used_bytes(database) > _FULL * self._most_bytes:
                [first, last] = database.execute(
                    "SELECT min(at), max(at) FROM (SELECT at FROM minute UNION ALL SELECT seen FROM incident)"
                ).fetchone()
                oldest = max(oldest, first + 0.1 * (last - first)) if first is not None else oldest
            database.execute("DELETE FROM minute WHERE at < ?", (oldest,))
            for table in ("activity", "work", "gauge"):
                database.execute(f"DELETE FROM {table} WHERE minute < ?", (oldest,))  # noqa: S608  # a name of ours
            database.execute("DELETE FROM incident WHERE seen < ?", (oldest,))
            database.execute(
                "DELETE FROM statement WHERE id NOT IN (SELECT statement FROM activity)"
                " AND id NOT IN (SELECT statement FROM work)"
            )
            database.execute("DELETE FROM kind WHERE id NOT IN (SELECT kind FROM activity)")

    def incidents(self) -> list[dict[str, Any]]:
        """Return the incidents, oldest first."""
        with self._open() as database:
            rows = database.execute("SELECT whole FROM incident ORDER BY seen").fetchall()
        found = [_read(text) for (text,) in rows]
        return [each for each in found if isinstance(each, dict)]

    def spans(self, spans: Sequence[tuple[float, float]]) -> list[Span]:
        """Return what is known of each span, from its first until before its second Unix time."""
        with self._open() as database:
            return [_span(database, since, until) for since, until in spans]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connect()
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            self._move_aside()
            connection = self._connect()
        with closing(connection) as database:
            try:
                yield database
            except sqlite3.Error as error:
                if _is_damage(error):
                    self._is_checked = False
                raise

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            self._is_checked = False
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(self.path, timeout=_PATIENCE_SECONDS)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA max_page_count = {self._most_bytes // _PAGE_BYTES}")
            _prepare(connection, is_checked=self._is_checked)
            self._is_checked = True
        except BaseException:
            connection.close()
            raise
        return connection

    def _move_aside(self) -> None:
        self.was_damaged, self._is_checked = True, False
        self.path.replace(self.path.with_name(self.path.name + ".damaged"))
        for tail in ("-wal", "-shm"):
            self.path.with_name(self.path.name + tail).unlink(missing_ok=True)


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ


def _used_bytes(database: sqlite3.Connection) -> int:
    [pages] = database.execute("PRAGMA page_count").fetchone()
    [free] = database.execute("PRAGMA freelist_count").fetchone()
    return int((pages - free) * _PAGE_BYTES)


def _prepare(connection: sqlite3.Connection, *, is_checked: bool) -> None:
    """Make the tables of a new file; sqlite3.DatabaseError where an old one is damaged or of another version."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    if not tables and not version:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    elif version != _VERSION or tables < _TABLES:
        raise sqlite3.DatabaseError(f"schema {version}, {tables} tables")
    elif not is_checked:
        [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def _read(text: str) -> object:
    """Read an incident; None for what is none."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return None


def _add(database: sqlite3.Connection, minute: Minute) -> None:
    """Add one minute; the same minute is added to when two processes, one after the other, saw parts of it."""
    database.execute("INSERT OR IGNORE INTO minute VALUES (?)", (minute.at,))
    for statement in {activity.statement for activity in minute.sessions} | set(minute.statements):
        database.execute(
            "INSERT INTO statement (datname, usename, queryid, query) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET query = excluded.query WHERE excluded.query <> ''",
            (*statement, minute.texts.get(statement, "")),
        )
    for activity in minute.sessions:
        kind = activity.application, activity.wait_event_type, activity.wait_event
        database.execute("INSERT OR IGNORE INTO kind (application, wait_event_type, wait_event) VALUES (?, ?, ?)", kind)
    database.executemany(
        "INSERT INTO activity SELECT ?, s.id, k.id, ? FROM statement AS s, kind AS k"
        " WHERE (s.datname, s.usename, s.queryid) = (?, ?, ?)"
        " AND (k.application, k.wait_event_type, k.wait_event) = (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET seconds = activity.seconds + excluded.seconds",
        [
            (minute.at, seconds, *each.statement, each.application, each.wait_event_type, each.wait_event)
            for each, seconds in minute.sessions.items()
        ],
    )
    database.executemany(
        "INSERT INTO work SELECT ?, id, ?, ?, ? FROM statement WHERE (datname, usename, queryid) = (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET calls = work.calls + excluded.calls,"
        " seconds = work.seconds + excluded.seconds, blocks = work.blocks + excluded.blocks",
        [(minute.at, use.calls, use.seconds, use.blocks, *each) for each, use in minute.statements.items()],
    )
    gauges = [(minute.at, name, value) for name, value in minute.gauges.items()]
    database.executemany("INSERT OR REPLACE INTO gauge VALUES (?, ?, ?)", gauges)


def _span(database: sqlite3.Connection, since: float, until: float) -> Span:
    span = {"since": since, "until": until, "most": MOST_OF_SPAN}
    waits: dict[int, dict[str, float]] = {at: {} for (at,) in database.execute(_MINUTES, span)}
    for at, kind, seconds in database.execute(_WAITS, span):
        waits.setdefault(at, {})[kind] = seconds
    sessions: dict[Activity, float] = {}
    statements: dict[Statement, Use] = {}
    texts: dict[Statement, str] = {}
    for datname, usename, queryid, text, application, kind, event, seconds in database.execute(_ACTIVITIES, span):
        sessions[Activity((datname, usename, queryid), application, kind, event)] = seconds
        texts[datname, usename, queryid] = text
    for datname, usename, queryid, text, calls, seconds, blocks in database.execute(_WORK, span):
        statements[datname, usename, queryid] = Use(calls, seconds, blocks)
        texts[datname, usename, queryid] = text
    gauges: dict[str, dict[int, float]] = {}
    for at, name, value in database.execute(_GAUGES, span):
        gauges.setdefault(name, {})[at] = value
    return Span(waits, sessions, statements, {statement: text for statement, text in texts.items() if text}, gauges)
