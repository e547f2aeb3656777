"""Says why a login or a query failed, from asyncpg's error: its type, SQLSTATE and error number. Pure."""

import errno
import re
from collections.abc import Mapping

import asyncpg

from exporter.errors import ConnectReason, QueryReason

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)

OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}
"""Numbers of errors that say nothing about the server: we may open no more files."""

OUT_OF_FILES_SENTENCE = (
    "the exporter may open no more files, so the server was not asked. Raise its limit (ulimit -n, LimitNOFILE)"
)

DECODE_ERRORS = (ValueError, OverflowError)
"""Raised by a codec for a value that Python has no counterpart for: bytes that are no UTF-8, the year 20000."""

_MESSAGE_CHARACTERS = 500
"""Upper bound on a message, in characters: it may repeat whatever a query brought up."""

_QUERY_REASONS: Mapping[str, QueryReason] = {
    "57014": "timeout",
    "55P03": "lock_timeout",
    "42501": "permission",
    "57P01": "connection",
    "57P02": "connection",
    "57P03": "connection",
    "57P04": "connection",
    "57P05": "connection",
}

_CONNECT_REASONS: Mapping[str, ConnectReason] = {
    "28000": "authentication",
    "28P01": "authentication",
    "3D000": "no_database",
    "55000": "no_database",  # it takes no connections, or was left half dropped
    "22023": "settings",  # values in `options`
    "42704": "settings",  # names in `options`
    "42501": "authentication",
    "53300": "too_many_connections",
    "57P01": "shutting_down",
    "57P02": "shutting_down",
    "57P03": "starting_up",
    "40001": "recovery_conflict",
    "55P03": "timeout",
}


_REMEDIES: Mapping[str, str] = {
    "25006": "pgvigil's sessions are read-only. Let a job of your own write, and the query read what it wrote",
}
"""Remedies for errors of queries, by SQLSTATE."""


_ABOUT_DATA = ("22", "23")
"""Classes of SQLSTATE whose messages quote the value that was wrong: data exceptions and constraints."""

_QUOTED = re.compile(r'".*"|«.*»|„.*“|“.*”|「.*」|\'[^\']+\'')
"""Text in the quotation marks of any language."""


def query_sentence(error: Exception) -> str:
    """Return an error of a query in one line, with a remedy where its SQLSTATE has one."""
    remedy = _REMEDIES.get(getattr(error, "sqlstate", None) or "")
    return f"{sentence(error)}: {remedy}" if remedy else sentence(error)


def query_reason(error: Exception) -> QueryReason:
    """Classify a driver's error."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return "connection" if isinstance(error, OSError | EOFError | asyncpg.InterfaceError) else "query"
    return "connection" if state.startswith("08") else _QUERY_REASONS.get(state, "query")


_SHUTTING_DOWN = """
the database system is shutting down
das Datenbanksystem fährt herunter
el sistema de base de datos está apagándose
le système de base de données s'arrête
il database si sta spegnendo
databassystemet stänger ner
データベースシステムはシャットダウンしています
მონაცემთა ბაზის სისტემა ითიშება
데이터베이스 시스템이 중지 중입니다
система баз данных останавливается
система бази даних завершує роботу
数据库系统停止中
"""
"""The message in each language of PostgreSQL 15. A server that starts up has the same SQLSTATE and the same fields."""


def _is_shutting_down(message: str) -> bool:
    """Compare with the known texts; a server whose locale lacks their letters sends question marks instead."""
    texts = _SHUTTING_DOWN.strip().splitlines()
    return message in {*texts, *(text.encode("ascii", "replace").decode() for text in texts)}


def connect_reason(error: Exception) -> ConnectReason:
    """Classify a driver's error at login."""
    state = getattr(error, "sqlstate", None)
    if state == "57P03" and _is_shutting_down(str(error)):
        return "shutting_down"
    if state is not None:
        return _CONNECT_REASONS.get(state, "unreachable" if state.startswith("08") else "other")
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "settings"
    return _system_reason(error) if isinstance(error, OSError) else "other"


def _system_reason(error: OSError) -> ConnectReason:
    """Classify an error of the network; that of several addresses has their numbers in its text only."""
    numbers = {error.errno, *map(int, re.findall(r"\[Errno (\d+)\]", str(error)))}
    if numbers & OUT_OF_FILES:
        return "out_of_files"
    return "refused" if numbers & {errno.ECONNREFUSED, errno.ENOENT} else "unreachable"


def sentence(error: Exception) -> str:
    """Return a driver's error in one line, without the statement or the values that caused it."""
    if isinstance(error, OSError) and connect_reason(error) == "out_of_files":
        return OUT_OF_FILES_SENTENCE
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    state = getattr(error, "sqlstate", None)
    line = message.splitlines()[0][:_MESSAGE_CHARACTERS]
    if (state or "").startswith(_ABOUT_DATA):
        line = _QUOTED.sub('"…"', line)
    return f"{line} (SQLSTATE {state})" if state else line
