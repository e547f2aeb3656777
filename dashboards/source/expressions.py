"""Alone in knowing how the dashboards' variables narrow a PromQL expression."""

import re

SERVER = 'job=~"$job", instance=~"$instance"'
DATABASE = f'{SERVER}, datname=~"$datname"'

SCOPES = {
    "server": SERVER,
    "database": DATABASE,
    "statement": f'{DATABASE}, queryid=~"$queryid"',
    "block": f"scalar(max(pg_settings_block_size_bytes{{{SERVER}}}))",
}
"""What stands in braces for a scope: `pg_up{<server>}`, `pg_database_size_bytes{<database>, ...}`.

`<block>` is a number: the bytes of a block, which are one for all servers but where somebody built their own.
"""

HOSTS = 'label_replace(pg_up{<server>, target=""}, "host", "$1", "instance", "([^:]+)(?::[0-9]+)?")'
"""The hosts of the chosen servers, for what node_exporter says of them under another job and instance."""

EXPORTER = (
    "on (job, instance) (present_over_time(pg_up{<server>}[1d]) or present_over_time(pgbouncer_up{<server>}[1d]))"
)
"""What tells an exporter of ours from other targets of Prometheus."""

_SCOPE = re.compile(r"<(\w+)>")


def full(expression: str) -> str:
    """Give the expression with its scopes written out, on one line."""
    return " ".join(_SCOPE.sub(lambda found: SCOPES[found[1]], expression).split())


def fastest(counter: str, label: str) -> str:
    """How fast a counter rises by that label, for those by which it rises most in the time shown."""
    by = f"sum by ({label})"
    return leading(f"{by} (rate({counter}[$__rate_interval]))", f"{by} (increase({counter}[$__range] @ end()))")


def leading(expression: str, ranking: str) -> str:
    """Keep of the series those that the ranking, which has the same labels, puts first.

    In a graph the ranking has to be one number for all of the time shown, `... [$__range] @ end()`, or each moment would
    have leaders of its own.
    """
    return f"({expression}) and topk($topk, {ranking})"
