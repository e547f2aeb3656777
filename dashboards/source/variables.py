"""The variables at the top of the dashboards."""

from typing import Any

from grafana_foundation_sdk.models import dashboard as model

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The data source of every panel: the one that the person chose."""

ALL = model.VariableOption(selected=True, text="All", value="$__all")


def _variable(**said: Any) -> model.VariableModel:
    """Give a variable without what only those of intervals have, or those of later Grafanas."""
    return model.VariableModel(**said, allow_custom_value=None, auto=None, auto_min=None, auto_count=None)


def datasource() -> model.VariableModel:
    """Choose the Prometheus to ask."""
    return _variable(
        type_val=model.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        description="The Prometheus that scrapes the exporters.",
        query="prometheus",
        current=model.VariableOption(text="default", value="default"),
        refresh=model.VariableRefresh.ON_DASHBOARD_LOAD,
    )


def query(name: str, label: str, values: str, description: str, *, empty: bool = False) -> model.VariableModel:
    """Choose among the values that Prometheus has; `empty` when All includes series without the label."""
    return _variable(
        type_val=model.VariableType.QUERY,
        name=name,
        label=label,
        description=description,
        query={"query": values, "refId": f"Variable-{name}"},
        datasource=SOURCE,
        current=ALL,
        multi=True,
        include_all=True,
        all_value=".*" if empty else ".+",
        refresh=model.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=model.VariableSort.ALPHABETICAL_ASC,
    )


def job() -> model.VariableModel:
    """Choose scrape jobs."""
    return query("job", "Job", 'label_values(pg_up{target=""}, job)', "The scrape job of the exporters.")


def instance() -> model.VariableModel:
    """Choose servers."""
    values = 'label_values(pg_up{job=~"$job", target=""}, instance)'
    return query("instance", "Instance", values, "The servers, as Prometheus names their exporters.")


def exporter() -> model.VariableModel:
    """Choose exporters, those of several servers, which have a page of their own, included."""
    values = 'label_values(pg_up{job=~"$job"}, instance)'
    return query("instance", "Instance", values, "The servers, as Prometheus names their exporters.")


def datname() -> model.VariableModel:
    """Choose databases."""
    values = 'label_values(pg_database_connections{job=~"$job", instance=~"$instance"}, datname)'
    return query("datname", "Database", values, "The databases of these servers.", empty=True)


def queryid() -> model.VariableModel:
    """Choose statements."""
    values = 'label_values(pg_statements_calls_total{job=~"$job", instance=~"$instance", datname=~"$datname"}, queryid)'
    return query("queryid", "Statement", values, "The numbers that PostgreSQL gave to statements: their queryid.")


def topk(default: int = 10) -> model.VariableModel:
    """Choose how many culprits a table shows."""
    return custom("topk", "Show top", "How many rows or lines a ranking shows.", (5, 10, 20, 50), default)


def custom(
    name: str, label: str, description: str, values: tuple[int | str, ...], default: int | str
) -> model.VariableModel:
    """Choose one of a few fixed values."""
    options = [model.VariableOption(selected=value == default, text=str(value), value=str(value)) for value in values]
    return _variable(
        type_val=model.VariableType.CUSTOM,
        name=name,
        label=label,
        description=description,
        query=",".join(str(value) for value in values),
        current=next(option for option in options if option.selected),
        options=options,
    )


def server(*more: model.VariableModel) -> tuple[model.VariableModel, ...]:
    """Give data source, job and instance, which every dashboard has, and what it has beside them."""
    return (datasource(), job(), instance(), *more)
