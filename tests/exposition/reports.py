"""Reports made by hand: every branch of the exporter's own metrics, without a server."""

from dataclasses import replace

from exporter.catalog.model import Metric
from exporter.planning.plan import FULL_LIMITS
from exporter.report import JobStatus, Login, Report, Rounds, ServerCost
from exporter.samples.model import Family, Rest, Samples

_VALUES = Metric.model_validate({"name": "pg_values", "type": "gauge", "help": "Values.", "column": "a"})


def samples(rows: int, families: int = 1) -> Samples:
    """Rows numbered from 0, each with one sample in every family."""
    labels = [f'n="{i}"' for i in range(rows)]
    return Samples(tuple(Family(_VALUES, labels, list(range(rows))) for _ in range(families)), rows)


_CUT = replace(samples(2), truncated_rows=3, rest=(Rest("pg_calls_total", 2.5, 10.0), Rest("pg_bytes", 4.0, 0.0)))


def job(collector: str, datname: str = "", served: Samples | None = None, success: bool = True) -> JobStatus:
    """A job that went well, or has not run yet."""
    ran = served is not None
    return JobStatus(collector, datname, success, served, 0.25 if ran else None, 1.5 if ran else None)


FEW_DATABASES = Report(
    up=True,
    down_reason="",
    jobs=(
        replace(
            job("statements", "", _CUT),
            errors={"timeout": 2, "permission": 1},
            rejected={"duplicate": 4, "malformed": 5},
            seconds=7.125,
            returned_rows=600,
            interval=30.0,
            dropped=9,
        ),
        job("tables", 'odd "name"\\', samples(1)),
        job("tables", "app", None, success=False),
        job("locks", "", samples(0), success=False),
    ),
    skipped={"wal": "no right"},
    seconds=0.75,
    scrapes=12,
    sessions=4,
    costs={("statements", ""): ServerCost(1.5, 200), ("tables", "app"): ServerCost(0.5, 20)},
    incidents={"lock_wait": 1, "down": 0},
    rounds=Rounds(visits=8, login_seconds=0.0625, interval=60.0),
    closed=("payroll",),
    login=Login(False, 3.0, "timeout", 1.8e9),
)
"""A server that is up: jobs with and without results, errors, cuts and costs."""

_MANY = [f"db{i:02}" for i in range(FULL_LIMITS + 1)]

MANY_DATABASES = replace(
    FEW_DATABASES,
    jobs=(
        replace(job("statements", "", _CUT), interval=30.0),
        *(replace(job("tables", name, _CUT), dropped=i, interval=float(i)) for i, name in enumerate(_MANY[:-2])),
        replace(job("tables", _MANY[-2], samples(1)), duration=0.5, errors={"query": 1}),
        job("tables", _MANY[-1], None, success=False),
        *(job("table_access", name, None, success=False) for name in _MANY[:2]),
    ),
    costs={
        ("statements", ""): ServerCost(1.5, 200),
        ("tables", _MANY[0]): ServerCost(0.5, 20),
        ("tables", _MANY[1]): ServerCost(0.25, 10),
    },
    incidents={},
)
"""More databases than get all their rows: some metrics are joined by collector."""

CONSOLE_DOWN = Report(
    up=False,
    down_reason="refused",
    jobs=(),
    skipped={},
    seconds=3.0,
    scrapes=1,
    sessions=0,
    kind="pgbouncer",
)
"""A PgBouncer that was never reached."""
