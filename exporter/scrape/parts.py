"""The parts of one target that its workers share."""

from collections.abc import Callable
from dataclasses import dataclass

from exporter.connections.discovery import Discovery
from exporter.connections.pool import Pool
from exporter.connections.session import Session, Vitals
from exporter.kinds import Kind
from exporter.logs import TargetLog
from exporter.report import JobStatus, Report
from exporter.schedule.schedule import Schedule
from exporter.scrape.health import Down, Health, Up
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

    def note(self, vitals: Vitals, session: Session) -> None:
        """Note the latest vitals: the server is up; if it is another one, results are dropped and all jobs are due."""
        self.health.answered()
        if self.discovery.note(vitals, session):
            self.schedule.expire()
        self.adopt_plan()

    def adopt_plan(self) -> None:
        """Hand the plan that follows from what was discovered to the schedule."""
        if server := self.discovery.server:
            self.schedule.adopt(self.discovery.plan, server.database, server.databases)

    def report(self, kind: Kind, *, with_jobs: bool, settled: bool) -> Report:
        """Describe what the parts know; the target adds the state of each job, and what it knows itself.

        Args:
            kind: what the target leads to.
            with_jobs: whether the jobs are told of.
            settled: whether a server whose answer is awaited is as it was before; else it is down until it answers.

        """
        server, plan = self.discovery.server, self.schedule.plan
        state = self.health.settled if settled else self.health.state
        return Report(
            up=isinstance(state, Up),
            in_recovery=server.in_recovery if server and kind == "postgresql" else None,
            down_reason=(state.reason if isinstance(state, Down) else "") if settled else self.health.reason,
            down_message=state.message if isinstance(state, Down) else "",
            jobs=(),
            skipped=plan.skipped if with_jobs else {},
            seconds=0.0,
            scrapes=0,
            sessions=self.pool.count,
            costs=self.costs.all,
            kind=kind,
            rounds=self.schedule.rounds(),
            closed=self.discovery.closed if with_jobs else (),
        )

    def statuses(self) -> tuple[JobStatus, ...]:
        """Describe every job, and the collectors of which it is not known yet whether they run."""
        why = "the extensions could not be listed yet"
        unknown = (JobStatus(name, "", False, None, None, None, message=why) for name in self.schedule.plan.unknown)
        return (*self.schedule.statuses(), *unknown)
