"""Writes the measurements as Markdown, and judges the goals. Pure."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite

from bench.cases import LOCKS, SESSIONS, SMALL, Case
from bench.exporters import EQUAL, EQUAL_STATEMENTS, FRESH, SHIPPED
from bench.measure import Page, Round

from exporter.catalog.load import BUILT_IN, load

THEIRS = "postgres_exporter"
"""The exporter that the others are compared with."""

SIZES_AND_ADVICE = frozenset(
    {
        *("database_sizes", "table_sizes", "tablespaces", "wal_directory", "schemas", "partitioned_tables"),
        *("index_advice", "foreign_keys_without_index", "tables_without_primary_key", "extension_updates"),
    }
)
"""Collectors whose results may be older: what they read changes slowly, or is advice."""

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Result:
    """Measurements of one exporter in one case."""

    exporter: str
    first_page: float
    """Seconds from the start of its process until the first page was read."""
    rss_idle: int
    """Resident memory after the first page."""
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class Outcome:
    """Measurements of all exporters in one case."""

    case: Case
    results: tuple[Result, ...]
    other_load: float
    """CPU that neither we nor what we started used meanwhile, in cores."""

    def of(self, exporter: str) -> Result | None:
        """The result of an exporter."""
        return next((each for each in self.results if each.exporter == exporter), None)


@dataclass(frozen=True)
class Measure:
    """One figure, a value a round."""

    name: str
    unit: str
    values: Callable[[Result], Sequence[float]]
    digits: int = 1
    is_compared: bool = True
    is_per_series: bool = False
    middle: Callable[[Sequence[float]], float] = statistics.median
    """What one figure the values of all rounds become. Costs are means: what is read once in some rounds is in them."""

    def of(self, result: Result) -> float | None:
        """The figure of all rounds; None where nothing was measured."""
        values = self.values(result)
        return self.middle(values) if values else None

    def ratio(self, result: Result, other: Result) -> float | None:
        """The ratio of the figures of all rounds."""
        ours, theirs = self.of(result), self.of(other)
        return None if ours is None or not theirs else ours / theirs

    def ratios(self, result: Result, other: Result) -> list[float]:
        """One ratio a round."""
        return [a / b for a, b in zip(self.values(result), self.values(other), strict=True) if b]

    @property
    def head(self) -> str:
        """The heading of its column."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


def _each(value: Callable[[Round], float]) -> Callable[[Result], Sequence[float]]:
    return lambda result: [value(each) for each in result.rounds]


def _cost(name: str, value: Callable[[Round], float]) -> Measure:
    """Return the measure of what a scrape costs, in seconds in a round."""
    return Measure(name, "ms", _each(lambda r: value(r) * 1000), is_per_series=True, middle=statistics.fmean)


def _oldest(*, but: frozenset[str] = frozenset()) -> Callable[[Result], Sequence[float]]:
    """The oldest result that was served, in any round."""

    def values(result: Result) -> Sequence[float]:
        ages = [age for name, age in ages_of(result).items() if name not in but]
        return [max(ages)] if ages else []

    return values


PAGE = Measure("page p50", "ms", _each(lambda r: statistics.median(r.seconds) * 1000), is_per_series=True)
CPU = _cost("exporter CPU", lambda r: r.exporter)
PAGE_MEAN = Measure("page mean", "ms", _each(lambda r: statistics.fmean(r.seconds) * 1000), middle=statistics.fmean)
"""Where half of the scrapes read more than the others, their median is one of the one kind or the other by chance."""
SERVER = _cost("server time", lambda r: r.statements)
BACKENDS = _cost("backend CPU", lambda r: r.backends)
RSS = Measure("RSS", "MiB", _each(lambda r: r.rss / _MEBIBYTE), 0, is_per_series=True)
OLDEST = Measure("oldest result", "s", _oldest(), 0, is_compared=False)
FIRST = Measure("start to first page", "ms", lambda result: [result.first_page * 1000], 0, is_compared=False)
IDLE = Measure("RSS idle", "MiB", lambda result: [result.rss_idle / _MEBIBYTE], 0, is_compared=False)
OLDEST_OF_REST = Measure("oldest but sizes and advice", "s", _oldest(but=SIZES_AND_ADVICE), 0, is_compared=False)

MEASURES = (
    PAGE,
    Measure("page max", "ms", _each(lambda r: max(r.seconds) * 1000), is_compared=False),
    CPU,
    SERVER,
    BACKENDS,
    RSS,
    IDLE,
    FIRST,
    Measure("connections", "", _each(lambda r: r.connections), 0, is_compared=False),
    PAGE_MEAN,
    OLDEST,
)
"""Columns of the tables, in this order."""


@dataclass(frozen=True)
class Goal:
    """The most that a measure may be: as a ratio to postgres_exporter if that measure is compared with it."""

    case: str
    exporter: str
    measure: Measure
    most: float


def _goals(case: str, exporter: str, most: Mapping[Measure, float]) -> Iterator[Goal]:
    return (Goal(case, exporter, measure, each) for measure, each in most.items())


GOALS = (
    *_goals(
        "small", SHIPPED.title, {PAGE: 0.5, CPU: 1, SERVER: 0.4, RSS: 2.3, IDLE: 45, FIRST: 600, OLDEST_OF_REST: 30}
    ),
    *_goals("small", EQUAL.title, {PAGE: 1, CPU: 1.5, SERVER: 1}),
    *_goals("statements", SHIPPED.title, {PAGE: 0.5, CPU: 1, SERVER: 0.4}),
    *_goals("statements", EQUAL_STATEMENTS.title, {PAGE: 1, CPU: 1, SERVER: 1}),
    *_goals("tables", SHIPPED.title, {PAGE: 0.032, CPU: 0.022, SERVER: 0.032, RSS: 0.31}),  # as they were before
    *_goals("tables", FRESH.title, {SERVER: 0.325}),  # 30 % less than before
    *_goals("databases", SHIPPED.title, {PAGE: 0.085, CPU: 0.135, SERVER: 0.137, RSS: 1.01}),  # as they were before
    *_goals("sessions_800", SHIPPED.title, {SERVER: 1.5}),
    *_goals("locks_30000", SHIPPED.title, {SERVER: 1}),
)


def report(outcomes: Sequence[Outcome], machine: str, how: str, against: Sequence[str] = ()) -> str:
    """The whole report; ratios to postgres_exporter, and to those named in `against`."""
    load = ", ".join(f"{each.case.name} {each.other_load:.2f}" for each in outcomes)
    parts = [
        f"{machine}. Load of others, in cores: {load}.",
        how,
        *(part for name in (THEIRS, *against) for part in (f"### Ratios to {name}", ratios(outcomes, name))),
        "### Goals",
        goals(outcomes),
        "### Of one scrape",
        figures(outcomes),
        "### Of one scrape, for 1 000 series",
        figures_per_series(outcomes),
        *_section("### For 1 000 more", growth(outcomes)),
        *_section("### Age of what is served: small database, as shipped", ages(outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


def ratios(outcomes: Sequence[Outcome], against: str = THEIRS) -> str:
    """Each exporter beside another one: the ratio of all rounds, with the least and the most of one."""
    compared = [each for each in MEASURES if each.is_compared]
    rows = [
        (o.case.title, each.exporter, *(_spread(measure, each, theirs) for measure in compared))
        for o in outcomes
        if (theirs := o.of(against))
        for each in o.results
        if each is not theirs
    ]
    return table(("case", "exporter", *(each.name for each in compared)), rows)


def figures(outcomes: Sequence[Outcome]) -> str:
    """Every measure of every exporter."""
    rows = [
        (
            *(o.case.title, each.exporter, f"{_page(each).total:,} ({_page(each).own:,})"),
            f"{_page(each).size / 1000:,.0f}",
            *(_number(measure.of(each), measure.digits) for measure in MEASURES),
        )
        for o in outcomes
        for each in o.results
    ]
    return table(("case", "exporter", "series (own)", "page, kB", *(each.head for each in MEASURES)), rows)


def figures_per_series(outcomes: Sequence[Outcome]) -> str:
    """The same for a thousand series that do not speak of the exporter itself."""
    shared = [each for each in MEASURES if each.is_per_series]
    rows = []
    for o in outcomes:
        for each in o.results:
            thousands = (_page(each).total - _page(each).own) / 1000
            values = [(measure.of(each) or 0.0) / thousands if thousands else None for measure in shared]
            rows.append((o.case.title, each.exporter, *(_number(value, 2) for value in values)))
    return table(("case", "exporter", *(each.head for each in shared)), rows)


def growth(outcomes: Sequence[Outcome]) -> str:
    """The slope of costs between the least and the most sessions, and locks; empty where there are not two."""
    grown = {"sessions": [case.name for case in SESSIONS], "locks": [case.name for case in LOCKS]}
    rows = [
        row for what, names in grown.items() for row in _slopes(what, [o for o in outcomes if o.case.name in names])
    ]
    head = ("more", "exporter", *(each.head for each in (PAGE, CPU, SERVER, BACKENDS)))
    return table(head, rows) if rows else ""


def _slopes(what: str, outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    if len(outcomes) < 2:
        return
    few, many = outcomes[0], outcomes[-1]
    thousands = (getattr(many.case.load, what) - getattr(few.case.load, what)) / 1000
    for result in many.results:
        if before := few.of(result.exporter):
            rises = [(m.of(result) or 0) - (m.of(before) or 0) for m in (PAGE, CPU, SERVER, BACKENDS)]
            yield (what, result.exporter, *(_number(rise / thousands, 1) for rise in rises))


_UP_TO = (1.0, 30.0, 60.0, 300.0, 900.0, inf)
"""Seconds that the groups of the table of ages end with."""


def ages(outcomes: Sequence[Outcome]) -> str:
    """Group the series of a small database's page by age; empty where it was not measured."""
    result = next((o.of(SHIPPED.title) for o in outcomes if o.case.name == SMALL.name), None)
    if not result:
        return ""
    found, series = ages_of(result), series_of(result)
    rows = [
        (_between(least, most), ", ".join(sorted(there)), f"{sum(series.get(name, 0) for name in there):,}")
        for least, most in pairwise((-1.0, *_UP_TO))
        if (there := [name for name, age in found.items() if least < age <= most])
    ]
    return table(("oldest", "collectors", "series"), rows)


def _between(least: float, most: float) -> str:
    return f"up to {most:g} s" if isfinite(most) else f"more than {least:g} s"


def ages_of(result: Result) -> dict[str, float]:
    """Collector -> the oldest of its results in any round."""
    found: dict[str, float] = {}
    for each in result.rounds:
        for name, age in each.oldest.items():
            found[name] = max(found.get(name, 0.0), age)
    return found


def series_of(result: Result) -> dict[str, int]:
    """Collector -> its series on the last page."""
    names = {
        name: collector.name
        for collector in load(BUILT_IN)
        for metric in collector.metrics
        for name in (metric.name, metric.total)
        if name
    }
    found: dict[str, int] = {}
    for name, number in _page(result).series.items():
        if collector := names.get(name):
            found[collector] = found.get(collector, 0) + number
    return found


def goals(outcomes: Sequence[Outcome]) -> str:
    """List each goal, and whether it is met."""
    cases = {o.case.name: o for o in outcomes}
    rows = [row for goal in GOALS if goal.case in cases and (row := _judged(goal, cases[goal.case]))]
    return table(("case", "exporter", "what", "measured", "at most", "met"), rows, words=3)


def _judged(goal: Goal, outcome: Outcome) -> tuple[str, ...] | None:
    result, theirs = outcome.of(goal.exporter), outcome.of(THEIRS)
    if not result:
        return None
    if goal.measure.is_compared:
        found = goal.measure.ratio(result, theirs) if theirs else None
    else:
        found = goal.measure.of(result)
    if found is None:
        return None
    what = f"{goal.measure.name}, ratio" if goal.measure.is_compared else goal.measure.head
    met = "yes" if found <= goal.most else "**no**"
    return (outcome.case.title, goal.exporter, what, f"{found:.3g}", f"{goal.most:.3g}", met)


def _page(result: Result) -> Page:
    return result.rounds[-1].page


def _section(head: str, table: str) -> tuple[str, ...]:
    return (head, table) if table else ()


def _spread(measure: Measure, result: Result, other: Result) -> str:
    values = measure.ratios(result, other)
    if not values:
        return ""
    middle = f"**{measure.ratio(result, other):.2f}**"
    return f"{middle} ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else middle


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 2) -> str:
    """Write a table whose first columns are words, and the rest numbers."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
