"""Alone in writing what the dashboards ask of statements, so that all of them count the same."""

from dashboards.source.expressions import leading
from dashboards.source.links import of_series, to

STATEMENT = "instance, datname, usename, queryid"
LABELS = {
    "query": "Text",
    "instance": "Instance",
    "datname": "Database",
    "usename": "User",
    "queryid": "Statement",
}
"""The columns of a table of statements, of which `with_text` adds the first."""
LEGEND = "{{query}} · {{usename}} in {{datname}} on {{instance}}, {{queryid}}"

ONE_SERIES = (
    of_series("pg-query-detail", "This statement", instance="instance", datname="datname", queryid="queryid"),
)
ONE_ROW = {
    "queryid": (to("pg-query-detail", "This statement", instance="instance", datname="datname", queryid="queryid"),)
}
"""Links to a statement from its series, and from its row in a table."""

NAMED = '{<database>, queryid!~"other|pgvigil"}'


def with_text(expression: str, scope: str = "database") -> str:
    """Give the same with the text of each statement as one more label, where it is known."""
    texts = f"topk by ({STATEMENT}) (1, pg_statement_info{{<{scope}>}})"
    return f"({expression}) * on ({STATEMENT}) group_left (query) {texts} or on ({STATEMENT}) ({expression})"


def pace(metric: str) -> str:
    """How much of it each statement takes a second."""
    return f"sum by ({STATEMENT}) (rate({metric}{NAMED}[$__rate_interval]))"


def taken(metric: str, at: str = "") -> str:
    """How much of it each statement took in the time shown, or `offset` before that."""
    return f"sum by ({STATEMENT}) (increase({metric}{NAMED}[$__range]{at}))"


def mean(metric: str, at: str = "") -> str:
    """How much of it a call of each statement took on average in the time shown."""
    return f"{taken(metric, at)} / ({taken('pg_statements_calls_total', at)} > 0)"


def leaders(metric: str) -> str:
    """How much the statements that took most of it in the time shown take a second."""
    return with_text(leading(pace(metric), _ranking(metric)))


def others(metric: str) -> str:
    """How much all but the leaders take a second, those included that have no series of their own."""
    everybody = f"sum by ({STATEMENT}) (rate({metric}{{<database>}}[$__rate_interval]))"
    return f"sum({everybody} unless topk($topk, {_ranking(metric)}))"


def _ranking(metric: str) -> str:
    return taken(metric, " @ end()")
