"""What runs out, and in how many seconds: each said once, for the fleet, the instance and its own subject."""

IDS = "2147483647 - 3e6"
"""How many ids there are before PostgreSQL takes no more writes."""

CONNECTIONS = "pg_connections_available{<server>} / (deriv(pg_connections_used{<server>}[30m]) > 0)"

XIDS = f"""
    ({IDS} - pg_database_xid_age{{<server>}})
      / on (job, instance) group_left () (instance:pg_xid_consumed:rate6h{{<server>}} > 0)
"""

MULTIXACTS = f"""
    ({IDS} - pg_database_mxid_age{{<server>}})
      / on (job, instance) group_left () (instance:pg_multixact_consumed:rate6h{{<server>}} > 0)
"""

SLOT_KEEPS = "pg_replication_slots_retained_bytes{<server>}"
SLOT_ROOM = "pg_replication_slots_safe_wal_size_bytes{<server>}"
SLOT_KEEPS_UP = 0.05
"""Share of what a slot may keep below which its consumer keeps up: its room shrinks and grows with each file of WAL."""
SLOT = f"""
    {SLOT_ROOM} / (-deriv({SLOT_ROOM}[30m]) > 0)
      and {SLOT_KEEPS} / ({SLOT_KEEPS} + {SLOT_ROOM}) > {SLOT_KEEPS_UP}
"""


def sequence(scope: str) -> str:
    """Give the seconds until a sequence, or the column that it fills, has no number left, in a scope."""
    left = f"pg_sequence_remaining_values{{<{scope}>}}"
    return f"{left} / (-deriv({left}[6h]) > 0)"
