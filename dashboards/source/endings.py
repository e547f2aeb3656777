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

SLOT = """
    pg_replication_slots_safe_wal_size_bytes{<server>}
      / on (job, instance) group_left () (rate(pg_wal_position_bytes_total{<server>}[$__rate_interval]) > 0)
"""


def sequence(scope: str) -> str:
    """Give the seconds until a sequence, or the column that it fills, has no number left, in a scope."""
    left = f"pg_sequence_remaining_values{{<{scope}>}}"
    return f"{left} / (-deriv({left}[6h]) > 0)"
