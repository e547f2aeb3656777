"""The incidents that can be played, and how to find one."""

from collections.abc import Sequence

from exporter.demo.scenarios import changes, neglect, statements
from exporter.demo.scenarios.scene import Scenario
from exporter.errors import SettingsError

SCENARIOS: Sequence[Scenario] = (
    statements.FRIDAY_DEPLOY,
    statements.BLACK_FRIDAY,
    changes.MIGRATION,
    changes.NIGHTLY_JOB,
    neglect.PINNED_HORIZON,
    neglect.FORGOTTEN_SLOT,
    statements.STALE_STATISTICS,
    neglect.NO_BACKUPS,
    neglect.INTEGER_KEY,
    changes.INDEX_DEBT,
)


def scenario_of(name: str) -> Scenario:
    """The incident of that name."""
    for incident in SCENARIOS:
        if incident.name == name:
            return incident
    names = ", ".join(incident.name for incident in SCENARIOS)
    raise SettingsError(f"--incident: no incident is named {name!r}; there are {names}")
