"""What has to come of each incident: which alert, within what time, naming whom."""

from collections.abc import Sequence

from incidents.play import Expected, Story
from incidents.replay import DAY, HOUR, MINUTE, Replay
from incidents.wraparound import drop_the_slot_and_freeze, forget_a_slot_for_years

from exporter.demo.scenarios.repertoire import SCENARIOS

_BY_NUMBER = {incident.number: incident for incident in SCENARIOS}

QUICK: Sequence[Story] = (
    Story(
        _BY_NUMBER[1],
        [
            Expected("PostgreSQLConnectionsAtLimit", 60, ["rolname", "application_name"], resolves_within=300),
            Expected("PostgreSQLStatementDominates", 120, ["queryid", "relname"], "ticket", resolves_within=1200),
        ],
        scrapes=30,  # what is new is only known of a server that has been watched for two minutes
    ),
    Story(
        _BY_NUMBER[3],
        [
            Expected(
                "PostgreSQLLockQueueBehindAccessExclusive", 30, ["relation", "pid", "usename", "application_name"]
            ),
        ],
    ),
    Story(
        _BY_NUMBER[4],
        [Expected("PostgreSQLLockQueue", 30, ["relation", "pid", "usename", "application_name", "state"])],
    ),
)
"""Those that count in seconds: one after the other, so that none takes another's; the retry storm first."""

SLOW: Sequence[Story] = (
    Story(
        _BY_NUMBER[5],
        [Expected("PostgreSQLIdleInTransaction", 360, ["pid", "usename", "application_name"], "ticket", 600)],
    ),
)
"""Those that count in minutes, and may be played beside others."""

REPLAYED: Sequence[Replay] = (
    Replay(
        _BY_NUMBER[2],
        [
            Expected("PostgreSQLStatementSlower", 10 * MINUTE, ["queryid"], "ticket", 30 * MINUTE, 12 * MINUTE),
            Expected("PostgreSQLStatementSlowerThanLastWeek", 25 * MINUTE, ["queryid"], "ticket", 40 * MINUTE),
        ],
        before=8 * DAY,
        after=30 * MINUTE,
    ),
    Replay(
        _BY_NUMBER[5],
        [
            Expected("PostgreSQLXidFailsafeReached", 3 * MINUTE, ["datname", "slot_name"], "page", 5 * MINUTE),
            Expected("PostgreSQLXminHorizonHeld", 20 * MINUTE, ["slot_name", "holder"], "ticket", 8 * MINUTE),
        ],
        before=7 * HOUR,
        after=30 * MINUTE,
        apart=1,
        cause=forget_a_slot_for_years,
        cure=drop_the_slot_and_freeze,
    ),
    Replay(
        _BY_NUMBER[6],
        [Expected("PostgreSQLReplicationSlotSoonLost", HOUR, ["slot_name"], resolves_within=10 * MINUTE)],
        before=HOUR,
        after=35 * MINUTE,  # before it is lost, at the pace of a slow disk or a fast one
        moving=["pg_replication_slots_retained_bytes", "pg_replication_slots_safe_wal_size_bytes"],
        settings={"max_slot_wal_keep_size": "16GB"},
    ),
    Replay(
        _BY_NUMBER[8],
        [Expected("PostgreSQLStaleStatistics", 70 * MINUTE, ["relname"], "ticket", 8 * MINUTE)],
        before=HOUR,
        after=90 * MINUTE,
        apart=1,
    ),
    Replay(
        _BY_NUMBER[9],
        [
            Expected("PostgreSQLArchiveFailing", 25 * MINUTE, [], "ticket", 25 * MINUTE, after=30 * MINUTE),
            Expected("PostgreSQLArchiveBacklogOld", 75 * MINUTE, [], resolves_within=5 * MINUTE),
        ],
        before=HOUR,
        after=80 * MINUTE,
        apart=70,  # three attempts, then a minute's rest
        moving=["pg_archiver_ready_oldest_age_seconds", "pg_archiver_last_archived_age_seconds"],
    ),
    Replay(
        _BY_NUMBER[10],
        [
            Expected("PostgreSQLSequenceEndsWithinDays", 4 * HOUR, ["sequencename", "relname", "attname"]),
        ],
        before=8 * HOUR,
        after=4 * HOUR,
        moving=["pg_sequence_used_ratio", "pg_sequence_remaining_values"],
    ),
    Replay(
        _BY_NUMBER[11],
        [
            Expected("PostgreSQLIndexInvalid", 15 * MINUTE, ["indexrelname", "relname"], "ticket", 8 * MINUTE),
            Expected("PostgreSQLIndexDuplicate", 65 * MINUTE, ["duplicate"], "nobody", 8 * MINUTE),
        ],
        before=HOUR,
        after=90 * MINUTE,
        apart=1,
    ),
)
