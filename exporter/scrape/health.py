"""Whether a server is up, and why not, as far as the attempts to reach it tell."""

import logging
from typing import Literal

from exporter.errors import ConnectError, ConnectReason

_log = logging.getLogger(__name__)


class Health:
    """Asked anew at each scrape: any answer means up; without one, the latest failure says why not."""

    def __init__(self, product: str) -> None:
        self.up = False
        self.reason: ConnectReason | Literal[""] = "timeout"
        """Why it is down; empty while it is up."""
        self._product = product
        self._message = "no answer in time"
        self._logged = "nothing"

    def ask_anew(self) -> None:
        """Until it answers, a server that answered before counts as hung, any other as timed out."""
        self.reason = "hung" if self.up or self.reason == "hung" else "timeout"
        self.up = False

    def note_life(self) -> None:
        """Take over that it answered."""
        self.up, self.reason = True, ""

    def note_down(self, error: ConnectError) -> None:
        """Take over why it cannot be had, unless another connection found it up."""
        if not self.up:
            if (self.reason, error.reason) != ("hung", "timeout"):
                self.reason = error.reason
            self._message = str(error)

    def log(self) -> None:
        """Log when the server goes or comes, not at every scrape."""
        if self._logged != self.reason:
            message = f"{self._product} is up" if self.up else f"{self._product} is down: {self._message}"
            _log.log(logging.INFO if self.up else logging.WARNING, message, extra={"reason": self.reason})
            self._logged = self.reason
