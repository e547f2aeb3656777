"""State of a server, up or down; the drivers in `connections` name the reason of each failed login."""

from dataclasses import dataclass
from typing import Literal

from exporter.errors import ConnectError, ConnectReason
from exporter.logs import TargetLog


@dataclass(frozen=True)
class Unknown:
    """Nothing has been asked yet."""


@dataclass(frozen=True)
class Up:
    """The server has answered."""


@dataclass(frozen=True)
class Down:
    """The server has not answered."""

    reason: ConnectReason
    message: str


State = Unknown | Up | Down

_NO_ANSWER = "no answer in time"


class Health:
    """The state of a server: asked by each scrape, up with any answer, else down for the latest reason."""

    def __init__(self, product: str, log: TargetLog) -> None:
        self.state: State = Unknown()
        self.settled: State = Unknown()
        """The outcome of the latest question that has one: while a question is open, that of the one before."""
        self.answers = 0
        """Answers so far: a question that ends without one says nothing where there was another meanwhile."""
        self._run: float | None = None
        self._product = product
        self._log = log
        self._logged: str | None = None

    @property
    def is_up(self) -> bool:
        """Return whether the server has answered since it was last asked."""
        return isinstance(self.state, Up)

    @property
    def reason(self) -> ConnectReason | Literal[""]:
        """Reason for being down; empty while up, `timeout` before it is asked."""
        match self.state:
            case Up():
                return ""
            case Down(reason):
                return reason
        return "timeout"

    @property
    def is_asked(self) -> bool:
        """Return whether a question is open: the state is presumed."""
        return self.state is not self.settled

    def ask(self, run: float | None = None) -> None:
        """Presume it down until it answers: hung when it answered before, else timed out.

        Args:
            run: when the run began that asks; what it asks on a second connection is the same question.

        """
        if run is None or run != self._run:
            self.settled, self._run = self.state, run
        was_there = self.is_up or self.reason == "hung"
        message = self.state.message if isinstance(self.state, Down) else _NO_ANSWER
        self.state = Down("hung" if was_there else "timeout", message)

    def answered(self) -> None:
        """Note an answer, whatever it says."""
        self.answers += 1
        self.state = self.settled = Up()

    def failed(self, error: ConnectError) -> None:
        """Note why there is no connection, unless another one found the server up."""
        if not self.is_up:
            is_known_as_hung = (self.reason, error.reason) == ("hung", "timeout")
            self.state = self.settled = Down("hung" if is_known_as_hung else error.reason, str(error))

    def log_transition(self) -> None:
        """Log when the server has come or gone since the last line, not at every scrape."""
        if self._logged == self.reason:
            return
        self._logged = self.reason
        if isinstance(self.state, Down):
            extra = {"reason": self.state.reason}
            self._log.warning("%s is down: %s", self._product, self.state.message, extra=extra)
        else:
            self._log.info("%s is up", self._product)
