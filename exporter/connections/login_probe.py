"""Tests whether the server accepts new logins: kept connections go on when the postmaster takes no new ones."""

import asyncio

from exporter.connections.budget import Budget, Lease
from exporter.connections.kept_connection import LOGIN_SECONDS
from exporter.connections.session import Connector, Session
from exporter.errors import BusyError, ConnectError
from exporter.logs import TargetLog
from exporter.report import Login

PROBE_SECONDS = 60.0
"""Interval of the logins: one a minute costs a server next to nothing."""

RETRY_SECONDS = 10.0
"""Interval while logins fail, so that their success is seen within two scrapes."""

STALE_SECONDS = 300.0
"""Age from which the result of a login is stale, in seconds: no place in the budget was free for another."""


class LoginProbe:
    """Logs in once a minute on a free place of the budget, and logs out at once.

    A login that is not answered keeps its place, and is not joined by another: the server may still be at work on it.
    """

    def __init__(self, connector: Connector, budget: Budget, log: TargetLog) -> None:
        self._connector = connector
        self._budget = budget
        self._clock = budget.clock
        self._log = log
        self._latest: Login | None = None
        self._certificate_expires_at: float | None = None
        self._at = float("-inf")
        """End of the latest login: clock time in seconds."""
        self._due_at = float("-inf")
        self._lease: Lease | None = None
        self._since = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def latest(self) -> Login | None:
        """The result of the latest login; None when that is long ago."""
        return self._latest if self._clock() - self._at <= STALE_SECONDS else None

    def start(self, session: Session) -> None:
        """Begin a login when it is due; the first result is that of the current session's login."""
        if self._connector.kind != "postgresql":
            return
        if self._latest is None:
            self._note_success(session)
        if self._clock() >= self._due_at and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="login probe")

    async def _run(self) -> None:
        try:
            if lease := await self._leased():
                await self._log_in(lease)
        except Exception as error:  # noqa: BLE001  # the boundary: nothing else retrieves it
            self._log.error("login probe failed unexpectedly", exc_info=error)
            self._note_failure(0.0, ConnectError("other", f"{type(error).__name__}: {error}"))

    async def _leased(self) -> Lease | None:
        """Return the place of the login under way, or a new one; None when there is none."""
        if (lease := self._lease) and lease.is_logging_in:
            if not lease.is_astray and not await self._is_lost():
                return lease
            self._lease = None
            await lease.release(cancel=True)
        if self._lease is None:
            try:
                self._lease, self._since = await self._budget.lend(0), self._clock()
            except BusyError:
                return None
        return self._lease

    async def _is_lost(self) -> bool:
        """Return whether the login is silent for long although the server answers others."""
        if self._clock() - self._since < LOGIN_SECONDS:
            return False
        return await self._connector.is_answering(self._budget.destination(is_kept=False))

    async def _log_in(self, lease: Lease) -> None:
        try:
            session = await lease.log_in(self._connector)
        except ConnectError as error:
            if not lease.is_astray:  # else it says nothing about the server that is the target's now
                self._note_failure(self._clock() - self._since, error)
        else:
            self._note_success(session)
        if not lease.is_logging_in:
            self._lease = None
            await lease.release()

    def _note_success(self, session: Session) -> None:
        self._certificate_expires_at = session.certificate_expires_at
        self._note(Login(True, session.login_seconds, "", self._certificate_expires_at), PROBE_SECONDS)

    def _note_failure(self, seconds: float, error: ConnectError) -> None:
        """Note a failed login; a certificate that has expired may be why, so what the last one saw of it stays."""
        self._note(Login(False, seconds, error.reason, self._certificate_expires_at, str(error)), RETRY_SECONDS)

    def _note(self, login: Login, pause: float) -> None:
        """Note a result, and log it where it is news."""
        if login.success != (self._latest is None or self._latest.success):
            failed = f"a new login failed, while older sessions go on: {login.message}"
            event = "logins succeed again" if login.success else failed
            self._log.warning(event, extra={"reason": login.reason})
        self._latest, self._at = login, self._clock()
        self._due_at = self._at + pause

    async def close(self) -> None:
        """End a login under way."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lease:
            await self._lease.release(cancel=True)
