"""The parts of one target that its workers share."""

from collections.abc import Callable
from dataclasses import dataclass

from exporter.connections.discovery import Discovery
from exporter.connections.pool import Pool
from exporter.connections.session import Vitals
from exporter.logs import TargetLog
from exporter.schedule.schedule import Schedule
from exporter.scrape.health import Health
from exporter.scrape.server_cost import ServerCosts
from exporter.scrape.turns import Turns


@dataclass(frozen=True)
class Parts:
    """Made by the target, which owns them, and handed to its workers."""

    pool: Pool
    schedule: Schedule
    discovery: Discovery
    health: Health
    costs: ServerCosts
    log: TargetLog
    clock: Callable[[], float]
    turns: Turns

    def note(self, vitals: Vitals) -> None:
        """Note the latest vitals: the server is up; a server of another version makes every job due."""
        self.health.answered()
        if self.discovery.note(vitals):
            self.schedule.expire()
        self.adopt_plan()

    def adopt_plan(self) -> None:
        """Hand the plan that follows from what was discovered to the schedule."""
        if server := self.discovery.server:
            self.schedule.adopt(self.discovery.plan, server.database, server.databases)
