"""What was measured, as Markdown. Pure."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.cases import CASES, Case, Outcome, Result
from bench.measure import INTERVAL_SECONDS, SCRAPES_A_WINDOW, Burst, Cost, Window

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Goal:
    """One ratio to postgres_exporter, and what it should be."""

    what: str
    ratios: Callable[[Result, Result], Sequence[float]]
    """Ours and theirs -> one ratio a repeat; empty where nothing was measured."""
    most: dict[str, float]
    """The goal, by name of the case."""


def report(outcomes: Sequence[Outcome], machine: str, versions: str) -> str:
    """The whole report."""
    parts = [
        f"{machine}. {versions}. Other load: {', '.join(_load(o) for o in outcomes)}.",
        _how(outcomes),
        "### Ratios to postgres_exporter",
        ratios(outcomes),
        "### Pages",
        pages(outcomes),
        "### Costs of one scrape, and memory",
        costs(outcomes),
    ]
    return "\n\n".join(parts) + "\n"


def ratios(outcomes: Sequence[Outcome]) -> str:
    """Each ratio as shipped, its goal, and the same with nothing cached."""
    head = ("case", "ratio, median (least to most)", "as shipped", "goal", "met", "cache 0")
    rows = [row for outcome in outcomes if outcome.theirs for row in _ratio_rows(outcome, outcome.theirs)]
    rows += [
        (
            o.case.title,
            "RSS idle, MiB",
            _mib(o.ours.rss_idle),
            "≤ 60",
            _met(o.ours.rss_idle, 60 * _MEBIBYTE),
            _mib(o.fresh.rss_idle),
        )
        for o in outcomes
        if o.case.name == "small"
    ]
    return _table(head, rows)


def pages(outcomes: Sequence[Outcome]) -> str:
    """How long a page takes, and how large it is."""
    head = (
        "case",
        "exporter",
        "samples",
        "MiB",
        "MiB gzip",
        "first ms",
        "p50 ms",
        "p99 ms",
        "p50 ms plain",
        "at 15 s: p50 ms",
        "slowest ms",
    )
    rows = []
    for case, result in _results(outcomes):
        zipped = [s for burst in result.bursts for s in burst.gzip_seconds]
        plain = [s for burst in result.bursts for s in burst.identity_seconds]
        kept = [s for window in result.windows for s in window.seconds]
        size = (f"{result.page.samples:,}", _mib(result.page.size, 2), _mib(result.page.compressed, 3))
        times = (
            _ms(result.first_seconds),
            _ms(statistics.median(zipped)),
            _ms(_p99(zipped)),
            _ms(statistics.median(plain)),
        )
        rhythm = (_ms(statistics.median(kept)), _ms(max(kept))) if kept else ("", "")
        rows.append((case.title, result.exporter, *size, *times, *rhythm))
    return _table(head, rows)


def costs(outcomes: Sequence[Outcome]) -> str:
    """What a scrape costs the exporter and the server, one after the other and at Prometheus' rhythm."""
    kinds = ("exporter CPU ms", "server CPU ms", "server time ms")
    head = (
        "case",
        "exporter",
        *(f"{kind}, burst" for kind in kinds),
        *(f"{kind}, at 15 s" for kind in kinds),
        "RSS MiB idle",
        "loaded",
        "peak",
    )
    rows = []
    for case, result in _results(outcomes):
        memory = (_mib(result.rss_idle), _mib(result.rss_loaded), _mib(result.rss_peak))
        rows.append((case.title, result.exporter, *_cost(result.bursts), *_cost(result.windows), *memory))
    return _table(head, rows)


def _how(outcomes: Sequence[Outcome]) -> str:
    bursts, windows = len(outcomes[0].ours.bursts), len(outcomes[0].ours.windows)
    return (
        f"Bursts: {bursts} of each exporter in turn, 20 ms between scrapes, over one kept connection, with the headers"
        " of Prometheus 2.42 (gzip); p99 of few scrapes is their maximum."
        f" At 15 s: {windows} x {SCRAPES_A_WINDOW} scrapes {INTERVAL_SECONDS:g} s apart, both exporters in turn; all"
        " that they used between the scrapes is in it, also what is collected every quarter of an hour. The goals of"
        " CPU and server are judged on it."
        " Server time is what pg_stat_statements counts of an exporter's statements, planning included. Server CPU is"
        " that of its sessions, logging in included; what ended is counted in ticks of 10 ms, which blurs it at 15 s by"
        " up to 5 ms a scrape."
        " Cache 0 collects everything in each scrape; its ratios of CPU and server are to postgres_exporter's bursts."
    )


def _load(outcome: Outcome) -> str:
    return f"{outcome.case.name} {outcome.other_load:.2f} cores"


def _by_burst(value: Callable[[Burst], float]) -> Callable[[Result, Result], Sequence[float]]:
    return lambda a, b: [value(x) / value(y) for x, y in zip(a.bursts, b.bursts, strict=True) if value(y)]


def _by_window(value: Callable[[Window], float]) -> Callable[[Result, Result], Sequence[float]]:
    return lambda a, b: [value(x) / value(y) for x, y in zip(a.windows, b.windows, strict=False) if value(y)]


def _by_cost(value: Callable[[Cost], float]) -> Callable[[Result, Result], Sequence[float]]:
    """At Prometheus' rhythm where it was kept, else in bursts."""

    def compared(a: Result, b: Result) -> Sequence[float]:
        pairs: Iterable[tuple[Burst, Burst] | tuple[Window, Window]] = (
            zip(a.windows, b.windows, strict=True) if a.windows else zip(a.bursts, b.bursts, strict=True)
        )
        return [value(x.cost) / value(y.cost) for x, y in pairs if value(y.cost)]

    return compared


GOALS = (
    Goal("page p50", _by_burst(lambda burst: burst.p50), {"small": 1, "tables": 1 / 10, "full": 1 / 4}),
    Goal("page p50 at 15 s", _by_window(lambda window: window.p50), {}),
    Goal("exporter CPU", _by_cost(lambda cost: cost.exporter), {"full": 1 / 3}),
    Goal("server time", _by_cost(lambda cost: cost.statements), dict.fromkeys([case.name for case in CASES], 1 / 2)),
    Goal("server CPU", _by_cost(lambda cost: cost.backends), {}),
    Goal("RSS loaded", _by_burst(lambda burst: burst.rss), {"full": 1}),
    Goal("RSS peak", lambda a, b: [a.rss_peak / b.rss_peak], {"full": 1}),
)


def _ratio_rows(outcome: Outcome, theirs: Result) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for goal in GOALS:
        shipped, fresh = goal.ratios(outcome.ours, theirs), goal.ratios(outcome.fresh, theirs)
        most = goal.most.get(outcome.case.name)
        met = _met(statistics.median(shipped), most) if most and shipped else ""
        rows.append(
            (outcome.case.title, goal.what, _spread(shipped), f"≤ {most:.2g}" if most else "", met, _spread(fresh))
        )
    return rows


def _results(outcomes: Sequence[Outcome]) -> list[tuple[Case, Result]]:
    return [(o.case, result) for o in outcomes for result in (o.ours, o.fresh, o.theirs) if result]


def _cost(measured: Sequence[Burst] | Sequence[Window]) -> tuple[str, str, str]:
    if not measured:
        return "", "", ""
    found = [each.cost for each in measured]
    return (
        _ms(statistics.median(cost.exporter for cost in found)),
        _ms(statistics.median(cost.backends for cost in found)),
        _ms(statistics.median(cost.statements for cost in found)),
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = f"**{statistics.median(values):.2f}**"
    return f"{middle} ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else middle


def _met(value: float, most: float) -> str:
    return "yes" if value <= most else "**no**"


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(int(len(values) * 0.99), len(values) - 1)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}" if seconds < 1 else f"{seconds * 1000:,.0f}"


def _mib(size: float, digits: int = 0) -> str:
    return f"{size / _MEBIBYTE:.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
